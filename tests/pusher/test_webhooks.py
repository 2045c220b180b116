"""What backends are told of channels, and when."""

import asyncio
import hashlib
import hmac
import json
import socket
import threading
from contextlib import contextmanager
from http.client import BadStatusLine, InvalidURL, LineTooLong

import pytest
from django.db import DatabaseError

from filtered_websocket.models import PusherApp
from filtered_websocket.presence.base import Event, Info, pack_info
from filtered_websocket.pusher import webhooks
from filtered_websocket.pusher.apps import app_of_id
from filtered_websocket.pusher.webhooks import Sender, note_presence

from ..waiting import wait_until
from .clients import app, speak, with_app
from .receivers import Receiver


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nobody has to wait; what waits is sent, and threads end, with the test."""
    monkeypatch.setattr(webhooks, "SETTLE", 0.05)
    monkeypatch.setattr(webhooks, "IDLE", 0.2)
    monkeypatch.setattr(webhooks, "MAX_PAUSE", 0.05)
    monkeypatch.setattr(webhooks, "_throttle", webhooks.LogThrottle())
    webhooks.counts.clear()
    yield
    webhooks.close()
    assert wait_until(lambda: not hook_threads())


def hook_threads():
    return [one for one in threading.enumerate() if one.name.startswith("fws-webhook")]


def hooked(receiver, **options):
    return with_app(WEBHOOKS=[{"URL": receiver.url, **options}])


async def told(receiver, count):
    return await asyncio.to_thread(receiver.told, count)


async def test_channels_and_members_that_come_and_go(settings):
    with Receiver() as receiver:
        settings.FILTERED_WEBSOCKET = hooked(receiver)
        application = app()
        async with speak(application=application) as ann:
            await ann.subscribe("presence-a", 5)
            assert sorted(await told(receiver, 2), key=str) == [
                {"name": "channel_occupied", "channel": "presence-a"},
                {"name": "member_added", "channel": "presence-a", "user_id": "5"},
            ]
            async with speak(application=application) as tab, speak(application=application) as bob:
                await tab.subscribe("presence-a", 5)
                await bob.subscribe("presence-a", "bob")
                await bob.subscribe("news")
                added = (await told(receiver, 4))[2:]
                assert {one["name"]: one for one in added} == {
                    "member_added": {
                        "name": "member_added",
                        "channel": "presence-a",
                        "user_id": "bob",
                    },
                    "channel_occupied": {"name": "channel_occupied", "channel": "news"},
                }
            gone = (await told(receiver, 6))[4:]
            assert {one["name"]: one["channel"] for one in gone} == {
                "member_removed": "presence-a",
                "channel_vacated": "news",
            }
        left = (await told(receiver, 8))[6:]
        assert {one["name"] for one in left} == {"member_removed", "channel_vacated"}
        assert len(receiver.events) == 8
        headers, body = receiver.requests[0]
        assert headers["X-Pusher-Key"] == "app-key"
        assert headers["X-Pusher-Signature"] == app_of_id("1").sign(body)
        assert headers["Content-Type"] == "application/json"
        assert json.loads(body)["time_ms"] > 1_600_000_000_000


async def test_who_comes_back_at_once_had_not_gone(settings, monkeypatch):
    monkeypatch.setattr(webhooks, "SETTLE", 60.0)
    with Receiver() as receiver:
        settings.FILTERED_WEBSOCKET = hooked(receiver)
        application = app()
        async with speak(application=application) as ann:
            for _ in range(2):
                async with speak(application=application) as bob:
                    await bob.subscribe("presence-a", "bob")
            await ann.subscribe("news")
            names = [(one["name"], one["channel"]) for one in await told(receiver, 3)]
        assert sorted(names) == [
            ("channel_occupied", "news"),
            ("channel_occupied", "presence-a"),
            ("member_added", "presence-a"),
        ]


async def test_who_has_come_back_elsewhere_had_not_gone(settings):
    """The leave was this process's, and the join another one's."""
    with Receiver() as receiver:
        settings.FILTERED_WEBSOCKET = hooked(receiver)
        async with speak() as ann:
            await ann.subscribe("presence-a", "ann")
            await told(receiver, 2)
            index = webhooks.index_of(app_of_id("1"))
            note_presence("presence-a", [event("leave", "ann")])
            assert await asyncio.to_thread(wait_until, lambda: not hook_threads())
            for group, user in (("presence-a", "bob"), (index, "presence-a")):
                note_presence(group, [event("leave", user)])
            gone = (await told(receiver, 3))[2:]
            assert gone == [{"name": "member_removed", "channel": "presence-a", "user_id": "bob"}]


def event(kind, user, is_users=True):
    return Event(1, kind, "c", pack_info(Info(user)), is_users)


async def test_client_events_and_cache_misses(settings):
    with Receiver() as receiver:
        names = ["client_event", "cache_miss"]
        settings.FILTERED_WEBSOCKET = hooked(receiver, EVENTS=names)
        async with speak() as ann:
            await ann.subscribe("presence-a", 5)
            await ann.subscribe("private-a")
            await ann.say("client-typed", {"a": 1}, channel="presence-a")
            await ann.say("client-typed", "text", channel="private-a")
            await ann.subscribe("cache-a")
            found = await told(receiver, 3)
        about = {"name": "client_event", "event": "client-typed", "socket_id": ann.socket_id}
        assert found == [
            {**about, "channel": "presence-a", "data": '{"a":1}', "user_id": "5"},
            {**about, "channel": "private-a", "data": "text"},
            {"name": "cache_miss", "channel": "cache-a"},
        ]


async def test_channels_of_users_are_nobody_elses(settings):
    with Receiver() as receiver:
        settings.FILTERED_WEBSOCKET = hooked(receiver)
        async with speak() as ann:
            await ann.sign_in(id="5")
            await ann.hears("pusher:signin_success")
            await ann.say("pusher:subscribe", {"channel": "#server-to-user-5"})
            await ann.hears("pusher_internal:subscription_succeeded", channel="#server-to-user-5")
            await ann.subscribe("news")
            found = await told(receiver, 1)
        assert found == [{"name": "channel_occupied", "channel": "news"}]


def test_a_hook_is_told_of_its_channels_only(settings):
    with Receiver() as receiver, Receiver() as other:
        settings.FILTERED_WEBSOCKET = with_app(
            WEBHOOKS=[
                {"URL": receiver.url, "PREFIX": "a", "SUFFIX": "z", "HEADERS": {"X-Own": "yes"}},
                {"URL": other.url},
            ]
        )
        for channel in ("az", "ab", "bz"):
            webhooks.tell(app_of_id("1"), {"name": "cache_miss", "channel": channel})
        webhooks.tell(app_of_id("2"), {"name": "cache_miss", "channel": "az"})
        assert len(other.told(3)) == 3
        assert receiver.told(1) == [{"name": "cache_miss", "channel": "az"}]
        headers, body = receiver.requests[0]
        assert headers["X-Own"] == "yes"
        assert headers["X-Pusher-Signature"] == app_of_id("1").sign(body)


def test_an_app_that_is_changed_keeps_its_sender_which_signs_with_the_new_secret(settings):
    with Receiver() as receiver:
        for number, secret in enumerate(("old", "new")):
            settings.FILTERED_WEBSOCKET = with_app(SECRET=secret, WEBHOOKS=[{"URL": receiver.url}])
            webhooks.tell(app_of_id("1"), miss(number))
            receiver.told(number + 1)
            headers, body = receiver.requests[number]
            assert headers["X-Pusher-Signature"] == signature(secret, body)
        assert len(webhooks._senders) == len(hook_threads()) == 1
        settings.FILTERED_WEBSOCKET = hooked(receiver, HEADERS={"X-Own": "yes"})
        webhooks.tell(app_of_id("1"), miss(2))
        receiver.told(3)
        assert receiver.requests[2][0]["X-Own"] == "yes"


def signature(secret, body):
    return hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()


def test_a_sender_ends_with_its_thread_and_the_next_event_has_another(settings):
    with Receiver() as receiver:
        settings.FILTERED_WEBSOCKET = hooked(receiver)
        for number in range(2):
            webhooks.tell(app_of_id("1"), miss(number))
            receiver.told(number + 1)
            assert wait_until(lambda: not hook_threads())
            assert webhooks._senders == {}


async def test_nobody_is_told_without_a_hook(settings):
    note_presence("presence-a", [event("join", "ann")])
    webhooks.tell(app_of_id("1"), {"name": "cache_miss", "channel": "a"})
    assert hook_threads() == []


async def test_what_nobody_asks_of_presence(settings):
    with Receiver() as receiver:
        settings.FILTERED_WEBSOCKET = hooked(receiver)
        note_presence("presence-a", [event("join", None), event("join", "ann", is_users=False)])
        note_presence("news", [event("join", "ann")])
        note_presence("2:presence-a", [event("join", "ann")])
        note_presence("presence-a", [event("join", "bob")])
        assert [one["user_id"] for one in await told(receiver, 1)] == ["bob"]


# Receivers that do not answer


@pytest.fixture
def sender(settings):
    def make(url):
        settings.FILTERED_WEBSOCKET = with_app(WEBHOOKS=[{"URL": url}])
        made = app_of_id("1")
        return Sender(made, made.webhooks[0])

    return make


def miss(number=0):
    return {"name": "cache_miss", "channel": f"a{number}"}


def test_a_batch_is_sent_again_as_it_was_until_it_is_taken(caplog, sender):
    with Receiver(500, 302, 404) as receiver:
        one = sender(receiver.url)
        one.put(miss())
        receiver.told(4)
        one.put(miss(1))
        receiver.told(5)
        one.close().join()
    bodies = [body for _, body in receiver.requests]
    assert bodies[0] == bodies[1] == bodies[2] == bodies[3] != bodies[4]
    assert caplog.text.count("it is sent again") == 1
    assert webhooks.counts["dropped"] == 0


@pytest.mark.parametrize(
    "error", [BadStatusLine("garbage"), LineTooLong("header line"), InvalidURL("no port")]
)
def test_what_is_no_http_is_asked_again(error, monkeypatch, sender):
    post, errors = Sender._post, [error]

    def answer(self, body):
        if errors:
            raise errors.pop()
        post(self, body)

    monkeypatch.setattr(Sender, "_post", answer)
    with Receiver() as receiver:
        one = sender(receiver.url)
        one.put(miss())
        assert receiver.told(1) == [miss()]
        one.close().join()
    assert webhooks.counts["dropped"] == 0


def test_what_nobody_takes_is_dropped_in_the_end(monkeypatch, caplog, sender):
    monkeypatch.setattr(webhooks, "GIVE_UP", 0.2)
    one = sender("http://127.0.0.1:9/")
    one.put(miss())
    assert wait_until(lambda: webhooks.counts["dropped"] == 1)
    assert "events were not told" in caplog.text
    one.close()


def test_many_events_are_told_in_few_requests_and_so_many_wait_at_most(monkeypatch, sender):
    monkeypatch.setattr(webhooks, "MAX_WAITING", 150)
    with Receiver() as receiver:
        one = sender(receiver.url)
        with one._changed:
            for number in range(160):
                one.put(miss(number))
        found = receiver.told(150)
        one.close()
    assert [event["channel"] for event in found] == [f"a{number}" for number in range(150)]
    assert len(receiver.requests) == 2 and webhooks.counts["dropped"] == 10


class Clock:
    """Time goes on while a sender waits only; it is its lock as well."""

    def __init__(self):
        self.now, self.pauses = 0.0, []

    def monotonic(self):
        return self.now

    time = monotonic

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def wait_for(self, is_over, seconds):
        assert not is_over()
        self.pauses.append(seconds)
        self.now += seconds


@pytest.mark.parametrize(
    ("takes", "pauses"),
    [(0, [1, 2, 4, 8, 16, 32, 60, 60, 60]), (10, [1, 2, 4, 8, 16, 32, 60, 60])],
)
def test_pauses_grow_and_after_five_minutes_a_batch_is_given_up(
    takes, pauses, monkeypatch, caplog, sender
):
    clock, tried = Clock(), []

    def fail(self, body):
        tried.append(body)
        clock.now += takes
        raise TimeoutError("timed out")

    monkeypatch.setattr(webhooks, "MAX_PAUSE", 60.0)
    monkeypatch.setattr(webhooks, "time", clock)
    monkeypatch.setattr(Sender, "_post", fail)
    one = sender("http://127.0.0.1:9/")
    one._changed = clock
    one._deliver([miss(), miss(1)])
    assert clock.pauses == pauses
    assert len(tried) == len(pauses) + 1 and len(set(tried)) == 1
    assert clock.now + 60 > 300 >= clock.now
    assert webhooks.counts["dropped"] == 2
    assert caplog.text.count("events were not told: TimeoutError('timed out') (2 so far)") == 1


def test_a_batch_is_signed_with_the_secret_of_now(settings, monkeypatch, sender):
    with Receiver(500) as receiver:
        one, post = sender(receiver.url), Sender._post

        def change(self, body):
            try:
                post(self, body)
            finally:
                hook = {"URL": receiver.url}
                settings.FILTERED_WEBSOCKET = with_app(SECRET="new", WEBHOOKS=[hook])

        monkeypatch.setattr(Sender, "_post", change)
        one._deliver([{**miss(), "data": "ü"}])
        for (headers, body), secret in zip(receiver.requests, ("app-secret", "new"), strict=True):
            assert headers["X-Pusher-Signature"] == signature(secret, body)
        assert receiver.requests[0][1] == receiver.requests[1][1]


@pytest.mark.django_db(transaction=True)
def test_the_same_of_an_app_of_the_admin_and_nothing_once_it_is_deleted(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"PUSHER_APPS_IN_ADMIN": True}
    with Receiver(500) as receiver:
        row, old = PusherApp.objects.create_app(name="shop", webhooks=[{"URL": receiver.url}])
        found, post, secrets = app_of_id(row.app_id), Sender._post, [old]

        def change(self, body):
            try:
                post(self, body)
            finally:
                secrets.append(row.set_new_secret())
                row.save()

        monkeypatch.setattr(Sender, "_post", change)
        one = Sender(found, found.webhooks[0])
        one.put(miss())
        receiver.told(2)
        one.close().join()
        for (headers, body), secret in zip(receiver.requests, secrets, strict=False):
            assert headers["X-Pusher-Signature"] == signature(secret, body)
        row.delete()
        one = Sender(found, found.webhooks[0])
        one.put(miss())
        one.close().join()
        assert len(receiver.requests) == 2


@pytest.mark.parametrize("change", ["deleted", "disabled", "without the address"])
def test_an_app_that_is_not_to_be_told_any_more_is_not(settings, change, caplog, sender):
    with Receiver() as receiver:
        one, hook = sender(receiver.url), {"URL": receiver.url}
        settings.FILTERED_WEBSOCKET = {
            "deleted": {"PUSHER_APPS": []},
            "disabled": with_app(ENABLED=False, WEBHOOKS=[hook]),
            "without the address": with_app(WEBHOOKS=[{"URL": "http://127.0.0.1:9/"}]),
        }[change]
        one.put(miss())
        one.close().join()
        assert receiver.requests == [] and webhooks.counts["dropped"] == 0
    assert "webhook" not in caplog.text


def test_while_the_database_is_away_the_secret_that_is_known_is_used(monkeypatch, sender):
    with Receiver() as receiver:
        one = sender(receiver.url)

        def away(app_id):
            raise DatabaseError

        monkeypatch.setattr(webhooks, "app_of_id", away)
        one._deliver([miss()])
        headers, body = receiver.requests[0]
        assert headers["X-Pusher-Signature"] == signature("app-secret", body)


@contextmanager
def silent():
    """The address of one who takes connections and never answers; a call cuts them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/hook"
        server.setblocking(False)
        server.accept()[0].close()


