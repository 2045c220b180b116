"""What a table has, as an event loop knows it."""

import asyncio
import threading

import pytest

from filtered_websocket.threads import rows as module
from filtered_websocket.threads.rows import KnownRows

from ..waiting import until


class Table:
    """A database that counts how often it is asked, and can be held up or away."""

    def __init__(self):
        self.rows, self.asked, self.error = {"a": 1}, 0, None
        self.go_on = threading.Event()
        self.go_on.set()
        self.is_told = True
        self.known = KnownRows("the rows", self.read, lambda: self.is_told)

    def read(self, known):
        self.asked += 1
        found = dict(self.rows)
        self.go_on.wait()
        if self.error is not None:
            raise self.error
        return found


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(module, "_throttle", module.LogThrottle())
    return Table()


class Observer:
    def __init__(self):
        self.seen = []

    def rows_read(self, rows):
        self.seen.append(dict(rows))


async def ended(table):
    await asyncio.wait([table.known._reading])


async def test_who_asks_together_waits_for_one_query_and_later_ones_for_none(table):
    assert await asyncio.gather(*map(table.known.find, "aab")) == [1, 1, None]
    assert await table.known.find("a") == 1
    assert table.asked == 1


async def test_who_is_cancelled_cancels_nobody_else(table):
    table.go_on.clear()
    asking = [asyncio.ensure_future(table.known.find("a")) for _ in range(2)]
    await until(lambda: table.asked)
    asking[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking[0]
    table.go_on.set()
    assert await asking[1] == 1


async def test_a_change_is_read_at_once_and_told(table):
    observer = Observer()
    table.known.observers.add(observer)
    await table.known.find("a")
    table.rows = {"b": 2}
    table.known.changed()
    assert not table.known.is_current
    await ended(table)
    assert observer.seen == [{"a": 1}, {"b": 2}]
    assert table.known.is_current and await table.known.find("b") == 2
    assert table.asked == 2


async def test_a_change_before_anybody_has_asked_costs_nothing(table):
    table.known.changed()
    assert table.asked == 0 and table.known._reading is None


async def test_a_change_while_it_is_read_is_read_as_well(table):
    await table.known.find("a")
    table.go_on.clear()
    table.known.changed()
    await until(lambda: table.asked == 2)
    table.rows = {"a": 3}
    table.known.changed()
    table.go_on.set()
    await ended(table)
    assert (table.known.rows, table.asked) == ({"a": 3}, 3)


async def test_what_is_not_told_is_asked_for_each_time(table):
    await table.known.find("a")
    table.is_told = False
    table.rows = {"a": 4}
    assert await table.known.find("a") == 4


async def test_it_is_read_every_recheck_while_somebody_is_told(table, settings):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 0.01}
    observer = Observer()
    table.known.observers.add(observer)
    await table.known.find("a")
    seen = observer.seen
    await until(lambda: len(seen) >= 3)
    del observer
    reads = table.known._reading
    table.known._look()  # the timer, and nobody is told
    assert table.known._reading is reads
    await ended(table)
    table.known._timer.cancel()


async def test_a_database_that_never_answered_is_the_callers_to_know(table):
    table.error = OSError("away")
    with pytest.raises(OSError, match="away"):
        await table.known.find("a")
    table.error = None
    assert await table.known.find("a") == 1


async def test_while_the_database_is_away_what_is_known_stays(table, caplog):
    await table.known.find("a")
    table.error = OSError("away")
    for _ in range(2):
        table.known.changed()
        await ended(table)
    assert await table.known.find("a") == 1 and not table.known.is_current
    assert [record.getMessage() for record in caplog.records] == [
        "cannot read the rows: OSError('away'); those that are known stay"
    ]
