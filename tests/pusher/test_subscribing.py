"""How clients of the Pusher protocol subscribe, sign in, and what they are told."""

import asyncio
import json

import pytest
from django.contrib.auth.models import User

from filtered_websocket import Drop, WebSocketJoinFilter, WebSocketLeaveFilter
from filtered_websocket.disconnect import disconnect_user, subscribe, unsubscribe
from filtered_websocket.exceptions import Close, NotAllowed, PublishError
from filtered_websocket.groups import group
from filtered_websocket.history.base import Retention
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import EVENT
from filtered_websocket.publish import hand_over, publish, publish_to_user
from filtered_websocket.publishing.batches import Keep
from filtered_websocket.publishing.items import new_item
from filtered_websocket.pusher import subscribing
from filtered_websocket.pusher.channels import CACHE_SUFFIX

from ..protocols.clients import LateRefusal
from .clients import app, speak, with_app


async def test_a_public_channel_needs_no_signature_and_hears_the_site():
    async with speak() as ann:
        await ann.say("pusher:subscribe", {"channel": "news"})
        assert await ann.hears("pusher_internal:subscription_succeeded", channel="news") == {}
        publish({"text": "grüße"}, "news")
        data = await ann.hears("message", channel="news")
        assert json.loads(data) == {"text": "grüße"}
        publish("plain text", "news")
        assert await ann.hears("message", channel="news") == "plain text"


async def test_data_may_be_the_text_of_an_object():
    async with speak() as ann:
        await ann.say("pusher:subscribe", json.dumps({"channel": "news"}))
        await ann.hears("pusher_internal:subscription_succeeded", channel="news")


@pytest.mark.parametrize("channel", ["private-a", "private-encrypted-a"])
async def test_a_private_channel_needs_a_signature(channel):
    async with speak() as ann, speak() as bob:
        for auth in (
            None,
            7,
            "",
            "app-key",
            ann.sign("other"),
            bob.signed(channel)["auth"],
            ann.signed(channel)["auth"].replace("app-key", "other-key"),
            ann.signed(channel)["auth"] + "0",
            "app-key:grüße",
        ):
            status, _ = await ann.refused(channel=channel, auth=auth)
            assert status == 401
        assert await ann.subscribe(channel) == {}


async def test_a_signed_subscription_is_not_asked_again():
    def rule(connection):
        asked.append(connection.id)
        return True

    asked = []
    rules = [group("private-a", join=rule, recheck=True), group("open", join=rule)]
    async with speak(rules=rules) as ann:
        await ann.subscribe("private-a")
        await ann.subscribe("open")
        assert len(asked) == 1
        [signed, _] = ann.client.connection.subscriptions.values()
        assert signed.rule.recheck and not signed.is_rechecked
        unsubscribe(ann.client.connection.id, "private-a")
        await ann.hears("pusher:subscription_error", channel="private-a")


async def test_a_second_subscription_changes_nothing():
    async with speak() as ann:
        await ann.subscribe("private-a")
        await ann.subscribe("private-a")
        publish("once", "private-a")
        assert await ann.hears("message", channel="private-a") == "once"
        assert await ann.quiet()


async def test_who_has_unsubscribed_hears_nothing():
    async with speak() as ann:
        await ann.subscribe("news")
        await ann.say("pusher:unsubscribe", {"channel": "news"})
        await ann.say("pusher:unsubscribe", {"channel": "news"})
        await ann.client.settle()
        publish("too late", "news")
        assert await ann.quiet()
        await ann.subscribe("news")


@pytest.mark.parametrize("channel", ["a" * 201, "räume", "a b", "#other", "a:b", "a\n"])
async def test_names_that_are_no_channels(channel):
    async with speak() as ann:
        status, _ = await ann.refused(channel=channel)
        assert status == (401 if channel == "#other" else 400)


async def test_the_rules_of_the_site_decide_about_public_channels_of_their_names():
    async with speak() as ann:
        assert await ann.refused(channel="staff") == (401, "not allowed")
        await ann.subscribe("anything")