def test_a_receiver_that_never_answers_is_left_after_a_while(monkeypatch, caplog, sender):
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.05)
    monkeypatch.setattr(webhooks, "GIVE_UP", 0.0)
    with silent() as url:
        one = sender(url)
        one.put(miss())
        assert wait_until(lambda: webhooks.counts["dropped"] == 1)
        one.close().join()
    assert "events were not told: TimeoutError('timed out')" in caplog.text


def test_a_receiver_that_never_answers_costs_the_others_nothing(settings, monkeypatch):
    monkeypatch.setattr(webhooks, "MAX_WAITING", 3)
    with Receiver() as receiver, silent() as url:
        settings.FILTERED_WEBSOCKET = with_app(WEBHOOKS=[{"URL": url}, {"URL": receiver.url}])
        webhooks.tell(app_of_id("1"), miss())
        [blocked] = [one for one in webhooks._senders.values() if one._hook.url == url]
        assert wait_until(lambda: not blocked._waiting)
        for number in range(1, 6):
            receiver.told(number)
            webhooks.tell(app_of_id("1"), miss(number))
        assert len(receiver.told(6)) == 6
        # Beside the batch that is sent.
        assert len(blocked._waiting) == 3 and webhooks.counts["dropped"] == 2


def test_at_the_end_of_the_process_what_waits_is_sent(monkeypatch, sender):
    monkeypatch.setattr(webhooks, "SETTLE", 60.0)
    with Receiver() as receiver:
        one = sender(receiver.url)
        one.put(miss(), gone=("presence-a", "ann"))
        one.close().join()
        assert receiver.events == [miss()]
    one = sender("http://127.0.0.1:9/")
    one.put(miss())
    one.close().join()
    assert webhooks.counts["dropped"] == 1
    assert sender("http://127.0.0.1:9/").close() is None


def test_while_redis_is_away_who_has_gone_is_told(monkeypatch, sender):
    def away(group):
        raise ConnectionError

    monkeypatch.setattr(webhooks, "presence", away)
    with Receiver() as receiver:
        one = sender(receiver.url)
        one.put(miss(), gone=("presence-a", "ann"))
        assert receiver.told(1) == [miss()]
        one.close()


def test_an_error_of_ours_ends_no_thread(monkeypatch, caplog, sender):
    def broken(group):
        raise RuntimeError("broken")

    monkeypatch.setattr(webhooks, "presence", broken)
    with Receiver() as receiver:
        one = sender(receiver.url)
        for number in range(2):
            one.put(miss(number), gone=("presence-a", str(number)))
            assert wait_until(lambda: not one._waiting)
        assert wait_until(lambda: webhooks.counts["dropped"] == 2)
        assert caplog.text.count("failed") == 1
        one.put(miss(2))
        assert receiver.told(1) == [miss(2)]
        one.close()


def test_after_a_fork_nobody_is_told_by_the_child(sender):
    webhooks._senders["x"] = sender("http://127.0.0.1:9/")
    webhooks._forget()
    assert webhooks._senders == {}
