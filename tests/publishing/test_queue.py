"""The queue of messages to publish."""

import asyncio
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from filtered_websocket import PublishError
from filtered_websocket.history.base import Position
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.publishing import queue
from filtered_websocket.publishing.batches import MAX_BATCH
from filtered_websocket.publishing.items import new_item
from filtered_websocket.publishing.queue import PublishQueue
from filtered_websocket.publishing.sender import MAX_GROUPS, MAX_SENDS
from filtered_websocket.threads.tasks import Tasks

from .. import waiting
from ..waiting import limited


class Layer:
    def __init__(self):
        self.sent = []
        self.failed = []
        self.error = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.back = asyncio.Event()
        self.back.set()
        self.told = asyncio.Event()
        self.tasks = set()
        self.publish_queue = PublishQueue(
            Tasks(Counter()), lambda: self, lambda *args: self.fail(*args)
        )

    @property
    def is_available(self):
        return self.back.is_set()

    def post(self, batch, on_sent):
        self.sent.append(batch)
        task = asyncio.ensure_future(self._send(on_sent))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _send(self, on_sent):
        await self.gate.wait()
        on_sent(self.error)

    def fail(self, *args):
        self.failed.append(args)
        self.told.set()

    async def wait_available(self, deadline):
        waiting = asyncio.ensure_future(self.back.wait())
        try:
            await asyncio.wait({waiting}, timeout=deadline - time.monotonic())
        finally:
            waiting.cancel()
            await asyncio.wait({waiting})
        return self.back.is_set()


async def until(condition):
    """A few turns of the loop."""
    await waiting.until(condition, 0)


def payloads(batch):
    return [item.payload for item in batch.items]


async def test_each_message_of_a_batch_is_told_its_own_place():
    layer = Layer()
    layer.error = Position("e", 7)
    places = [asyncio.get_running_loop().create_future() for _ in range(3)]
    for place in places:
        layer.publish_queue.put("g", new_item("x"), place)
    assert [await place for place in places] == [Position("e", offset) for offset in (5, 6, 7)]
    assert places[2].result() is layer.error


async def test_what_is_published_while_a_send_is_in_flight_leaves_together():
    layer = Layer()
    layer.gate.clear()
    layer.publish_queue.put("g", new_item("1"))
    await asyncio.sleep(0)
    layer.publish_queue.put("g", new_item("2"))
    layer.publish_queue.put("g", new_item("3"))
    layer.publish_queue.put("h", new_item("4"))
    await asyncio.sleep(0)
    assert [payloads(batch) for batch in layer.sent] == [[b"1"], [b"4"]]
    layer.gate.set()
    await layer.publish_queue.sent()
    assert [payloads(batch) for batch in layer.sent] == [[b"1"], [b"4"], [b"2", b"3"]]
    assert [batch.first for batch in layer.sent] == [0, 0, 1]
    assert layer.sent[0].key == group_key("g") and layer.publish_queue.size == 0


async def test_a_publish_that_is_captured_is_sent_too(monkeypatch):
    seen = []
    monkeypatch.setattr(queue, "captures", [lambda *call: seen.append(call)])
    layer, item = Layer(), new_item("1")
    layer.publish_queue.put("g", item)
    await layer.publish_queue.sent()
    assert seen == [("g", item)] and len(layer.sent) == 1


async def test_a_batch_is_bounded_in_messages_and_bytes():
    layer = Layer()
    for _ in range(MAX_BATCH + 1):
        layer.publish_queue.put("g", new_item("x"))
    for _ in range(6):
        layer.publish_queue.put("h", new_item("x" * 262_144))
    for _ in range(6):
        layer.publish_queue.put("i", new_item("x" * 70_000))
    await layer.publish_queue.sent()
    sizes = {}
    for batch in layer.sent:
        sizes.setdefault(batch.key, []).append(len(batch.items))
    assert sizes == {
        group_key("g"): [MAX_BATCH, 1],
        group_key("h"): [1] * 6,
        group_key("i"): [4, 2],
    }


async def test_a_batch_that_the_layer_refuses_is_reported_and_not_sent_again():
    layer = Layer()
    layer.error = ValueError("no envelope")
    done = asyncio.get_running_loop().create_future()
    given_up = asyncio.get_running_loop().create_future()
    given_up.cancel()
    layer.publish_queue.put("g", new_item("1"))
    layer.publish_queue.put("g", new_item("2"), done)
    layer.publish_queue.put("g", new_item("3"), given_up)
    await layer.publish_queue.sent()
    with pytest.raises(PublishError, match="no envelope"):
        await done
    [(group, items, error)] = layer.failed
    assert group == "g" and [item.payload for item in items] == [b"1"]
    assert isinstance(error.__cause__, ValueError)
    layer.error = None
    layer.publish_queue.put("g", new_item("4"))
    await layer.publish_queue.sent()
    assert payloads(layer.sent[-1]) == [b"4"] and layer.sent[-1].first == 3