async def test_channels_of_another_app_are_groups_of_their_own():
    async with speak() as ann, speak(key="other-key") as bob:
        await ann.subscribe("news")
        await bob.subscribe("news")
        publish("first", "news")
        publish("second", "2:news")
        assert await ann.hears("message", channel="news") == "first"
        assert await bob.hears("message", channel="news") == "second"
        assert await ann.quiet() and await bob.quiet()


async def test_more_groups_than_allowed(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"MAX_GROUPS": 2})
    async with speak() as ann:
        await ann.subscribe("a")
        await ann.subscribe("b")
        assert await ann.refused(channel="c") == (401, "not allowed")


async def test_joins_that_wait_take_room_of_a_signature(settings):
    async def waits(connection):
        return await gate.wait()

    settings.FILTERED_WEBSOCKET = with_app(site={"MAX_GROUPS": 1})
    gate = asyncio.Event()
    async with speak(rules=[group("slow", join=waits), group("<slug:name>")]) as ann:
        joined = ann.client.connection.join("slow")
        assert await ann.refused(**ann.signed("private-c")) == (401, "not allowed")
        gate.set()
        assert await joined
        assert ann.client.connection.groups == {"slow"}


async def test_a_signature_needs_room_as_well(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"MAX_GROUPS": 2})
    async with speak() as ann:
        await ann.subscribe("private-a")
        await ann.subscribe("presence-b", user="ann")
        assert await ann.refused(**ann.signed("private-c")) == (401, "not allowed")
        assert await ann.refused(**ann.signed("presence-d", user="ann")) == (401, "not allowed")
        assert ann.client.connection.groups == {"private-a", "presence-b"}
        await ann.subscribe("private-a")  # once more
        await ann.say("pusher:unsubscribe", {"channel": "private-a"})
        await ann.subscribe("private-c")


# Filters


class Joins(WebSocketJoinFilter):
    seen = []

    @classmethod
    def filter(cls, web_socket_instance, subscription):
        cls.seen.append((subscription.group, subscription.data))
        if subscription.group == "presence-shown":
            subscription.info = {"set": "by a filter"}
        if subscription.group == "dropped":
            raise Drop
        if subscription.group == "broken":
            raise RuntimeError("broken")
        if subscription.group == "closing":
            raise Close(4999, "enough")


class Leaves(WebSocketLeaveFilter):
    seen = []

    @classmethod
    def filter(cls, web_socket_instance, subscription):
        cls.seen.append(subscription.group)


async def test_join_and_leave_filters_see_subscriptions():
    Joins.seen.clear()
    Leaves.seen.clear()
    async with speak([Joins, Leaves]) as ann:
        await ann.subscribe("presence-a", 5, {"name": "Ann"})
        await ann.subscribe("news")
        assert Joins.seen == [
            ("presence-a", {"user_id": "5", "user_info": {"name": "Ann"}}),
            ("news", None),
        ]
        await ann.say("pusher:unsubscribe", {"channel": "news"})
        await ann.client.settle()
        assert Leaves.seen == ["news"]
        assert await ann.refused(channel="dropped") == (401, "not allowed")
        assert await ann.refused(channel="broken") == (500, "internal server error")
        assert (await ann.subscribe("presence-shown", "5"))["presence"]["hash"] == {
            "5": {"set": "by a filter"}
        }
        await ann.say("pusher:subscribe", {"channel": "closing"})
        assert await ann.closed() == 4999


async def test_a_filter_that_leaves_again():
    class LeavesAtOnce(WebSocketJoinFilter):
        @classmethod
        async def filter(cls, web_socket_instance, subscription):
            asyncio.get_running_loop().call_soon(
                lambda: web_socket_instance.leave(subscription.group)
            )

    async with speak([LeavesAtOnce]) as ann:
        status, _ = await ann.refused(channel="news")
        assert status == 401


