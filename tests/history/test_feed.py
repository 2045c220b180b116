"""One group with history, and all of them: feed, feeds."""

import asyncio
from collections import Counter

import pytest
import redis

from filtered_websocket.history import feed as module
from filtered_websocket.history import feeds as feeds_module
from filtered_websocket.history.base import Position
from filtered_websocket.history.feeds import Feeds
from filtered_websocket.history.hosts import SlotMoving
from filtered_websocket.history.memory import MemoryHistory
from filtered_websocket.threads.tasks import Tasks

from ..waiting import limited, until
from .worlds import KEY, RETENTION, append, batch_of


class Store(MemoryHistory):
    """Counts what it is asked; may fail, or wait."""

    publishes = True
    error = None
    asked = 0

    def __init__(self):
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def tops(self, keys):
        return await self.ask(super().tops(keys))

    async def read(self, *args, **options):
        return await self.ask(super().read(*args, **options))

    async def ask(self, answer):
        self.asked += 1
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            return await answer
        finally:
            answer.close()


class Hub:
    """The part of a hub that feeds use, and what one feed hands out."""

    def __init__(self):
        self.counts = Counter()
        self.tasks = Tasks(self.counts)
        self.link = self
        self.joined = True
        self.lost = []
        self.store = Store()
        self.feeds = Feeds(self, lambda link: self.store)
        self.heard = []

    async def wait_joined(self, key):
        return self.joined

    def note_lost(self, error):
        self.lost.append(error)

    def open(self):
        self.feed = self.feeds.open(
            KEY, self.hear, lambda: self.heard.append("lost"), has_members=False
        )
        return self.feed

    def hear(self, run):
        self.heard += [item.payload.decode() for item in run.items]

    async def publish(self, *texts, sends=True):
        """Append; and where it ``sends``, have it come."""
        self.number = getattr(self, "number", 0) + 1
        batch = batch_of(*texts, number=self.number)
        position = await append(self.store, batch, RETENTION)
        if sends:
            first = position.offset - len(texts) + 1
            self.feed.take(batch._replace(epoch=position.epoch, first=first))
        return position


@pytest.fixture
async def hub():
    hub = Hub()
    yield hub
    await hub.feeds.stop()


async def idle(hub):
    await until(lambda: hub.feed._updating is None, 0)


async def test_a_layer_without_a_store_follows_nothing(hub):
    hub.store = None
    assert hub.open() is None and await hub.feeds._tops([KEY]) == {}


async def test_what_is_missing_is_asked_for_once(hub):
    assert (await hub.open().begun()).offset == 0
    assert (await hub.feed.begun()).offset == 0
    await hub.publish("a", sends=False)
    hub.store.gate.clear()
    asked = hub.store.asked
    for text in "bcd":
        await hub.publish(text)
    hub.store.gate.set()
    await idle(hub)
    assert hub.heard == list("abcd") and hub.store.asked == asked + 1
    hub.feed.take(batch_of("d")._replace(epoch=hub.feed.position.epoch, first=4))
    assert hub.counts["duplicate"] == 1


async def test_what_is_no_longer_kept_is_told(hub):
    await hub.open().begun()
    await hub.publish(*"abcdefgh", sends=False)
    await hub.publish("i")
    await idle(hub)
    assert hub.heard == ["lost", "i"] and hub.counts["history_lost"] == 1


@pytest.mark.parametrize(
    ("error", "lost"),
    [(SlotMoving("it moves"), 0), (redis.exceptions.ClusterDownError("it is down"), 1)],
)
async def test_what_passes_is_no_gap_and_what_is_missing_comes_later(hub, error, lost):
    await hub.open().begun()
    await hub.publish("a", sends=False)
    hub.store.error = error
    await hub.publish("b")
    await idle(hub)
    assert hub.heard == [] and len(hub.lost) == lost and not hub.counts["history_failed"]
    hub.store.error = None
    await hub.feeds.compare()
    await idle(hub)
    assert hub.heard == ["a", "b"]


async def test_a_store_beside_the_layer_may_be_behind_it(hub, monkeypatch):
    """Batches of several publishers come in any order: none is asked for at once."""
    monkeypatch.setattr(module, "ON_ITS_WAY", 0)
    hub.store.publishes = False
    position = await hub.open().begun()
    first, second = batch_of("a", number=1), batch_of("b", number=2)
    hub.feed.take(second._replace(epoch=position.epoch, first=2))
    hub.feed.take(first._replace(epoch=position.epoch, first=1))
    asked = hub.store.asked
    await idle(hub)
    assert hub.heard == ["a", "b"] and hub.store.asked == asked


