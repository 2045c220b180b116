"""Publish from anywhere in Django: publish."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import Future
from contextlib import AsyncExitStack

import msgpack
import pytest
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, channel_layers
from django.contrib.auth.models import AnonymousUser, Group, User
from django.db import transaction
from django.db.models.signals import post_save

from filtered_websocket import PublishError
from filtered_websocket import publish as publish_module
from filtered_websocket.checks.settings import IN_MEMORY, PUBSUB
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.disconnect import disconnect_user
from filtered_websocket.hub import registry
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import active_hub
from filtered_websocket.layer.envelope import Batch, group_key
from filtered_websocket.logs import LogThrottle
from filtered_websocket.publish import apublish, apublish_to_user, publish, publish_to_user
from filtered_websocket.publishing.items import new_item
from filtered_websocket.routing import with_websockets
from filtered_websocket.testing import connect, published

from .costs import steps
from .history import driver
from .layer.fake_redis import FakeRedis

app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["news"])


@pytest.fixture
def no_publisher():
    """No thread before, none after."""
    publish_module._close()
    yield
    publish_module._close()


async def test_a_view_in_a_serving_process_reaches_its_clients():
    async with connect(app) as ann, connect(app) as bob:
        publish("from the loop", "news")
        assert await ann.receive() == await bob.receive() == "from the loop"
        await asyncio.to_thread(publish, b"from a thread", "news")
        assert await ann.receive() == b"from a thread"
        await apublish({"n": 1}, "news")
        assert await ann.receive() == '{"n":1}'
        [first, *_] = get_hub().connections
        publish("less", "news", exclude=[first])
        assert await bob.receive() == b"from a thread"
        assert await bob.receive() == '{"n":1}'
        assert await bob.receive() == "less"
        assert await ann.received_nothing()


async def test_another_loop_of_the_process_uses_the_hub_that_serves():
    async with connect(app) as ann:
        await asyncio.to_thread(lambda: asyncio.run(apublish("from another loop", "news")))
        assert await ann.receive() == "from another loop"


@pytest.mark.parametrize(
    ("message", "group", "error"),
    [
        ("\ud800", "news", PublishError),
        (object(), "news", PublishError),
        ("x" * 262_145, "news", PublishError),
        ("x", "", ValueError),
        ("x", None, TypeError),
    ],
)
async def test_what_is_wrong_with_the_call_is_told_by_it(message, group, error):
    with published() as messages:
        with pytest.raises(error):
            publish(message, group)
        with pytest.raises(error):
            await apublish(message, group)
    assert messages == []


def test_without_a_hub_a_capture_takes_the_message():
    with published() as messages:
        publish("text", "news", exclude="me")
        publish(b"\xff", "news")
        publish([1], "news")
        asyncio.run(apublish("again", "news"))
    assert [message.message for message in messages] == ["text", b"\xff", "[1]", "again"]
    assert messages[0].exclude == ("me",) and messages[0].group == "news"


@pytest.mark.django_db(transaction=True)
def test_on_commit_publishes_when_the_transaction_commits_and_only_then():
    with published() as messages:
        with transaction.atomic():
            publish("committed", "news", on_commit=True)
            assert messages == []
        with pytest.raises(KeyError), transaction.atomic():
            publish("rolled back", "news", on_commit=True)
            raise KeyError
    assert [message.message for message in messages] == ["committed"]


@pytest.mark.django_db(transaction=True)
async def test_apublish_on_commit_registers_with_djangos_thread():
    with published() as messages:
        await apublish("no transaction here", "news", on_commit=True)
    assert len(messages) == 1


@pytest.mark.django_db(transaction=True)
async def test_a_connection_publishes_on_commit():
    from .connections.test_connection import message_filter

    def work(web_socket_instance, data):
        with transaction.atomic():
            web_socket_instance.publish("later", on_commit=True)
            web_socket_instance.publish("sooner")

    filters = [message_filter(work, blocking=True)]
    async with connect(filters) as ann, connect(filters) as bob:
        await ann.send("x")
        assert [await bob.receive(), await bob.receive()] == ["sooner", "later"]


# A process that serves nobody


class Foreign:
    """A layer that leaves the process, as far as anybody can see, and takes an event loop."""

    def __init__(self, group_send=None):
        self._inner = InMemoryChannelLayer()
        self.sent = []
        if group_send is not None:
            self.group_send = group_send

    async def group_send(self, group, message):
        self.sent.append(message)

    def __getattr__(self, name):
        return getattr(self._inner, name)


def use(layer):
    channel_layers.set("default", layer)
    return layer


@pytest.fixture
def foreign():
    yield use(Foreign())
    # While the layer is there, the thread's hub needs it.
    publish_module._close()
    channel_layers.backends.clear()


@pytest.fixture
def redis_server(settings):
    server = FakeRedis()
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [{"address": server.url}]}}
    }
    yield server
    publish_module._close()
    server.close()


@pytest.fixture
def counts(monkeypatch):
    """Forgets what other tests counted and logged."""
    monkeypatch.setattr(publish_module, "counts", Counter())
    monkeypatch.setattr(publish_module, "_throttle", LogThrottle())
    return publish_module.counts


def texts(server):
    batches = [msgpack.unpackb(data) for _, _, data in server.published]
    return [item[3].decode() for batch in batches for item in batch.get("m", ())]


def test_redis_has_the_message_when_publish_returns_and_no_thread_was_made(redis_server):
    before = threading.active_count()
    for n in range(3):
        publish(str(n), "news", exclude="me")
        assert texts(redis_server)[-1] == str(n)
    assert publish_module._publisher is None
    assert threading.active_count() - before <= 2  # the server's, one for our connection
    assert msgpack.unpackb(redis_server.published[0][2])["m"][0][4] == {"x": ["me"]}


def test_so_it_has_control_events(redis_server):
    disconnect_user(7)
    assert len(redis_server.published) == 1 and publish_module._publisher is None


async def test_on_an_event_loop_it_is_queued_as_one_must_not_wait(redis_server):
    publish("x", "news")
    await apublish("y", "news")
    assert texts(redis_server) == ["x", "y"]
    assert publish_module._publisher is not None


async def test_a_thread_of_a_process_whose_loop_publishes_too_waits_all_the_same(redis_server):
    await apublish("x", "news")
    await asyncio.to_thread(publish, "y", "news")
    assert texts(redis_server) == ["x", "y"]


def test_the_thread_that_asked_for_counts_queues_nothing_of_others(foreign):
    """It listens to the layer like a hub with connections; publish waits all the same."""
    hub = publish_module.any_hub()
    asyncio.run_coroutine_threadsafe(hub.receive_control(), hub.loop).result()
    assert active_hub() is hub and publish_module.queueing_hub() is None


def test_a_redis_that_does_not_answer_is_an_error_of_the_call(redis_server, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1}
    redis_server.answer = lambda command: None
    with pytest.raises(PublishError, match="may have arrived"):
        publish("x", "news")


@pytest.mark.django_db(transaction=True)
def test_on_commit_it_is_logged_and_counted_and_later_hooks_run(
    redis_server, settings, caplog, counts
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1}
    redis_server.answer = lambda command: None
    ran = []
    with transaction.atomic():
        publish("x", "news", on_commit=True)
        publish("y", "news", on_commit=True)
        transaction.on_commit(lambda: ran.append("later"))
    assert ran == ["later"]
    [record] = caplog.records
    assert record.levelname == "ERROR" and "not published after a commit" in caplog.text
    assert counts["publish_failed"] == 2


@pytest.mark.django_db(transaction=True)
async def test_on_commit_a_full_queue_is_no_error_of_the_transaction_either(monkeypatch, counts):

    def full():
        raise PublishError("the publish queue is full")

    def save():
        with transaction.atomic():
            publish("one more", "news", on_commit=True)

    async with connect(app):
        monkeypatch.setattr(get_hub().publish_queue, "admit", full)
        await sync_to_async(save)()
        assert counts["publish_failed"] == 1


@pytest.mark.parametrize("layers", [{}, {"default": {"BACKEND": IN_MEMORY}}])
def test_where_nobody_can_hear_it_says_so_once_and_makes_no_thread(
    settings, layers, caplog, counts, monkeypatch
):
    monkeypatch.setattr(registry, "_serves", False)
    settings.CHANNEL_LAYERS = layers
    with caplog.at_level(logging.WARNING):
        publish("1", "news")
        publish("2", "news")
        disconnect_user(7)
    assert len(caplog.records) == 1 and "nobody receives it" in caplog.text
    assert publish_module._publisher is None


async def test_on_a_loop_where_nobody_can_hear_it_makes_no_thread_either(settings):
    settings.CHANNEL_LAYERS = {}
    publish("1", "news")
    await apublish("2", "news")
    assert publish_module._publisher is None


def test_a_process_that_serves_and_has_nobody_yet_is_not_warned(
    settings, caplog, counts, monkeypatch
):
    """Under a lone runserver a view publishes before the first page has connected."""
    monkeypatch.setattr(registry, "_serves", False)
    settings.CHANNEL_LAYERS = {}

    async def view(scope, receive, send):
        await sync_to_async(publish)("from a view", "news")

    asyncio.run(with_websockets(view)({"type": "http"}, None, None))
    publish("from a thread of that process", "news")
    assert caplog.text == ""


@pytest.mark.parametrize(("routes", "warned"), [([], True), ([object()], False)])
def test_behind_a_router_of_the_sites_own_a_view_of_a_process_with_routes_is_not_warned(
    settings, caplog, counts, monkeypatch, routes, warned
):
    monkeypatch.setattr(registry, "_serves", False)
    monkeypatch.setattr(registry, "known_routes", lambda: routes)
    settings.CHANNEL_LAYERS = {}

    async def site():
        await sync_to_async(publish)("from a sync view", "news")
        publish("from an async view", "news")

    asyncio.run(site())
    assert ("nobody receives it" in caplog.text) is warned


async def test_what_is_published_while_nobody_is_connected_is_kept_all_the_same(settings, counts):
    settings.FILTERED_WEBSOCKET = {"GROUPS": f"{driver.__name__}.RULES"}
    async with connect(driver.route()) as ann:
        await driver.ask(ann, "join", "room:1")
        at, _ = await driver.ask(ann, "publish", "room:1", "before")
    assert active_hub() is None
    publish("x", "room:1")
    position = await apublish("y", "room:1", idempotency_key="order 1")
    again = await apublish("y", "room:1", idempotency_key="order 1")
    assert again == (at[0], 3, True) and position == (*again[:2], False)
    assert await apublish("not kept", "plain:1") is None
    await asyncio.to_thread(publish, "z", "room:1")
    async with connect(driver.route()) as ann:
        answer, before = await driver.ask(ann, "recover", "room:1", *at[:2])
        assert answer == [True, [at[0], 4, False]] and before == ["x", "y", "z"]


async def test_who_has_joined_meanwhile_gets_what_another_thread_publishes(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"GROUPS": f"{driver.__name__}.RULES"}
    async with connect(driver.route()) as ann:
        await driver.ask(ann, "join", "room:1")
        # As it was when the other thread has looked for a hub.
        monkeypatch.setattr(publish_module, "active_hub", lambda: None)
        for text in ("a", "b"):
            await asyncio.to_thread(publish, text, "room:1", idempotency_key=text)
            await asyncio.to_thread(publish, text, "room:1", idempotency_key=text)
        assert [await ann.receive(), await ann.receive()] == ["a", "b"]
        assert await ann.received_nothing()


# On another layer


def test_on_another_layer_one_thread_sends_and_is_waited_for(foreign, time_enough):
    # Not how many there are: one of a test before may end meanwhile.
    before = set(threading.enumerate())
    for n in range(10):
        publish(str(n), "news")
        assert len(foreign.sent) == n + 1
    assert [message["s"] for message in foreign.sent] == list(range(10))
    asyncio.run(apublish("last", "news"))
    assert [one.name for one in set(threading.enumerate()) - before] == ["fws-publish"]
    publish_module._close()
    assert set(threading.enumerate()) <= before


def test_another_layer_that_fails_is_tried_again_with_the_same_number(foreign):
    failures = [ConnectionError("cut"), ConnectionError("cut")]

    async def group_send(group, message):
        if "s" not in message:
            return  # a probe, which looks for the end of the outage
        foreign.sent.append(message)
        if failures:
            raise failures.pop()

    foreign.group_send = group_send
    publish("x", "news")
    assert [message["s"] for message in foreign.sent] == [0] * 3


@pytest.mark.parametrize("wrong", [ConnectionError("away"), TypeError("cannot serialize")])
def test_another_layer_that_does_not_take_it_is_an_error_of_the_call(foreign, settings, wrong):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1}

    async def group_send(group, message):
        raise wrong

    foreign.group_send = group_send
    with pytest.raises(PublishError, match="did not confirm the message"):
        publish("x", "news")


def test_who_is_interrupted_while_the_thread_sends_leaves_the_turn_to_the_next(
    foreign, monkeypatch
):
    started, ended = threading.Event(), []

    async def group_send(group, message):
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(message)
            raise

    foreign.group_send = group_send

    class Interrupted(Future):
        def result(self, timeout=None):
            started.wait()
            raise KeyboardInterrupt

    real = asyncio.run_coroutine_threadsafe

    def interrupted(coroutine, loop):
        monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", real)
        sending = real(coroutine, loop)
        sending.__class__ = Interrupted
        return sending

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish("x", "news")
    del foreign.group_send
    publish("y", "news")
    assert len(ended) == 1 and len(foreign.sent) == 1


# On an event loop of a process that serves nobody


def test_a_layer_that_fails_is_told_by_apublish_and_logged_for_publish(
    settings, no_publisher, caplog
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1, "PUBLISH_MAX_AGE": 0.2}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [("localhost", 1)]}}
    }
    with pytest.raises(PublishError, match="the channel layer did not confirm 1 messages"):
        asyncio.run(apublish("x", "news"))
    asyncio.run(queue("x"))
    publish_module._close()
    assert "1 messages to 'news' were not sent" in caplog.text
    assert caplog.text.count("lost the channel layer") == 1


async def queue(*messages):
    """Publish on a loop, which does not wait."""
    for message in messages:
        publish(message, "news")


def test_what_cannot_be_sent_at_exit_is_said(settings, foreign, monkeypatch, caplog):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01}
    asyncio.run(queue("x"))
    publisher = publish_module._publisher

    async def never():
        await asyncio.Event().wait()

    monkeypatch.setattr(publisher.hub.publish_queue, "sent", never)
    publish_module._close()
    assert "published messages were not sent at exit" in caplog.text


def test_an_apublish_that_was_cancelled_does_no_harm(foreign, monkeypatch, caplog):
    asyncio.run(queue("w"))
    link = publish_module._publisher.hub.link
    real, cancelled = link.send, threading.Event()

    async def late(batch):
        await asyncio.to_thread(cancelled.wait)
        await real(batch)

    monkeypatch.setattr(link, "send", late)

    async def main():
        waiting = asyncio.ensure_future(apublish("x", "news"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        cancelled.set()

    asyncio.run(main())
    asyncio.run(queue("y"))
    publish_module._close()
    assert caplog.text == ""


def test_after_a_fork_the_parents_thread_is_left_alone(foreign):
    publish("parent", "news")
    parent = publish_module._publisher
    publish_module._forget()
    assert publish_module._publisher is None
    parent.close()


def test_a_forked_child_makes_a_thread_of_its_own(foreign):
    publish("parent", "news")
    parent = publish_module._publisher
    pid = os.fork()
    if pid == 0:
        try:
            publish("child", "news")
            child = publish_module._publisher
            good = child is not parent and child.hub.publish_queue is not parent.hub.publish_queue
        finally:
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert publish_module._publisher is parent


def test_on_a_loop_publishing_does_not_wait_for_a_layer_that_hangs(settings, foreign, caplog):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.2}
    calls = []

    async def group_send(group, message):
        calls.append(message)
        await asyncio.Event().wait()

    foreign.group_send = group_send
    asyncio.run(queue("1", "2", "3"))
    assert len(calls) <= 1  # the first is still hanging: publish returned all the same
    publish_module._close()
    assert "3 published messages were not sent at exit" in caplog.text


async def test_sync_code_called_from_a_view_may_publish():
    async with connect(app) as ann:
        await sync_to_async(publish)("from a sync view", "news")
        assert await ann.receive() == "from a sync view"


@pytest.mark.repeats
def test_a_script_that_publishes_and_ends_says_where_nobody_can_hear_it():
    script = (
        "import django; django.setup()\n"
        "from filtered_websocket.publish import publish\n"
        "publish('x', 'news')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    [line] = done.stderr.splitlines()
    assert done.returncode == 0 and "nobody receives it" in line


# To a user


@pytest.mark.django_db(transaction=True)
async def test_a_view_a_signal_and_a_task_publish_to_every_device_of_a_user():
    ann, bob = User(pk=7, username="ann"), User(pk=77, username="bob")

    def view():
        with transaction.atomic():
            publish_to_user(ann, {"n": 1}, on_commit=True)
            assert active_hub().publish_queue.size == 0

    def told(sender, instance, created, **kwargs):
        publish_to_user(7, f"new: {instance.name}", on_commit=True)

    async with (
        connect([], user=ann, personal=True) as one,
        connect([], user=ann, personal=True) as two,
        connect([], user=bob, personal=True) as other,
    ):
        await sync_to_async(view)()
        post_save.connect(told, sender=Group)
        try:
            await Group.objects.acreate(name="staff")
        finally:
            post_save.disconnect(told, sender=Group)
        await apublish_to_user("7", b"task", exclude=[])
        for client in (one, two):
            assert await client.receive() == '{"n":1}'
            assert await client.receive() == "new: staff"
            assert await client.receive() == b"task"
        assert await other.received_nothing()


def test_a_worker_publishes_to_a_user_when_the_call_returns(redis_server):
    publish_to_user(7, "hi")
    [published] = redis_server.published
    assert published[1].endswith(group_key("user:7").encode())


@pytest.mark.parametrize("nobody", [AnonymousUser(), User(), None, "", True])
def test_who_is_nobody_gets_nothing_but_the_caller_an_error(nobody):
    with pytest.raises(ValueError, match="has no primary key"):
        publish_to_user(nobody, "hi")


async def test_a_name_is_no_user():
    with pytest.raises(ValueError, match="'bob' is no primary key of"):
        publish_to_user("bob", "hi")
    with pytest.raises(ValueError, match="'bob' is no primary key of"):
        await apublish_to_user("bob", "hi")


async def test_users_who_are_online_cost_one_subscription_each_and_no_work_for_others():
    """Counted: how long it takes says little on a busy machine."""
    costs = []
    for online in (10, 100):
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(connect([], user=User(pk=pk), personal=True))
                for pk in range(1, online + 1)
            ]
            hub = get_hub()
            assert len(hub.groups) == online + 1  # that of the route
            items = [new_item("hi")]
            batches = [Batch("o", group_key("user:7"), number, items) for number in range(2)]
            hub.groups.deliver(batches[0])
            costs.append(steps(hub.groups.deliver, batches[1]))
            assert await clients[6].receive() == await clients[6].receive() == "hi"
            assert await clients[7].received_nothing()
    assert costs[0] == costs[1]