async def test_the_server_subscribes_and_unsubscribes():
    async with speak() as ann:
        for _ in range(2):
            subscribe(ann.client.connection.id, "news")
            await ann.client.settle()
        publish("one", "news")
        assert await ann.hears("message", channel="news") == "one"
        # Its own subscription finds it there.
        await ann.subscribe("news")
        unsubscribe(ann.client.connection.id, "news")
        told = await ann.hears("pusher:subscription_error", channel="news")
        assert told == {"type": "AuthError", "error": "unsubscribed by the server", "status": 401}
        publish("two", "news")
        assert await ann.quiet()


async def test_a_subscription_by_the_server_outlives_a_refusal_of_the_client():
    rule = LateRefusal()
    async with speak(rules=[group("slow", join=rule.ask)]) as ann:
        await ann.say("pusher:subscribe", {"channel": "slow"})
        await rule.asked.wait()
        own = ann.client.connection
        await own.join("slow", trusted=True)
        rule.may_answer.set()
        await ann.hears("pusher:subscription_error", channel="slow")
        assert own.groups == {"slow"}
        publish("one", "slow")
        assert await ann.hears("message", channel="slow") == "one"
        unsubscribe(own.id, "slow")
        told = await ann.hears("pusher:subscription_error", channel="slow")
        assert told["error"] == "unsubscribed by the server"


async def test_a_subscription_by_the_server_that_has_ended_is_not_told_after_a_refusal():
    rule = LateRefusal()
    async with speak(rules=[group("slow", join=rule.ask)]) as ann:
        await ann.say("pusher:subscribe", {"channel": "slow"})
        await rule.asked.wait()
        await ann.client.connection.join("slow", trusted=True)
        await ann.client.connection.leave("slow")
        rule.may_answer.set()
        told = await ann.hears("pusher:subscription_error", channel="slow")
        assert told["error"] == "not allowed"
        assert await ann.quiet()
        assert ann.client.connection.groups == frozenset()


async def test_the_server_may_subscribe_to_what_a_client_has_joined_and_is_refused(monkeypatch):
    joined, answers = asyncio.Event(), asyncio.Event()

    async def fails(*args):
        join(*args)
        joined.set()
        await answers.wait()
        raise NotAllowed("too late", "news")

    join = subscribing.join
    async with speak() as ann:
        monkeypatch.setattr(subscribing, "join", lambda *args: asyncio.ensure_future(fails(*args)))
        await ann.say("pusher:subscribe", {"channel": "news"})
        await joined.wait()
        await ann.client.connection.join("news", trusted=True)
        publish("one", "news")
        answers.set()
        heard = [await ann.hear(), await ann.hear()]
        assert {one["event"] for one in heard} == {"message", "pusher:subscription_error"}
        assert ann.client.connection.groups == {"news"}


async def test_a_refusal_takes_no_group_of_the_route_away(monkeypatch):
    def refuse(*args, **options):
        raise NotAllowed("this token may not subscribe", "user:7")

    application = app(personal=True)
    async with speak(application=application, user=User(pk=7, username="site")) as ann:
        await ann.sign_in(id="7")
        await ann.hears("pusher:signin_success")
        monkeypatch.setattr(subscribing, "enter", refuse)
        assert (await ann.refused(channel="#server-to-user-7"))[0] == 401
        assert ann.client.connection.groups == {"user:7"}


async def test_a_group_that_is_no_channel_has_its_own_name():
    async with speak() as ann:
        subscribe(ann.client.connection.id, "board:7")
        await ann.client.settle()
        publish("one", "board:7")
        assert await ann.hears("message", channel="board:7") == "one"


async def test_the_latest_publication_of_a_group_with_history(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"GROUPS": "tests.pusher.clients.RULES"})
    async with speak() as ann:
        publish("first", "kept")
        await ann.client.settle()
        await ann.say("pusher:subscribe", {"channel": "kept"})
        await ann.hears("pusher_internal:subscription_succeeded", channel="kept")
        assert await ann.hears("message", channel="kept") == "first"


