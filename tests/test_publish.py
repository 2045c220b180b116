"""Publish from anywhere in Django: publish."""

import asyncio
import logging
import os
import subprocess
import sys
import threading

import pytest
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, channel_layers
from django.db import transaction

from filtered_websocket import PublishError
from filtered_websocket import publish as publish_module
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.publish import apublish, publish
from filtered_websocket.testing import connect, published

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


def test_a_process_without_websockets_warns_once_that_nobody_can_hear(
    settings, no_publisher, caplog
):
    settings.CHANNEL_LAYERS = {}
    with caplog.at_level(logging.WARNING):
        publish("1", "news")
        publish("2", "news")
        asyncio.run(apublish("3", "news"))
    assert len(caplog.records) == 1 and "nobody can hear it" in caplog.text


def test_a_process_without_websockets_has_one_thread_for_all_publishes(no_publisher):
    before = threading.active_count()
    for n in range(10):
        publish(str(n), "news")
    asyncio.run(apublish("last", "news"))
    assert threading.active_count() == before + 1
    publish_module._close()
    assert threading.active_count() == before


def test_a_layer_that_fails_is_told_by_apublish_and_logged_for_publish(
    settings, no_publisher, caplog
):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1, "PUBLISH_MAX_AGE": 0.2}
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [("localhost", 1)]},
        }
    }
    with pytest.raises(PublishError, match="the channel layer did not confirm 1 messages"):
        asyncio.run(apublish("x", "news"))
    publish("x", "news")
    publish_module._close()
    assert "1 messages to 'news' were not sent" in caplog.text
    assert caplog.text.count("lost the channel layer") == 1


def test_what_cannot_be_sent_at_exit_is_said(settings, no_publisher, monkeypatch, caplog):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.01}
    publish("x", "news")
    publisher = publish_module._publisher

    async def never():
        await asyncio.Event().wait()

    monkeypatch.setattr(publisher.hub.publish_queue, "sent", never)
    publish_module._close()
    assert "published messages were not sent at exit" in caplog.text


def test_an_apublish_that_was_cancelled_does_no_harm(no_publisher, monkeypatch, caplog):
    publish("w", "news")
    batches = publish_module._publisher.hub.publish_queue
    real, cancelled = batches._send, threading.Event()

    async def late(batch):
        await asyncio.to_thread(cancelled.wait)
        await real(batch)

    monkeypatch.setattr(batches, "_send", late)

    async def main():
        waiting = asyncio.ensure_future(apublish("x", "news"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        cancelled.set()

    asyncio.run(main())
    publish("y", "news")
    publish_module._close()
    assert caplog.text == ""


def test_after_a_fork_the_parents_thread_is_left_alone(no_publisher):
    publish("parent", "news")
    parent = publish_module._publisher
    publish_module._forget()
    assert publish_module._publisher is None
    parent.close()


def test_a_forked_child_makes_a_thread_of_its_own(no_publisher):
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


def test_publishing_does_not_wait_for_a_layer_that_hangs(settings, no_publisher, caplog):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.2}

    class Hanging(InMemoryChannelLayer):
        calls = 0

        async def group_send(self, group, message):
            Hanging.calls += 1
            await asyncio.Event().wait()

    channel_layers.set("default", Hanging())
    try:
        for n in range(3):
            publish(str(n), "news")
        assert Hanging.calls <= 1  # the first is still hanging: publish returned all the same
        publish_module._close()
    finally:
        channel_layers.backends.clear()
    assert "3 published messages were not sent at exit" in caplog.text


async def test_sync_code_called_from_a_view_may_publish():
    async with connect(app) as ann:
        await sync_to_async(publish)("from a sync view", "news")
        assert await ann.receive() == "from a sync view"


def test_a_script_that_publishes_and_ends_has_published(tmp_path):
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
    assert (done.returncode, done.stderr) == (0, "")
