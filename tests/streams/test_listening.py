"""Pages that only listen, by an EventSource."""

import asyncio
import json
import re
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.urls import path

from filtered_websocket import Drop, WebSocketConnectFilter, WebSocketJoinFilter
from filtered_websocket.groups import History, group, personal
from filtered_websocket.history.base import Position
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publish import apublish
from filtered_websocket.routing import with_websockets
from filtered_websocket.streams import listening, stream
from filtered_websocket.streams.formats import Places
from filtered_websocket.transports import Response

from ..protocols.clients import app, speak
from .clients import Request

pytestmark = pytest.mark.django_db
KEPT = History(size=3, ttl=60)
RULES = [
    group("news", publish=True),
    group("kept", publish=True, history=KEPT),
    group("other", publish=True, history=KEPT),
    group("board", join=False),
    group("present", presence=True, join_leave=True),
    personal(history=KEPT),
]
ASKS = (b"accept", b"text/event-stream")


def site_of(filters=(), rules=RULES, **options):
    routes = [path("connection/websocket", app(filters, rules))]
    return with_websockets(page, routes, protocols=True, **options)


async def page(scope, receive, send):
    """The site's own."""
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


@pytest.fixture(autouse=True)
def groups(settings):
    """What is published by the site is kept by the same rules."""
    settings.FILTERED_WEBSOCKET = {"GROUPS": f"{__name__}.RULES"}


@pytest.fixture
def site():
    return site_of()


@pytest.fixture
async def others(site):
    """Somebody else is connected: else the histories in memory end with the page's connection."""
    async with speak(application=site, path="/connection/websocket") as bob:
        for name in ("kept", "other"):
            await bob.ask(subscribe={"channel": name})
        yield


class Source:
    """As a browser's EventSource. ``async with`` it where it is to be open."""

    def __init__(self, site, *groups, last="", path="/events/", headers=(), **options):
        query = urlencode([("group", name) for name in groups]).encode()
        sent = [(b"last-event-id", last.encode())] if last else []
        self.request = Request(
            site, "GET", path, query=query, headers=[ASKS, *sent, *headers], **options
        )
        self.last = last
        self.retry = None
        self.pings = 0

    async def __aenter__(self):
        await self.request.start()
        assert self.request.status == 200, await self.request.part()
        assert self.request.headers[b"content-type"] == b"text/event-stream"
        assert self.request.headers[b"x-accel-buffering"] == b"no"
        return self

    async def __aexit__(self, *_):
        await self.request.leave()

    async def hear(self):
        """The next event as name and data; None at the end (HTML standard section 9.2.6)."""
        while (block := await self.request.message(b"\n\n")) is not None:
            name, data = "message", []
            for line in block.decode().split("\n"):
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if field == "id":
                    self.last = value
                elif field == "event":
                    name = value
                elif field == "data":
                    data.append(value)
                elif field == "retry":
                    self.retry = int(value)
                elif line == ":":
                    self.pings += 1
            if data:
                return name, "\n".join(data)
        return None

    async def hears(self, count):
        return [(await self.hear())[1] for _ in range(count)]

    @property
    def connection(self):
        return list(get_hub().connections.values())[-1]


async def refused(site, *groups, **options):
    request = Source(site, *groups, **options).request
    status = await request.answer()
    return status, request.body.decode()


def logged_in(monkeypatch, user):
    async def found(scope):
        return user

    monkeypatch.setattr("filtered_websocket.routing.session_user", found)


# What a page hears


async def test_each_message_of_its_groups_is_an_event(site):
    async with (
        Source(site, "news", "kept") as page,
        speak(application=site, path="/connection/websocket") as bob,
    ):
        await bob.ask(subscribe={"channel": "news"})
        await bob.say({"id": 7, "publish": {"channel": "news", "data": {"n": 1}}})
        assert await page.hear() == ("message", '{"n":1}')
        await apublish("one\r\ntwo\rthree\n", "kept", event="cha\nt")
        assert await page.hear() == ("cha t", "one\ntwo\nthree\n")
        await apublish("data: <b>grüße</b>", "news", event="message")
        assert await page.hear() == ("message", "data: <b>grüße</b>")
        await apublish(b"bytes", "news")
        assert await page.hear() == ("message", "bytes")
        assert 2_000 <= page.retry <= 8_000