async def test_each_thing_that_is_missing_has_its_time_to_come(hub, monkeypatch):
    monkeypatch.setattr(module, "ON_ITS_WAY", 0)
    hub.store.publishes = False
    position = await hub.open().begun()
    batches = [
        batch_of(text, number=offset)._replace(epoch=position.epoch, first=offset)
        for offset, text in enumerate("abcd", 1)
    ]
    asked = hub.store.asked
    hub.feed.take(batches[1])
    await asyncio.sleep(0)
    # It waits for "a", which comes; "c" is missing now.
    for number in (0, 3):
        hub.feed.take(batches[number])
    await asyncio.sleep(0)
    hub.feed.take(batches[2])
    await idle(hub)
    assert hub.heard == list("abcd") and hub.store.asked == asked


async def test_what_the_store_does_not_know_counts_as_lost(hub, monkeypatch):
    monkeypatch.setattr(module, "pause", lambda failures: 0)
    position = await hub.open().begun()
    hub.feed.take(batch_of("x")._replace(epoch=position.epoch, first=5))
    await idle(hub)
    assert hub.heard == ["lost", "x"] and hub.store.asked == 2 + module.MAX_USELESS


async def test_an_outage_is_reported_and_ends_with_the_layers(hub):
    await hub.open().begun()
    await hub.publish("a", sends=False)
    hub.store.error = ConnectionError("away")
    await hub.publish("b")
    await idle(hub)
    assert hub.lost == [hub.store.error] and hub.heard == []
    assert await hub.feed.read(None) is None
    hub.feeds.compare_soon()
    hub.feeds.compare_soon()
    await until(lambda: hub.feeds._comparing is None, 0)
    hub.store.error = None
    hub.feeds.compare_soon()
    await until(lambda: hub.heard == ["a", "b"])


async def test_a_store_that_refuses_is_no_outage_and_holds_nobody_up(hub, caplog):
    hub.store.error = redis.exceptions.NoPermissionError("NOPERM")
    assert await hub.open().begun() is None
    hub.store.error = None
    position = await hub.publish("a")
    await idle(hub)
    hub.store.error = PermissionError("NOPERM")
    hub.feed.take(batch_of("c")._replace(epoch=position.epoch, first=3))
    await idle(hub)
    assert hub.heard == ["lost", "a", "lost", "c"] and hub.lost == []
    assert hub.counts["history_failed"] == 2
    assert caplog.text.count("cannot read a history: NoPermissionError('NOPERM')") == 1


async def test_a_subscription_that_does_not_stand_has_no_position(hub):
    hub.joined = False
    assert await hub.open().begun() is None and await hub.feed.read(None) is None
    hub.joined = True
    assert (await hub.feed.begun()).offset == 0


async def test_who_waits_for_a_group_that_ends_waits_no_longer(hub):
    hub.store.gate.clear()
    feed = hub.open()
    waiting = [asyncio.ensure_future(feed.begun()) for _ in range(2)]
    await until(lambda: hub.store.asked, 0)
    waiting[0].cancel()
    hub.feeds.close(hub.feed)
    async with limited():
        assert await waiting[1] is None and await hub.feed.begun() is None
    hub.feed.check()
    assert hub.store.asked == 1


class Slow(Store):
    """Each answer is that of the time of the question, and waits until it is let go."""

    def __init__(self):
        super().__init__()
        self.waiting = []

    async def ask(self, answer):
        found = await answer
        self.waiting.append(asyncio.Event())
        await self.waiting[-1].wait()
        if self.error is not None:
            raise self.error
        return found


async def two_readers(hub):
    """The one that asked first found "a"; the other one found "b", too."""
    hub.store = Slow()
    hub.open()
    await append(hub.store, batch_of("a"), RETENTION)
    first = asyncio.ensure_future(hub.feed.read(None))
    await until(lambda: len(hub.store.waiting) == 1, 0)
    await hub.publish("b")
    # What has come starts a question, too.
    second = asyncio.ensure_future(hub.feed.read(None))
    await until(lambda: len(hub.store.waiting) == 3, 0)
    return first, second


async def test_a_group_begins_where_its_first_reader_needs_it(hub):
    first, second = await two_readers(hub)
    for gate in hub.store.waiting[1:]:
        gate.set()
    late = asyncio.ensure_future(hub.feed.read(None))
    await until(lambda: len(hub.store.waiting) == 4, 0)
    assert hub.heard == [] and not second.done()
    hub.store.waiting[0].set()
    async with limited():
        assert (await first).position.offset == 1 and (await second).position.offset == 2
    assert hub.heard == ["b"] and not late.done()
    hub.store.waiting[3].set()
    await late
    assert hub.heard == ["b"]


