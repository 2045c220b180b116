"""What all processes answer to a question. Orders: ``tests/test_disconnect.py``."""

import asyncio
import json
import threading

import msgpack
import pytest
from asgiref.sync import sync_to_async

from filtered_websocket import publish
from filtered_websocket.api import control
from filtered_websocket.checks.settings import PUBSUB
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub import registry
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import Answer
from filtered_websocket.layer.envelope import CONTROL, Batch, group_key, seal
from filtered_websocket.models import Token
from filtered_websocket.publishing.items import new_item

from ..handshaking import shake_hands
from ..layer.fake_redis import FakeRedis
from ..waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def site():
    """That of the API's tests is none here."""


async def test_connections_are_counted_by_the_token_they_use(monkeypatch):
    monkeypatch.setattr(control, "WAIT", 0.05)
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    clients, records = [], []
    for number in (2, 1):
        record, key = await sync_to_async(Token.objects.create_key)(name="t")
        records.append(record)
        for _ in range(number):
            headers = [("authorization", f"Token {key}".encode())]
            clients.append(await shake_hands(app, headers=headers))
    ids = [record.pk for record in records]
    counted = await asyncio.to_thread(control.count_connections, [*ids, 0])
    assert counted == {ids[0]: 2, ids[1]: 1, 0: 0}
    assert get_hub().grants.counts_asked == {}
    for client in clients:
        await client.close()


async def test_while_the_layer_is_away_nothing_is_known(monkeypatch):
    monkeypatch.setattr(control, "WAIT", 0.05)
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    client = await shake_hands(app)
    get_hub().publish_queue.put = lambda *args: None  # nothing leaves
    assert await asyncio.to_thread(control.count_connections, [1]) is None
    assert await asyncio.to_thread(control.count_members, "*") is None
    assert await asyncio.to_thread(control.describe_processes) is None
    await client.close()


async def test_the_members_of_many_groups_come_in_several_answers(monkeypatch, settings):
    """None of which is longer than a message may be."""
    monkeypatch.setattr(control, "WAIT", 0.2)
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": 400}
    names = [f"group {number:03}" for number in range(100)]
    client = await shake_hands(FilteredWebSocketConsumer.as_asgi(filters=[], groups=names))
    sent = []
    send_control = get_hub().send_control
    get_hub().send_control = lambda event: (sent.append(event), send_control(event))
    found = await asyncio.to_thread(control.count_members, "group 0*")
    assert found == dict.fromkeys(names, 1)
    assert await asyncio.to_thread(control.count_members, "group ?[13579]9") == {
        f"group 0{number}9": 1 for number in range(1, 10, 2)
    }
    assert len(sent) > 6
    await client.close()


def said(process):
    return Answer.read({"tokens": {}, "process": process})


async def test_processes_that_are_known_are_waited_for_and_no_longer(monkeypatch):
    waits = []

    async def wait_for(answers):
        waits.append(len(answers))

    monkeypatch.setattr(control, "wait_for", wait_for)
    monkeypatch.setattr(control, "LATE", 60.0)
    for also_others in (True, False):
        answers, waits[:] = control.Answers(["a", "b"]), []
        waiting = asyncio.ensure_future(answers.wait(also_others))
        for process in ("a", "c", "a"):
            answers.append(said(process))
            await asyncio.sleep(0)
        assert not waiting.done()
        answers.append(said("b"))
        await waiting
        # All have come already.
        await answers.wait(False)
        assert len(waits) == also_others and len(answers) == 4


async def test_a_process_that_has_ended_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(control, "LATE", 0.01)
    answers = control.Answers(["gone"])
    await answers.wait(False)
    assert answers == []


def test_an_answer_says_of_which_process_it_is():
    assert said("a").process == "a"
    assert Answer.read({"tokens": {}, "node": {"name": "b"}}).process == "b"
    assert Answer({}, {}, {}).process == ""


async def test_on_an_event_loop_nobody_may_wait_for_the_answers():
    assert control.count_connections([1]) is None


def test_without_connections_and_without_a_layer_nothing_is_known(settings):
    settings.CHANNEL_LAYERS = {}
    assert control.count_connections([1]) is None


def test_a_process_without_connections_asks_the_layer(monkeypatch):
    """With the in-memory layer, on which only this process answers."""
    monkeypatch.setattr(control, "WAIT", 0.05)
    try:
        assert control.count_connections([1]) == {1: 0}
        assert control.count_connections([2]) == {2: 0}
    finally:
        # Ends the thread and all that it listens with.
        publish._close()


@pytest.fixture
def redis_server(settings, monkeypatch):
    monkeypatch.setattr(control, "WAIT", 0.3)
    server = FakeRedis()
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [{"address": server.url}]}}
    }
    yield server
    publish._close()
    server.close()


def events(command):
    """The control events in a PUBLISH."""
    return [json.loads(item[3]) for item in msgpack.unpackb(command[2])["m"]]


def test_a_process_without_connections_asks_redis_without_an_event_loop(redis_server):
    def answer(command):
        """As two processes that serve, an older one that asks, and a stranger."""
        [event] = events(command)
        for tokens in ({"1": 2, "3": 1}, {"1": 1}):
            said = {"is": "count", "nonce": event["nonce"], "tokens": tokens}
            tell(redis_server, command[1], said)
        tell(redis_server, command[1], {"is": "count", "nonce": "other", "tokens": {"1": 9}})
        tell(redis_server, command[1], {"is": "sweep"})
        for strange in (["no event"], {"is": "count", "nonce": event["nonce"], "tokens": None}):
            tell(redis_server, command[1], strange)
        redis_server.deliver(redis_server.subscribers[0], command[1], b"no envelope")
        return b":1\r\n"

    redis_server.answer = answer
    before = threading.active_count()
    assert control.count_connections([1, 2]) == {1: 3, 2: 0}
    assert publish._publisher is None and threading.active_count() - before <= 2


def tell(server, channel, event):
    batch = Batch("other", group_key(CONTROL), 0, [new_item(event)])
    server.deliver(server.subscribers[0], channel, msgpack.packb(seal(batch)))


def test_where_nobody_serves_all_counts_are_0(redis_server):
    assert control.count_connections([1]) == {1: 0}


def test_a_redis_that_is_away_is_not_known(redis_server, settings):
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.1}
    redis_server.answer = lambda command: None
    assert control.count_connections([1]) is None
    redis_server.close()
    assert control.count_connections([1]) is None


async def test_parts_above_the_hub_answer_questions_of_their_own(monkeypatch):
    """At once and later; then nothing else is answered. Events are handed to them, too."""
    heard = []
    later = []

    def answer(hub, value, send):
        assert hub is get_hub() and value == {"of": "x"}
        send({"own": 1})
        later.append(send)

    monkeypatch.setitem(registry.asked, "own", answer)
    monkeypatch.setitem(registry.told, "own", lambda hub, event: heard.append((hub, event)))
    client = await shake_hands(FilteredWebSocketConsumer.as_asgi(filters=[]))
    hub = get_hub()
    hub.grants.count = lambda: pytest.fail("nobody asked for tokens")
    asking = asyncio.ensure_future(
        control._ask_hub(hub, {"is": "ask", "nonce": "n", "own": {"of": "x"}})
    )
    await until(lambda: later)
    later[0]({"own": 2})
    answers = await asking
    assert [answer.event["own"] for answer in answers] == [1, 2]
    assert all(answer.tokens == {} for answer in answers)
    told = {"is": "count", "nonce": "n", "tokens": {}, "own": 1}
    assert heard == [(hub, told), (hub, {**told, "own": 2})]
    del hub.grants.count
    await client.close()