async def test_bytes_that_are_no_text_do_not_reach_it_and_are_counted(site):
    async with Source(site, "news") as page:
        hub = get_hub()
        await apublish(b"\xff", "news")
        await apublish("after", "news")
        assert await page.hears(1) == ["after"]
        assert hub.counts["not_json"] == 1


async def test_what_is_pushed_to_it_alone_has_no_id(site):
    async with Source(site, "kept") as page:
        await apublish("a", "kept")
        await page.hear()
        last = page.last
        page.connection.push("a text\nof two lines")
        page.connection.push({"a": 1})
        assert await page.hears(2) == ["a text\nof two lines", '{"a":1}']
        assert page.last == last
        with pytest.raises(ValueError, match="cannot be sent bytes"):
            page.connection.push(b"\xff")


async def test_filters_see_an_anonymous_connection_of_the_usual_route():
    seen = []

    class See(WebSocketConnectFilter):
        @classmethod
        def filter(cls, web_socket_instance, handshake):
            seen.append((handshake.path, handshake.query_string, web_socket_instance.user_id))

    site = site_of([See])
    async with Source(site, "news", path="/app/events/", root_path="/app"):
        assert seen == [("/app/connection/websocket", "group=news", None)]


async def test_it_may_say_nothing(site):
    async with Source(site, "news") as page:
        body = json.dumps({"session": page.connection.id, "node": "", "data": "{}"}).encode()
        assert await Request(site, "POST", "/emulation", body).answer() == 404


async def test_a_ping_is_a_comment_and_answered_once_it_was_sent(site, monkeypatch):
    monkeypatch.setattr("filtered_websocket.protocols.timers.PING", 0.01)
    monkeypatch.setattr("filtered_websocket.protocols.timers.PONG", 8)
    async with Source(site, "news") as page:
        while page.pings < 3:
            block = await page.request.message(b"\n\n")
            page.pings += block == b":"
        assert not page.connection.closing


# Coming back


async def test_who_comes_back_gets_what_was_missed_of_each_group_in_order(site, others):
    async with Source(site, "kept", "news", "other") as page:
        for number in range(2):
            await apublish("ab"[number], "kept")
        await apublish("A", "other")
        assert await page.hears(3) == ["a", "b", "A"]
    assert re.fullmatch(r"[\w.~%-]+", page.last, re.ASCII)
    for name, text in (("kept", "c"), ("other", "B"), ("news", "gone"), ("kept", "d")):
        await apublish(text, name)
    async with Source(site, "kept", "news", "other", last=page.last) as again:
        assert await again.hears(3) == ["c", "d", "B"]
        await apublish("e", "kept")
        assert await again.hears(1) == ["e"]
    query = {"last_event_id": page.last}
    async with Source(site, "kept", "other") as fresh:
        await apublish("f", "kept")
        assert await fresh.hears(1) == ["f"]
    async with Source(site, "other", last=fresh.last) as one:
        await apublish("C", "other")
        assert await one.hears(1) == ["C"]
    query = urlencode({"group": "kept", **query}).encode()
    request = Request(site, "GET", "/events/", query=query, headers=[ASKS])
    await request.start()
    # More was published than is kept.
    assert b"event: gap\ndata: kept\n\n" in await request.part() + await request.part()
    await request.leave()


async def test_an_id_is_there_before_anything_was_published(site, others):
    async with Source(site, "kept") as page:
        await apublish("x", "news")  # nothing to hear: the first block has the id
        page.connection.push("now")
        await page.hear()
    await apublish("a", "kept")
    async with Source(site, "kept", last=page.last) as again:
        assert await again.hears(1) == ["a"]