@pytest.mark.parametrize("way", ["cancelled", "refused"])
async def test_a_reader_that_gets_no_answer_keeps_nobody_waiting(hub, way):
    first, second = await two_readers(hub)
    for gate in hub.store.waiting[1:]:
        gate.set()
    await asyncio.sleep(0)
    if way == "cancelled":
        first.cancel()
    else:
        await until(lambda: hub.feed.follower._first.found, 0)
        hub.store.error = PermissionError("NOPERM")
        hub.store.waiting[0].set()
    async with limited():
        assert (await second).position.offset == 2
        await asyncio.wait([first])
    assert hub.feed.position.offset == 2


async def test_a_reader_of_a_group_that_ends_waits_for_no_other(hub):
    first, second = await two_readers(hub)
    for gate in hub.store.waiting[1:]:
        gate.set()
    await until(lambda: hub.feed.follower._first.found, 0)
    hub.feeds.close(hub.feed)
    async with limited():
        assert (await second).position.offset == 2
    first.cancel()


def readers(hub, count, since=None):
    return [asyncio.ensure_future(hub.feed.read(since)) for _ in range(count)]


async def test_readers_of_one_turn_share_a_question_and_later_ones_do_not(hub):
    await hub.open().begun()
    await hub.publish("a")
    since = Position(hub.feed.position.epoch, 0)
    hub.store.gate.clear()
    asked = hub.store.asked
    together = readers(hub, 5, since)
    other = readers(hub, 1, since._replace(offset=1))
    await until(lambda: hub.store.asked == asked + 2, 0)
    # What is published now may not be in the answer that is on its way.
    later = readers(hub, 2, since)
    await until(lambda: hub.store.asked == asked + 3, 0)
    hub.store.gate.set()
    async with limited():
        pages = [await one for one in together]
        assert all(page is pages[0] for page in pages) and pages[0].recovered
        assert [one.item.payload for one in pages[0].publications] == [b"a"]
        assert (await other[0]).publications == []
        own = [await one for one in later]
    assert own[0] is own[1] is not pages[0]
    assert hub.store.asked == asked + 3 and hub.feed._questions == {}


async def test_a_question_ends_with_the_last_of_its_readers(hub):
    await hub.open().begun()
    hub.store.gate.clear()
    asked = hub.store.asked
    some = readers(hub, 3)
    await until(lambda: hub.store.asked == asked + 1, 0)
    for reader in some[:2]:
        reader.cancel()
    await asyncio.wait(some[:2])
    hub.store.gate.set()
    async with limited():
        assert (await some[2]).publications == []
    # All have gone: before it is put, and after.
    for turns in (1, 5):
        hub.store.gate.clear()
        gone = readers(hub, 2)
        for _ in range(turns):
            await asyncio.sleep(0)
        for reader in gone:
            reader.cancel()
        await asyncio.wait(gone)
        hub.store.gate.set()
        await until(lambda: not hub.feed._questions, 0)
        async with limited():
            assert (await hub.feed.read(None)).publications == []


async def test_what_a_question_raises_reaches_all_its_readers(hub, monkeypatch):
    await hub.open().begun()
    monkeypatch.setattr(type(hub.feed.follower), "note_top", None)
    some = readers(hub, 2)
    async with limited():
        done, _ = await asyncio.wait(some)
    assert [type(one.exception()) for one in done] == [TypeError, TypeError]


async def test_a_last_word_that_was_lost_is_found(hub, monkeypatch):
    monkeypatch.setattr(feeds_module, "COMPARE", 0)
    monkeypatch.setattr(feeds_module, "ON_ITS_WAY", 0)
    await hub.open().begun()
    await hub.publish("a", sends=False)
    await until(lambda: hub.heard == ["a"])
    hub.feeds.close(hub.feed)
    await until(lambda: hub.feeds._watching is None)
    await hub.feeds.compare()
    assert (await hub.open().begun()).offset == 1


@pytest.mark.repeats
async def test_a_joiners_answer_brings_all_up_to_date(hub):
    first = await hub.open().begun()
    await hub.publish("a", "b", sends=False)
    page = await hub.feed.read(first)
    assert len(page.publications) == 2 and hub.heard == ["a", "b"] and hub.store.asked == 2
    await hub.publish("c", sends=False)
    await hub.feed.read(Position(first.epoch, 3))
    await idle(hub)
    assert hub.heard == ["a", "b", "c"]


async def test_a_page_that_is_not_whole_says_nothing_where_others_went_on_meanwhile(hub):
    await hub.open().begun()
    await hub.publish("a", sends=False)
    hub.store.gate.clear()
    await hub.publish("b")
    await until(lambda: hub.store.asked == 2, 0)
    hub.feed.take(batch_of("a")._replace(epoch=hub.feed.position.epoch, first=1))
    await hub.store.forget(KEY)
    hub.store.gate.set()
    await idle(hub)
    assert hub.heard == ["a", "b"]
