"""Batches that are kept in a history."""

import asyncio
from collections import Counter
from types import SimpleNamespace

import pytest
from redis.exceptions import ResponseError

from filtered_websocket.exceptions import PublishError
from filtered_websocket.history.base import Position, Retention
from filtered_websocket.history.hosts import SlotMoving
from filtered_websocket.history.memory import MemoryHistory
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.publishing import batches, sender
from filtered_websocket.publishing.batches import Keep, append_once
from filtered_websocket.publishing.items import new_item
from filtered_websocket.publishing.queue import PublishQueue
from filtered_websocket.threads.tasks import Tasks

from ..history.worlds import batch_of
from ..waiting import until

KEEP = Keep(Retention(10, 60))


class Link:
    """Where batches go; ``errors`` are answered first."""

    is_available = True

    def __init__(self, store=None, publishes=False):
        self.posted, self.failed, self.lost, self.errors = [], [], [], []
        self.store = store
        if store is not None:
            store.publishes = publishes
        self.queue = PublishQueue(
            Tasks(Counter()), lambda: self, lambda *failed: self.failed.append(failed), self
        )

    def post(self, batch, on_sent):
        self.posted.append(batch)
        error = self.errors.pop(0) if self.errors else None
        asyncio.get_running_loop().call_soon(on_sent, error)

    def note_lost(self, error):
        self.lost.append(error)

    async def wait_available(self, deadline):
        return True

    async def publish(self, *texts, keep=KEEP):
        """The positions of messages that are queued at once."""
        done = [asyncio.get_running_loop().create_future() for _ in texts]
        for text, one in zip(texts, done, strict=True):
            self.queue.put("room", new_item(text), one, keep)
        return await asyncio.gather(*done)


def offsets(positions):
    return [position.offset for position in positions]


async def test_each_message_has_the_position_of_its_own():
    link = Link(MemoryHistory())
    assert offsets(await link.publish("a", "b", "c")) == [1, 2, 3]
    [batch] = link.posted
    assert (batch.first, len(batch.items)) == (1, 3) and batch.epoch
    assert offsets(await link.publish("d")) == [4]
    assert link.queue._sender._keeps.by_group == {}


async def test_what_the_store_publishes_is_not_sent_again():
    link = Link(MemoryHistory(), publishes=True)
    assert offsets(await link.publish("a", "b")) == [1, 2] and link.posted == []


async def test_where_nothing_can_be_kept_a_message_is_only_sent():
    link = Link()
    assert await link.publish("a") == [None]
    [batch] = link.posted
    assert batch.epoch == ""


async def test_a_batch_whose_send_failed_is_appended_once():
    link = Link(MemoryHistory())
    link.errors = [ConnectionError("away"), ConnectionError("away")]
    assert offsets(await link.publish("a")) == [1]
    assert [batch.first for batch in link.posted] == [1, 1, 1]


async def test_an_answer_that_is_lost_is_asked_for_again():
    class Forgetful(MemoryHistory):
        lost = 0

        def append(self, batch, retention, on_done, idempotency_key=""):
            def answer(position):
                self.lost += 1
                on_done(ConnectionError("lost") if self.lost == 1 else position)

            super().append(batch, retention, answer, idempotency_key)

    link = Link(Forgetful())
    assert offsets(await link.publish("a")) == [1] and len(link.lost) == 1
    assert len(link.posted) == 1


async def test_a_refusal_is_no_outage(monkeypatch):
    class Full(MemoryHistory):
        def append(self, batch, retention, on_done, idempotency_key=""):
            on_done(ResponseError("OOM"))

    link = Link(Full())
    with pytest.raises(Exception, match="OOM"):
        await link.publish("a")
    assert link.lost == []
    link.queue.put("room", new_item("b"), None, KEEP)
    await until(lambda: link.failed)