async def test_a_failure_is_reported_to_the_publisher_that_waits_and_nobody_else():
    layer = Layer()
    layer.error = ValueError()
    done = asyncio.get_running_loop().create_future()
    layer.publish_queue.put("g", new_item("1"), done)
    with pytest.raises(PublishError):
        await done
    await layer.publish_queue.sent()
    assert layer.failed == []


async def test_apublish_is_told_when_the_layer_has_it():
    layer = Layer()
    done, given_up = (asyncio.get_running_loop().create_future() for _ in range(2))
    given_up.cancel()
    layer.publish_queue.put("g", new_item("1"), done)
    layer.publish_queue.put("g", new_item("1"), given_up)
    await done
    await layer.publish_queue.sent()


async def test_what_waits_too_long_fails(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_MAX_AGE": 1e-9}
    layer = Layer()
    layer.publish_queue.put("g", new_item("1"))
    await layer.publish_queue.sent()
    assert layer.sent == [] and layer.publish_queue.size == 0
    assert "waited over" in str(layer.failed[0][2])


async def test_what_is_published_while_the_layer_is_away_is_kept_and_sent_in_order():
    layer = Layer()
    layer.back.clear()
    for word in "123":
        layer.publish_queue.put("g", new_item(word))
        await asyncio.sleep(0)
    await layer.publish_queue.settled()
    assert layer.publish_queue.is_settled and layer.sent == [] and layer.publish_queue.size == 3
    layer.back.set()
    await layer.publish_queue.sent()
    assert [payloads(batch) for batch in layer.sent] == [[b"1", b"2", b"3"]]
    assert layer.failed == []


async def test_a_batch_that_may_have_arrived_is_sent_again_with_its_numbers_before_any_other():
    layer = Layer()
    layer.error = TimeoutError()
    layer.gate.clear()
    layer.publish_queue.put("g", new_item("1"))
    await until(lambda: layer.sent)
    layer.back.clear()
    layer.gate.set()
    layer.publish_queue.put("g", new_item("2"))
    await layer.publish_queue.settled()
    layer.error = None
    layer.back.set()
    await layer.publish_queue.sent()
    assert [payloads(batch) for batch in layer.sent] == [[b"1"], [b"1"], [b"2"]]
    assert layer.sent[0] == layer.sent[1] and layer.sent[2].first == 1
    assert layer.failed == []


async def test_a_batch_that_the_layer_fails_again_and_again_is_given_up():
    layer = Layer()
    layer.error = ConnectionError("flapping")
    layer.publish_queue.put("g", new_item("1"))
    await layer.publish_queue.sent()
    assert len(layer.sent) == MAX_SENDS and len(layer.failed) == 1


async def test_what_grows_too_old_while_the_layer_is_away_fails_without_it(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_MAX_AGE": 0.05}
    layer = Layer()
    layer.back.clear()
    for word in "12":
        layer.publish_queue.put("g", new_item(word))
    await layer.publish_queue.settled()
    async with limited():
        await layer.told.wait()
        await layer.publish_queue.sent()
    assert [len(items) for _, items, _ in layer.failed] == [2]
    layer.back.set()
    layer.publish_queue.put("g", new_item("3"))
    await layer.publish_queue.sent()
    # They had no number yet: receivers miss none.
    assert [batch.first for batch in layer.sent] == [0]


async def test_a_batch_that_was_sent_grows_too_old_too(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_MAX_AGE": 0.05}
    layer = Layer()
    layer.error = ConnectionError("reset")
    layer.gate.clear()
    layer.publish_queue.put("g", new_item("1"))
    await until(lambda: layer.sent)
    layer.back.clear()
    layer.gate.set()
    async with limited():
        await layer.publish_queue.sent()
    assert "reset" in str(layer.failed[0][2]) and len(layer.sent) == 1


async def test_what_is_given_up_is_told_to_its_publishers():
    layer = Layer()
    layer.gate.clear()
    layer.publish_queue.put("g", new_item("in flight"))
    await until(lambda: layer.sent)
    done = asyncio.get_running_loop().create_future()
    layer.publish_queue.put("g", new_item("behind"), done)
    layer.publish_queue.put("h", new_item("not begun"))
    await layer.publish_queue.give_up()
    assert [len(items) for _, items, _ in layer.failed] == [1, 1]
    with pytest.raises(PublishError, match="1 messages to 'g' were not sent"):
        await done
    assert layer.publish_queue.size == 0 and layer.publish_queue.is_settled
    await layer.publish_queue.give_up()
    layer.gate.set()
    layer.publish_queue.put("g", new_item("again"))
    await layer.publish_queue.sent()
    assert payloads(layer.sent[-1]) == [b"again"] and layer.sent[-1].first == 1


async def test_the_queue_is_bounded_and_tells_when_there_is_room(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE": 4}
    layer = Layer()
    layer.gate.clear()
    for _ in range(4):
        layer.publish_queue.admit(new_item("x"))
        layer.publish_queue.put_admitted("g", new_item("x"))
        await asyncio.sleep(0)  # the first leaves alone
    assert layer.publish_queue.budget.crowded
    with pytest.raises(PublishError, match="the publish queue is full"):
        layer.publish_queue.check_room(new_item("x"))
    room = asyncio.ensure_future(layer.publish_queue.budget.wait_room())
    await asyncio.sleep(0)
    assert not room.done()
    layer.gate.set()
    await room
    assert not layer.publish_queue.budget.crowded
    await layer.publish_queue.sent()


async def test_the_queue_is_bounded_in_bytes(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE_BYTES": 11_000}
    layer = Layer()
    layer.gate.clear()
    for _ in range(4):
        layer.publish_queue.admit(new_item("x" * 2000))
        layer.publish_queue.put_admitted("g", new_item("x" * 2000))
    assert layer.publish_queue.budget.crowded
    layer.publish_queue.check_room(new_item("x"))
    with pytest.raises(PublishError, match=r"is full \(4 messages, 9600 bytes\)"):
        layer.publish_queue.admit(new_item("x" * 2000))
    # Those of the package itself are always queued.
    layer.publish_queue.put("g", new_item("x" * 2000))
    layer.gate.set()
    await layer.publish_queue.budget.wait_room()
    await layer.publish_queue.sent()
    assert layer.publish_queue.budget.bytes == layer.publish_queue.size == 0


async def test_many_threads_do_not_find_the_last_place(settings):
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE": 10}
    layer, loop, refused = Layer(), asyncio.get_running_loop(), []

    def publish():
        try:
            layer.publish_queue.admit(new_item("x"))
        except PublishError as error:
            refused.append(error)
        else:
            loop.call_soon_threadsafe(layer.publish_queue.put_admitted, "g", new_item("x"))

    threads = [threading.Thread(target=publish) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert layer.publish_queue.size == 10 and len(refused) == 40
    await until(lambda: layer.sent)
    await layer.publish_queue.sent()
    assert sum(len(batch.items) for batch in layer.sent) == 10 and layer.publish_queue.size == 0


async def test_a_bound_that_is_lowered_while_messages_wait_holds_at_once(settings):
    layer = Layer()
    layer.gate.clear()
    layer.publish_queue.put("g", new_item("1"))
    layer.publish_queue.check_room(new_item("x"))
    settings.FILTERED_WEBSOCKET = {"PUBLISH_QUEUE": 1}
    with pytest.raises(PublishError, match="the publish queue is full"):
        layer.publish_queue.check_room(new_item("x"))
    layer.gate.set()
    await layer.publish_queue.sent()
    layer.publish_queue.check_room(new_item("x"))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("\ud800", "surrogates not allowed"),
        ({"a": {1, 2}}, "not JSON serializable"),
        ([float("inf")], "not JSON compliant"),
        (3, "a message is str, bytes, dict or list, not int"),
        ("x" * 262_145, "MAX_MESSAGE_SIZE is 262144"),
        ("ü" * 131_073, "cannot publish 262146 bytes"),
    ],
)
def test_what_cannot_be_published_is_an_error_of_the_call(message, words):
    with pytest.raises(PublishError, match=words):
        new_item(message)


def test_a_message_nested_too_deep_is_an_error_of_the_call():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PublishError):
        new_item(deep)


def test_an_item_carries_whom_to_leave_out():
    assert new_item("x", exclude=["me"]).meta == {"x": ["me"]}
    assert new_item("x").meta == {}
    assert new_item(b"x", text=True).kind == "t" and new_item(b"x").kind == "b"


async def test_a_group_is_published_to_again_although_its_failure_could_not_be_reported(caplog):
    layer = Layer()
    layer.error = ValueError()
    layer.fail = lambda *args: 1 / 0
    layer.publish_queue.put("g", new_item("1"))
    await until(lambda: layer.sent)
    layer.publish_queue.put("g", new_item("2"))
    await until(lambda: caplog.records)
    layer.error = None
    await layer.publish_queue.sent()
    assert [payloads(batch) for batch in layer.sent] == [[b"1"], [b"2"]]
    assert layer.publish_queue.size == 0
    assert [record.msg for record in caplog.records] == ["cannot report that a publish has failed"]


async def test_many_groups_send_a_part_in_each_turn_of_the_loop():
    layer = Layer()
    for number in range(2 * MAX_GROUPS + 1):
        layer.publish_queue.put(str(number), new_item("x"))
    counts = []
    while len(layer.sent) < 2 * MAX_GROUPS + 1:
        await asyncio.sleep(0)
        counts.append(len(layer.sent))
    assert counts == [MAX_GROUPS, 2 * MAX_GROUPS, 2 * MAX_GROUPS + 1]
    await layer.publish_queue.sent()


async def test_a_link_that_raises_fails_the_batch():
    layer = Layer()
    layer.post = lambda batch, on_sent: 1 / 0
    layer.publish_queue.put("g", new_item("x"))
    await layer.publish_queue.sent()
    assert "division by zero" in str(layer.failed[0][2]) and layer.publish_queue.size == 0


async def test_what_is_confirmed_within_the_call_is_sent():
    layer = Layer()
    layer.post = lambda batch, on_sent: on_sent(None)
    done = asyncio.get_running_loop().create_future()
    layer.publish_queue.put("g", new_item("x"), done)
    await done
    assert layer.publish_queue.is_settled and layer.publish_queue.size == 0


@pytest.fixture
def put_long_ago(monkeypatch):
    """Queues a message as if that had been long ago."""

    def put(layer, *args):
        with monkeypatch.context() as patch:
            patch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: 0.0))
            layer.publish_queue.put(*args)

    return put


async def test_what_is_published_behind_a_batch_that_grows_too_old_is_sent():
    layer = Layer()
    layer.post = lambda batch, on_sent: answers.append(on_sent)
    answers = []
    done = asyncio.get_running_loop().create_future()
    layer.publish_queue.put("g", new_item("old"))
    await until(lambda: answers)
    [(_, sending)] = layer.publish_queue._sender._on_the_way.items()
    sending.entries[:] = [(sending.entries[0][0], 0.0, None)]
    layer.back.clear()
    answers[0](ConnectionError("reset"))
    layer.publish_queue.put("g", new_item("new"), done)

    def fail(*args):
        del layer.post
        layer.back.set()

    layer.fail = fail
    await done
    assert [payloads(batch) for batch in layer.sent] == [[b"new"]]
    await layer.publish_queue.sent()


async def test_of_a_group_only_what_is_too_old_fails(put_long_ago):
    layer = Layer()
    put_long_ago(layer, "g", new_item("old"))
    layer.publish_queue.put("g", new_item("new"))
    await layer.publish_queue.sent()
    assert [payloads(batch) for batch in layer.sent] == [[b"new"]]
    [(group, [item], error)] = layer.failed
    assert (group, item.payload) == ("g", b"old") and "waited over" in str(error)


async def test_groups_that_fail_and_groups_that_come_later_wait_for_one_end_of_the_outage():
    layer = Layer()
    layer.error = ConnectionError("reset")
    layer.gate.clear()
    for name in "gh":
        layer.publish_queue.put(name, new_item(name))
    await until(lambda: len(layer.sent) == 2)
    layer.back.clear()
    layer.gate.set()
    await layer.publish_queue.settled()
    layer.publish_queue.put("i", new_item("i"))
    await asyncio.sleep(0)
    assert layer.publish_queue.is_settled and len(layer.sent) == 2
    layer.error = None
    both = asyncio.gather(layer.publish_queue.sent(), layer.publish_queue.sent())
    await asyncio.sleep(0)
    layer.back.set()
    await both
    assert [payloads(batch) for batch in layer.sent[2:]] == [[b"g"], [b"h"], [b"i"]]


async def test_what_waits_for_the_end_of_an_outage_is_given_up():
    layer = Layer()
    layer.back.clear()
    layer.publish_queue.put("g", new_item("x"))
    await layer.publish_queue.settled()
    await layer.publish_queue.give_up()
    assert "this process ended while the channel layer was lost" in str(layer.failed[0][2])
    assert layer.publish_queue.size == 0


async def test_failures_that_cannot_be_reported_are_logged_seldom(caplog):
    layer = Layer()
    layer.error = ValueError()
    layer.fail = lambda *args: 1 / 0
    for name in "gh":
        layer.publish_queue.put(name, new_item("x"))
    await layer.publish_queue.sent()
    assert len(caplog.records) <= 1 and layer.publish_queue.size == 0


async def test_no_link_is_opened_for_what_was_given_up():
    layer = Layer()
    asked = []
    layer.publish_queue = PublishQueue(
        Tasks(Counter()), lambda: asked.append(layer) or layer, lambda *args: layer.fail(*args)
    )
    layer.publish_queue.put("g", new_item("1"))
    await layer.publish_queue.give_up()
    await asyncio.sleep(0)
    assert asked == [] and len(layer.failed) == 1