@pytest.mark.parametrize("last", ["nonsense", "a.b", "g.e.-1", "s_.e.1", "g.%FF.1", "."])
async def test_an_id_that_is_none_is_a_gap_of_each_group_with_history(site, last):
    async with Source(site, "kept", "news", last=last) as page:
        heard = {await page.hear(), await page.hear()}
        assert ("gap", "kept") in heard
        assert page.last != last


async def test_an_epoch_that_has_gone_is_a_gap(site, others):
    async with Source(site, "kept") as page:
        await apublish("a", "kept")
        await page.hear()
    key, _, offset = page.last.split(".")
    async with Source(site, "kept", last=f"{key}.gone.{offset}") as again:
        assert await again.hear() == ("gap", "kept")
        assert again.last == page.last


async def test_a_group_that_keeps_nothing_any_more_is_a_gap(site):
    places = Places(["kept"], "")
    places.begin("kept", Position("e.~/", 5))
    last = places.line.decode().removeprefix("id: ").strip()
    without = site_of(rules=[group("kept")])
    async with Source(without, "kept", last=last) as page:
        assert await page.hear() == ("gap", "kept")


async def test_what_is_lost_while_it_is_connected_is_read_again(site):
    async with Source(site, "kept") as page:
        await apublish("a", "kept")
        assert await page.hears(1) == ["a"]
        view = page.connection._view
        view.pushes.lose("kept")
        await apublish("b", "kept")
        assert await page.hears(1) == ["b"]
        await apublish("c", "kept")
        assert await page.hears(1) == ["c"]


async def test_a_slow_start_does_not_keep_what_has_come(site, others, monkeypatch):
    """One page may ask for more than a process could keep for it."""
    async with Source(site, "kept") as page:
        await apublish("a", "kept")
        await page.hear()
    await apublish("b", "kept")
    monkeypatch.setattr(listening, "MOST_HELD", 0)
    async with Source(site, "kept", "other", "board", last=page.last) as again:
        assert await again.hears(1) == ["b"]
        assert await again.hear() == ("unsubscribe", "board")
        await apublish("A", "other")
        assert await again.hears(1) == ["A"]
        assert again.last.count("~") == 1


async def test_where_it_cannot_be_read_again_the_page_comes_back(others, monkeypatch):
    ill = []

    class Fail(WebSocketJoinFilter):
        @classmethod
        def filter(cls, web_socket_instance, subscription):
            if ill:
                raise LookupError

    async with Source(site_of([Fail]), "kept") as page:
        await apublish("a", "kept")
        await page.hear()
        last = page.last
        ill.append(True)
        page.connection._view.pushes.lose("kept")
        assert await page.hear() is None
    assert page.last == last != ""


async def test_a_group_that_the_server_joins_later_is_heard_with_its_place(site, others):
    async with Source(site, "news", "present") as page:
        await page.connection.join("kept", trusted=True)
        async with speak(application=site, path="/connection/websocket") as bob:
            await bob.ask(subscribe={"channel": "present"})  # who joins is no message
            await apublish("a", "kept")
            assert await page.hears(1) == ["a"]
    await apublish("b", "kept")
    assert page.last.startswith("s")


# Who may


@pytest.mark.parametrize(
    ("groups", "status", "words"),
    [
        (["nothing"], 404, "group 'nothing': unknown channel\n"),
        (["news", "board"], 403, "group 'board': permission denied\n"),
        (["board", "nothing", "news"], 403, "group 'board': permission denied\n"),
        (["#5"], 403, "group '#5': permission denied\n"),
        (["x" * 2000], 404, None),
        ([""], 400, "a group has a name\n"),
        ([], 400, "name a group: ?group=NAME\n"),
        ([str(number) for number in range(33)], 400, "at most 32 groups\n"),
    ],
)
async def test_who_is_refused_is_told_why_in_a_line(site, groups, status, words):
    answer = await refused(site, *groups)
    assert answer[0] == status and words in (None, answer[1])
    assert not get_hub().connections


