"""What the calls of the HTTP API of Pusher Channels do."""

import json

import pytest
from asgiref.sync import sync_to_async

from filtered_websocket.api import pusher_calls
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.history import ahistory, memory
from filtered_websocket.publish import publish_to_user
from filtered_websocket.testing import connect

from ..pusher.clients import speak
from .pusher_calling import SITE, URLS, answer, get, post, trigger


@pytest.fixture(autouse=True)
def site(settings):
    settings.FILTERED_WEBSOCKET = SITE
    settings.ROOT_URLCONF = URLS
    memory.forget_all()


async def later(function, *arguments, **options):
    """In a thread, as Django runs a view."""
    return await sync_to_async(function, thread_sensitive=False)(*arguments, **options)


async def test_an_event_reaches_its_channels_as_the_backend_has_written_it():
    async with speak() as ann, speak() as bob:
        await ann.subscribe("news")
        await bob.subscribe("private-a")
        for data in ('{"a":  [1, "ü"]}', "plain", '"quoted"', "5"):
            sent = await later(trigger, name="order", data=data, channels=["news", "private-a"])
            assert answer(sent) == {}
            assert await ann.hears("order", channel="news") == data
            assert await bob.hears("order", channel="private-a") == data


async def test_who_has_sent_it_by_itself_does_not_get_it():
    async with speak() as ann, speak() as bob:
        for one in (ann, bob):
            await one.subscribe("news")
        answer(await later(trigger, socket_id=ann.socket_id))
        assert await bob.hears("e", channel="news") == "{}"
        assert await ann.quiet()


async def test_a_batch_is_published_in_order():
    async with speak() as ann:
        await ann.subscribe("news")
        events = [{"name": f"n{n}", "data": str(n), "channel": "news"} for n in range(3)]
        events[1]["info"] = "subscription_count"
        told = answer(await later(post, "/apps/1/batch_events", {"batch": events}))
        assert told == {"batch": [{}, {"subscription_count": 1}, {}]}
        assert [await ann.hears(f"n{n}", channel="news") for n in range(3)] == ["0", "1", "2"]
        del events[1]["info"]
        assert answer(await later(post, "/apps/1/batch_events", {"batch": events})) == {}


async def test_a_user_and_another_app():
    async with speak() as ann, speak(key="other-key") as bob:
        for one in (ann, bob):
            await one.sign_in(id="5")
            await one.hears("pusher:signin_success")
            await one.say("pusher:subscribe", {"channel": "#server-to-user-5"})
            await one.hears("pusher_internal:subscription_succeeded", channel="#server-to-user-5")
        answer(await later(trigger, channel="#server-to-user-5"))
        assert await ann.hears("e", channel="#server-to-user-5") == "{}"
        body = {"name": "e", "data": "other", "channels": ["#server-to-user-5"]}
        answer(await later(post, "/apps/2/events", body, app=2))
        assert await bob.hears("e", channel="#server-to-user-5") == "other"
        assert await ann.quiet()
        # Only those who have signed in to this app.
        path = "/apps/1/users/5/terminate_connections"
        assert answer(await later(post, path, {})) == {}
        assert await ann.closed() == 4009
        publish_to_user("5", "nobody")
        assert await bob.quiet()
        assert answer(await later(post, "/users/5/terminate_connections", {}, app=2)) == {}
        assert await bob.closed() == 4009


WRONG = [
    ({"name": ""}, 400),
    ({"name": 5}, 400),
    ({"name": "n" * 201}, 400),
    ({"name": "pusher:error"}, 400),
    ({"name": "pusher_internal:member_added"}, 400),
    ({"data": {"a": 1}}, 400),
    ({"data": None}, 400),
    ({"data": "x" * 10_241}, 413),
    ({"channel": ""}, 400),
    ({"channel": "a b"}, 400),
    ({"channel": "#server-to-user-"}, 400),
    ({"channel": "#other"}, 400),
    ({"channels": ["a"] * 101}, 400),
    ({"channels": [5]}, 400),
    ({"channels": "news"}, 400),
    ({"channels": ["private-encrypted-a", "news"]}, 400),
    ({"socket_id": "1"}, 400),
    ({"info": "colour"}, 400),
]


@pytest.mark.parametrize(("fields", "status"), WRONG)
def test_a_wrong_event(fields, status):
    assert trigger(**fields).status_code == status


def test_an_encrypted_channel_alone_and_an_event_that_says_little():
    assert trigger(channels=["private-encrypted-a"]).status_code == 200
    assert post("/apps/1/events", {"name": "e", "channel": "news"}).status_code == 400