# Presence


async def test_presence_counts_users_and_tells_of_first_and_last_connections():
    async with speak() as ann:
        here = (await ann.subscribe("presence-a", 5, {"name": "Ann"}))["presence"]
        assert here == {"ids": ["5"], "hash": {"5": {"name": "Ann"}}, "count": 1}
        async with speak() as bob, speak() as bobs_tab:
            here = (await bob.subscribe("presence-a", "bob"))["presence"]
            assert here["count"] == 2 and here["hash"] == {"5": {"name": "Ann"}, "bob": {}}
            assert set(here["ids"]) == {"5", "bob"}
            told = await ann.hears("pusher_internal:member_added", channel="presence-a")
            assert told == {"user_id": "bob", "user_info": {}}
            here = (await bobs_tab.subscribe("presence-a", "bob"))["presence"]
            assert here["count"] == 2
            await bobs_tab.client.close()
            assert await ann.quiet() and await bob.quiet()
        told = await ann.hears("pusher_internal:member_removed", channel="presence-a")
        assert told == {"user_id": "bob"}
        assert await ann.quiet()


@pytest.mark.parametrize(
    "data",
    [
        *(
            "nonsense",
            "[]",
            "{}",
            '{"user_id": ""}',
            '{"user_id": true}',
            '{"user_id": null}',
            None,
        ),
        *(json.dumps({"user_id": user}) for user in ("a" * 129, ["a"])),
    ],
)
async def test_a_member_is_named_by_a_signed_text(data):
    async with speak() as ann:
        signed = f"{ann.socket_id}:presence-a" + ("" if data is None else f":{data}")
        fields = {} if data is None else {"channel_data": data}
        status, error = await ann.refused(channel="presence-a", auth=ann.sign(signed), **fields)
        assert status == 401 and "channel_data" in error


async def test_another_channel_data_than_the_signed_one():
    async with speak() as ann:
        signed = ann.signed("presence-a", "5")
        signed["channel_data"] = signed["channel_data"].replace("5", "6")
        status, _ = await ann.refused(**signed)
        assert status == 401


async def test_a_channel_has_so_many_members(settings):
    settings.FILTERED_WEBSOCKET = with_app(MAX_MEMBERS=1)
    async with speak() as ann, speak() as anns_tab, speak() as bob:
        await ann.subscribe("presence-a", "ann")
        await anns_tab.subscribe("presence-a", "ann")
        status, _ = await bob.refused(**bob.signed("presence-a", "bob"))
        assert status == 4004


async def test_info_that_is_too_long():
    async with speak() as ann:
        signed = ann.signed("presence-a", "ann", "x" * 5000)
        assert await ann.refused(**signed) == (401, "not allowed")


async def test_members_of_the_site_that_nobody_can_name_are_left_out():
    async with speak() as ann, speak() as bob:
        await ann.subscribe("presence-a", "ann")
        subscribe(bob.client.connection.id, "presence-a")
        await bob.client.settle()
        assert await ann.quiet()
        here = await bob.subscribe("presence-a", "bob")
        assert here["presence"]["ids"] == ["ann"]


async def test_while_redis_is_away_a_member_sees_at_least_itself(monkeypatch):
    async with speak() as ann:
        view = ann.client._find()[0]
        monkeypatch.setattr(type(view), "present", lambda self, group: {})
        here = await ann.subscribe("presence-a", "ann", {"name": "Ann"})
        assert here["presence"]["hash"] == {"ann": {"name": "Ann"}}


# Users