async def test_replies_after_a_refusal_are_not_sent(site, monkeypatch):
    class Slow(Response):
        async def room(self):
            await all_there.wait()

    all_there = asyncio.Event()

    class Join(WebSocketJoinFilter):
        @classmethod
        def filter(cls, web_socket_instance, subscription):
            all_there.set()

    monkeypatch.setattr(stream, "find_response", lambda send: Slow())
    assert (await refused(site_of([Join]), "board", "news"))[0] == 403


async def test_a_filter_may_refuse():
    class Refuse(WebSocketConnectFilter):
        @classmethod
        def filter(cls, web_socket_instance, handshake):
            raise Drop

    assert (await refused(site_of([Refuse]), "news"))[0] == 403


async def test_where_another_try_may_help_a_browser_comes_back(settings):
    class Fail(WebSocketJoinFilter):
        @classmethod
        def filter(cls, web_socket_instance, subscription):
            raise LookupError

    sites = [site_of([Fail]), site_of()]
    for site in sites:
        source = Source(site, "news")
        assert await source.request.answer() == 200
        retry = re.search(rb"retry: (\d+)\n\n$", source.request.body)
        assert 10_000 <= int(retry[1]) <= 30_000
        settings.FILTERED_WEBSOCKET |= {"MAX_CONNECTIONS": 0}


async def test_pages_of_other_sites_may_not(site):
    for one in ((b"origin", b"https://evil.example"), (b"sec-fetch-site", b"cross-site")):
        assert (await refused(site, "news", headers=[one]))[0] == 403


async def test_a_page_of_the_site_at_the_same_path_stays(site):
    for options in ({"headers": []}, {"headers": [(b"accept", b"text/html,*/*")]}):
        request = Request(site, "GET", "/events/", query=b"group=news", **options)
        assert await request.answer() == 299
    assert await Request(site, "POST", "/events/", headers=[ASKS]).answer() == 299
    elsewhere = site_of(events="/live")
    async with Source(elsewhere, "news", path="/live"):
        assert (await refused(elsewhere, "news"))[0] == 299
    for nowhere in (site_of(events=""), with_websockets(page, [])):
        assert (await refused(nowhere, "news"))[0] == 299


@pytest.mark.django_db(transaction=True)  # the user is of another thread's transaction
async def test_a_user_hears_the_own_group_and_recovers_it(site, others, monkeypatch):
    user = await User.objects.acreate(username="ann")
    own, own_group = f"#{user.pk}", f"user:{user.pk}"
    logged_in(monkeypatch, user)
    async with Source(site) as page:
        await apublish("to you", own_group)
        assert await page.hears(1) == ["to you"]
    await apublish("missed", own_group)
    async with Source(site, own, last=page.last) as again:
        assert await again.hears(1) == ["missed"]
    # Another one has no part in that.
    logged_in(monkeypatch, AnonymousUser())
    async with Source(site, "news", last=page.last) as other:
        await apublish("a", "news")
        assert await other.hears(1) == ["a"]
    assert other.last == page.last  # no id was sent


# How it ends


async def test_a_final_end_is_told_and_the_browser_that_comes_back_is_sent_away(site):
    async with Source(site, "news") as page:
        page.connection.close(4403, "revoked")
        assert await page.hear() == ("close", '{"code":3507,"reason":"revoked"}')
        assert await page.hear() is None
    assert page.last == "!"
    assert await refused(site, "news", last=page.last) == (204, "")


async def test_after_a_restart_it_comes_back_by_itself(site):
    async with Source(site, "kept") as page:
        await apublish("a", "kept")
        await page.hear()
        last = page.last
        await get_hub().drain.close_all(4200, "the server ends", 60)
        assert await page.hear() is None
    assert page.last == last


async def test_groups_end_one_by_one(site, monkeypatch):
    logged_in(monkeypatch, None)
    async with Source(site, "news", "kept") as page:
        connection = page.connection
        connection.leave("kept")
        assert await page.hear() == ("unsubscribe", "kept")
        await apublish("still", "news")
        assert await page.hears(1) == ["still"]
        connection.leave("news")
        assert await page.hear() == ("unsubscribe", "news")
        assert (await page.hear())[0] == "close"
        assert page.last == "!"