async def test_what_waited_for_a_slot_of_a_cluster_is_not_sent_again():
    class Moving(MemoryHistory):
        asked = 0

        def append(self, batch, retention, on_done, idempotency_key=""):
            self.asked += 1
            on_done(SlotMoving("it moves"))

    link = Link(store := Moving())
    with pytest.raises(PublishError, match="it moves"):
        await link.publish("a")
    assert store.asked == 1 and link.lost == []


async def test_a_key_is_of_one_message_and_known_the_next_time():
    link = Link(MemoryHistory())
    loop = asyncio.get_running_loop()
    done = [loop.create_future() for _ in range(4)]
    keyed = KEEP._replace(idempotency_key="order 1")
    for one, keep in zip(done, [KEEP, KEEP, keyed, KEEP], strict=True):
        link.queue.put("room", new_item("x"), one, keep)
    answers = await asyncio.gather(*done)
    assert offsets(answers) == [1, 2, 3, 4]
    assert [len(batch.items) for batch in link.posted] == [2, 1, 1]
    [again] = await link.publish("y", keep=keyed)
    assert again == (*answers[2][:2], True) and len(link.posted) == 3


@pytest.mark.parametrize(
    ("kept", "sent"), [("yny", [1, 1, 1]), ("nyyn", [1, 2, 1]), ("nnyn", [2, 1, 1])]
)
async def test_what_is_not_to_be_kept_is_not_kept_with_others(kept, sent):
    link = Link(store := MemoryHistory())
    done = [asyncio.get_running_loop().create_future() for _ in kept]
    for one, letter in zip(done, kept, strict=True):
        link.queue.put("room", new_item(letter), one, KEEP if letter == "y" else None)
    positions = await asyncio.gather(*done)
    assert [position is not None for position in positions] == [one == "y" for one in kept]
    assert [len(batch.items) for batch in link.posted] == sent
    page = await store.read(group_key("room"))
    assert {one.data for one in page.publications} == {b"y"}
    keeps = link.queue._sender._keeps
    assert not (keeps.by_group or keeps.left_out)


async def test_what_is_too_old_and_was_not_to_be_kept_is_forgotten():
    keeps = batches.Keeps()
    first, second = new_item("x"), new_item("y")
    keeps.add("room", second, KEEP, [(first, 0.0, None)])
    assert keeps.left_out == {first.id}
    keeps.drop("room", [(first, 0.0, None)], is_last=False)
    assert not keeps.left_out and keeps.take("room", [second], is_last=True) == KEEP


async def test_what_is_too_old_is_forgotten_with_its_key(monkeypatch):
    link = Link(MemoryHistory())
    clock = SimpleNamespace(monotonic=lambda: 1e9)
    done = asyncio.get_running_loop().create_future()
    link.queue.put("room", new_item("x"), done, KEEP._replace(idempotency_key="k"))
    monkeypatch.setattr(sender, "time", clock)
    with pytest.raises(Exception, match="waited over"):
        await done
    assert link.queue._sender._keeps.keys == {} and link.posted == []


async def test_one_of_several_that_are_too_old_leaves_how_the_others_are_kept():
    keeps = batches.Keeps()
    keeps.add("room", new_item("x"), KEEP)
    keeps.drop("room", [], is_last=False)
    assert keeps.take("room", [new_item("y")], is_last=False) == KEEP
    await_nothing = keeps.take("hall", [], is_last=True)
    assert await_nothing is None


async def test_who_waits_no_longer_is_no_problem_for_the_store():
    class Slow(MemoryHistory):
        def append(self, batch, retention, on_done, idempotency_key=""):
            self.answer = on_done

    store = Slow()
    for answer in (Position("e", 1), ConnectionError("away")):
        waiting = asyncio.ensure_future(append_once(store, batch_of("a"), KEEP))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        store.answer(answer)
    waiting = asyncio.ensure_future(append_once(store, batch_of("a"), KEEP))
    await asyncio.sleep(0)
    store.answer(ConnectionError("away"))
    with pytest.raises(ConnectionError):
        await waiting