async def test_a_user_signs_in_and_is_reached_by_the_site():
    async with speak() as ann:
        await ann.sign_in(id="5", user_info={"name": "Ann"}, watchlist=["6"])
        told = await ann.hears("pusher:signin_success")
        assert json.loads(told["user_data"])["watchlist"] == ["6"]
        channel = "#server-to-user-5"
        await ann.say("pusher:subscribe", {"channel": channel, "auth": ""})
        await ann.hears("pusher_internal:subscription_succeeded", channel=channel)
        publish_to_user("5", {"for": "you"})
        assert json.loads(await ann.hears("message", channel=channel)) == {"for": "you"}
        assert ann.client.connection.user_id == "5"
        # Whose data in a channel with presence is that of the signature.
        here = await ann.subscribe("presence-a")
        assert here["presence"]["hash"] == {"5": {"name": "Ann"}}
        # Again as the same one.
        await ann.sign_in(id="5")
        await ann.hears("pusher:signin_success")
        disconnect_user("5")
        assert await ann.closed() == 4009


async def test_nobody_subscribes_to_another_user():
    async with speak() as ann:
        assert (await ann.refused(channel="#server-to-user-5", auth=""))[0] == 401
        await ann.sign_in(id="6")
        await ann.hears("pusher:signin_success")
        assert (await ann.refused(channel="#server-to-user-5", auth=""))[0] == 401


async def test_users_of_another_app_are_not_those_of_the_site():
    async with speak(key="other-key") as ann:
        await ann.sign_in(id="5")
        await ann.hears("pusher:signin_success")
        channel = "#server-to-user-5"
        await ann.say("pusher:subscribe", {"channel": channel})
        await ann.hears("pusher_internal:subscription_succeeded", channel=channel)
        publish_to_user("5", "for the user of the site")
        disconnect_user("5")
        assert await ann.quiet() and ann.client.connection.user_id is None
        publish("hi", "2:#server-to-user-5")
        assert await ann.hears("message", channel=channel) == "hi"


@pytest.mark.parametrize(
    "data", ["nonsense", "[]", '{"id": 5}', '{"id": ""}', json.dumps({"id": "a" * 129})]
)
async def test_a_user_has_an_id_that_is_a_text(data):
    async with speak() as ann:
        auth = ann.sign(f"{ann.socket_id}::user::{data}")
        await ann.say("pusher:signin", {"auth": auth, "user_data": data})
        assert await ann.error() == 4009
        assert await ann.closed() == 4009


async def test_a_user_who_is_not_signed_or_changes():
    async with speak() as ann:
        await ann.say("pusher:signin", {"auth": ann.sign("other"), "user_data": '{"id": "5"}'})
        assert await ann.error() == 4009
        assert await ann.closed() == 4009
    async with speak() as ann:
        await ann.say("pusher:signin", {"auth": "", "user_data": 5})
        assert await ann.error() == 4009
    async with speak() as ann:
        await ann.sign_in(id="5")
        await ann.hears("pusher:signin_success")
        await ann.sign_in(id="6")
        assert await ann.error() == 4009
        assert await ann.closed() == 4009


async def test_so_many_connections_of_one_user(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"MAX_CONNECTIONS_PER_USER": 1})
    async with speak() as ann, speak() as tab:
        await ann.sign_in(id="5")
        await ann.hears("pusher:signin_success")
        await tab.sign_in(id="5")
        assert await tab.error() == 4200
        assert await tab.closed() == 4200


async def test_the_user_of_the_session_stays_who_they_are():
    user = User(pk=7, username="site")
    async with speak(user=user) as ann:
        await ann.sign_in(id="5")
        await ann.hears("pusher:signin_success")
        assert ann.client.connection.user is user
        await ann.subscribe("news")


async def test_a_user_of_the_site_has_no_channel_before_signing_in():
    application = app(personal=True)
    async with speak(application=application, user=User(pk=7, username="site")) as ann:
        publish_to_user("7", "hi")
        assert await ann.quiet()
        await ann.sign_in(id="7")
        await ann.hears("pusher:signin_success")
        channel = "#server-to-user-7"
        await ann.say("pusher:subscribe", {"channel": channel})
        await ann.hears("pusher_internal:subscription_succeeded", channel=channel)
        publish_to_user("7", "hi")
        assert await ann.hears("message", channel=channel) == "hi"