@pytest.mark.parametrize("batch", [[], [5], "x", [{"name": "e", "data": "", "channel": "a"}] * 11])
def test_a_wrong_batch(batch):
    assert post("/apps/1/batch_events", {"batch": batch}).status_code == 400


# Who is there


async def test_connections_of_an_app():
    where = "/apps/1/connections"
    assert answer(await later(get, where)) == {"connections": 0}
    plain = FilteredWebSocketConsumer.as_asgi(filters=[])
    async with speak(), speak(), speak(key="other-key"), connect(plain):
        assert answer(await later(get, where)) == {"connections": 2}
        assert answer(await later(get, "/apps/2/connections", app=2)) == {"connections": 1}


async def test_channels_that_have_subscribers():
    async with speak() as ann, speak() as bob, speak(key="other-key") as other:
        await ann.subscribe("news")
        await bob.subscribe("news")
        await other.subscribe("theirs")
        for one in (ann, bob):
            await one.subscribe("presence-a", "same")
        found = answer(await later(get, "/apps/1/channels"))
        assert found == {"channels": {"news": {}, "presence-a": {}}}
        found = await later(get, "/apps/2/channels", app=2, info="subscription_count")
        assert answer(found) == {"channels": {"theirs": {"subscription_count": 1}}}
        found = await later(get, "/apps/1/channels", filter_by_prefix="new")
        assert answer(found) == {"channels": {"news": {}}}
        found = await later(
            get, "/apps/1/channels", info="user_count", filter_by_prefix="presence-"
        )
        assert answer(found) == {"channels": {"presence-a": {"user_count": 1}}}
        assert (await later(get, "/apps/1/channels", info="user_count")).status_code == 400

        where = "/apps/1/channels/presence-a"
        found = answer(await later(get, where, info="user_count,subscription_count"))
        assert found == {"occupied": True, "user_count": 1, "subscription_count": 2}
        found = answer(await later(get, "/apps/1/channels/empty", info="subscription_count"))
        assert found == {"occupied": False, "subscription_count": 0}
        refused = await later(get, "/apps/1/channels/news", info="user_count")
        assert refused.status_code == 400
        assert answer(await later(get, f"{where}/users")) == {"users": [{"id": "same"}]}
        sent = await later(trigger, channels=["news", "presence-a"], info="user_count")
        assert answer(sent) == {"channels": {"news": {}, "presence-a": {"user_count": 1}}}


def test_questions_about_what_is_no_channel():
    assert get("/apps/1/channels/news/users").status_code == 400
    assert get("/apps/1/channels/a b/users").status_code == 400
    assert get("/apps/1/channels/a b").status_code == 400
    assert post(f"/apps/1/users/{'a' * 129}/terminate_connections", {}).status_code == 400


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(pusher_calls, "is_alone", lambda: False)
    monkeypatch.setattr(pusher_calls, "count_members", lambda pattern: None)
    assert get("/apps/1/channels").status_code == 503
    monkeypatch.setattr(pusher_calls, "count_in_all", lambda *question: None)
    assert get("/apps/1/connections").status_code == 503
    monkeypatch.setattr(pusher_calls, "close", lambda *arguments: False)
    assert post("/apps/1/users/5/terminate_connections", {}).status_code == 503


# With a cache


async def test_a_cache_has_the_last_event_of_a_backend():
    where = "/apps/1/channels/cache-a"
    assert answer(await later(get, where, info="cache")) == {"occupied": False, "cache": None}
    for text in ("first", "second"):
        answer(await later(trigger, channel="cache-a", data=text))
    found = answer(await later(get, where, info="cache"))["cache"]
    assert found["data"] == "second" and 0 < found["ttl"] <= 1800
    async with speak() as ann:
        await ann.subscribe("cache-a")
        assert await ann.hears("e", channel="cache-a") == "second"
        answer(await later(trigger, channel="cache-a", data="live"))
        assert await ann.hears("e", channel="cache-a") == "live"
        assert await ann.quiet()
    assert answer(await later(get, "/apps/1/channels/news", info="cache")) == {"occupied": False}


async def test_a_group_with_a_history_keeps_events():
    answer(await later(trigger, channel="kept", data='{"n": 1}'))
    page = await ahistory("kept")
    assert [json.loads(one.data) for one in page.publications] == [{"n": 1}]
    assert [one.item.meta["e"] for one in page.publications] == ["e"]