# What comes meanwhile


async def test_what_comes_while_the_client_is_not_told_yet_waits():
    class Publishes(WebSocketJoinFilter):
        @classmethod
        async def filter(cls, web_socket_instance, subscription):
            view = get_hub().view(web_socket_instance._view.pipeline)
            session = view.pushes.sessions[web_socket_instance.id]
            real = session._subscribing._join

            async def join(*arguments):
                await real(*arguments)
                publish("first", "news")
                await get_hub().settled()

            session._subscribing._join = join

    async with speak([Publishes]) as ann:
        await ann.subscribe("other")
        await ann.client.settle()
        await ann.say("pusher:subscribe", {"channel": "news"})
        await ann.hears("pusher_internal:subscription_succeeded", channel="news")
        assert await ann.hears("message", channel="news") == "first"


async def test_the_layer_does_not_take_it(monkeypatch):
    async with speak() as ann:

        async def stats(group):
            raise PublishError("away")

        store = get_hub().presence.store
        monkeypatch.setattr(type(store), "stats", lambda self, group: stats(group))
        assert await ann.refused(**ann.signed("presence-a", "5")) == (503, "not available")


async def test_a_task_that_is_cancelled_is_no_refusal(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"FILTER_GRACE": 0.1})

    class Waits(WebSocketJoinFilter):
        begun = asyncio.Event()

        @classmethod
        async def filter(cls, web_socket_instance, subscription):
            cls.begun.set()
            await asyncio.Event().wait()

    async with speak([Waits]) as ann:
        await ann.say("pusher:subscribe", {"channel": "news"})
        await Waits.begun.wait()


# With a cache


async def test_a_channel_with_a_cache_that_has_nothing():
    async with speak() as ann:
        for channel in ("cache-a", "private-cache-a", "private-encrypted-cache-a"):
            await ann.subscribe(channel)
            assert await ann.hears("pusher:cache_miss", channel=channel) is None
            await ann.subscribe(channel)
            assert await ann.quiet()
        await ann.subscribe("presence-cache-a", "5")
        await ann.hears("pusher:cache_miss", channel="presence-cache-a")


async def test_a_cache_gives_the_last_event_of_a_backend(settings):
    async with speak() as ann, speak() as bob:
        await cache("cache-a", "old", "first")
        await cache("cache-a", "new", "second")
        await ann.say("pusher:subscribe", {"channel": "cache-a"})
        await ann.hears("pusher_internal:subscription_succeeded", channel="cache-a")
        assert await ann.hears("new", channel="cache-a") == "second"
        # What came while it waited is newer.
        session = bob.client._find()[0].pushes.sessions[bob.client.connection.id]
        real = session._subscribing._cached

        async def cached(*arguments):
            await asyncio.wrap_future(hand_over("cache-a", new_item("live"), None, wait=True))
            hub = get_hub()
            await hub.link.round_trip()
            await hub.settled()
            return await real(*arguments)

        session._subscribing._cached = cached
        await bob.say("pusher:subscribe", {"channel": "cache-a"})
        await bob.hears("pusher_internal:subscription_succeeded", channel="cache-a")
        assert await bob.hears("message", channel="cache-a") == "live"


async def cache(channel, event, text):
    item = new_item(text, meta={EVENT: event})
    keep = Keep(Retention(1, 60.0))
    await asyncio.wrap_future(hand_over(channel + CACHE_SUFFIX, item, keep, wait=True))


async def test_a_cache_that_cannot_be_read_has_nothing(monkeypatch):
    async with speak() as ann:
        feeds = ann.client._find()[0].host.feeds
        for store in (None, Broken()):
            monkeypatch.setattr(type(feeds), "store", store)
            channel = f"cache-{store is None}".lower()
            await ann.subscribe(channel)
            await ann.hears("pusher:cache_miss", channel=channel)


class Broken:
    async def read(self, *arguments):
        raise OSError("away")
