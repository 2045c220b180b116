"""What a chain counts of its filters, and what watchers see of its events."""

import asyncio
import contextvars
import sys
import threading

import pytest

from filtered_websocket import (
    Close,
    Drop,
    FilterBase,
    FilterMeta,
    WebSocketGroupFilter,
    observe,
)
from filtered_websocket.chains import chain as chain_module
from filtered_websocket.chains.chain import Chain
from filtered_websocket.chains.watchdog import filter_of_error, filter_of_task, find_blocker
from filtered_websocket.exceptions import FilterError
from filtered_websocket.observe import BOUNDS
from filtered_websocket.pipelines.pipeline import Pipeline
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter
from ..costs import steps


def chain_of(*functions, **options):
    return Chain("message", map(message_filter, functions), **options)


def shout(web_socket_instance, data):
    return f"{data}!"


async def shout_later(web_socket_instance, data):
    await asyncio.sleep(0)
    return f"{data}!"


def look(web_socket_instance, data):
    pass


async def through(chain, how, data="a", instance=None):
    """What comes out of it, by ``run`` or ``arun``."""
    result = getattr(chain, how)(instance, data)
    return result if how == "run" else await result


class Clock:
    """Reads what it is told."""

    def __init__(self, monkeypatch, *readings):
        self.left = list(readings)
        monkeypatch.setattr(chain_module, "clock", lambda: self.left.pop(0))


both = pytest.mark.parametrize("how", ["run", "arun"])


# Counted


@both
async def test_each_filter_has_its_time_and_the_clock_is_read_once_between_two(monkeypatch, how):
    chain = chain_of(shout, look)
    clock = Clock(monkeypatch, -0.5, 0.0, BOUNDS[0])
    assert await through(chain, how) == "a!"
    first, second = [stage.stats for stage in chain.stages]
    assert clock.left == []
    assert (first.runs, first.seconds) == (1, 0.5)
    assert first.times[BOUNDS.index(1.0)] == 1
    assert (second.runs, second.seconds) == (second.times[0], BOUNDS[0]) == (1, BOUNDS[0])
    assert [stats.path.rpartition(".")[2] for stats in (first, second)] == ["shout", "look"]


@both
async def test_a_chain_without_filters_reads_no_clock(monkeypatch, how):
    Clock(monkeypatch)
    assert await through(chain_of(), how) == "a"


@both
@pytest.mark.parametrize(
    ("error", "counted"),
    [(Drop(), "drops"), (Close(4000), "closes"), (KeyError(), "errors"), (SystemExit(), "errors")],
)
async def test_what_a_filter_raises_is_counted_and_timed(monkeypatch, how, error, counted):
    def fail(web_socket_instance, data):
        raise error

    chain = chain_of(look, fail, look)
    Clock(monkeypatch, 1, 2, 5)
    with pytest.raises((Drop, Close, FilterError)):
        await through(chain, how)
    before, stats, after = [stage.stats for stage in chain.stages]
    assert (before.runs, after.runs) == (1, 0)
    assert (stats.runs, stats.seconds) == (1, 3)
    for name in ("drops", "closes", "errors"):
        assert getattr(stats, name) == (name == counted), name


@both
async def test_an_error_of_a_chain_that_a_filter_has_set_off_is_an_error_of_both(how):
    def fail(web_socket_instance, data):
        raise KeyError

    inner = chain_of(fail)

    def set_off(web_socket_instance, data):
        inner.run(web_socket_instance, data)

    chain = chain_of(set_off)
    with pytest.raises(FilterError):
        await through(chain, how)
    assert [one.stages[0].stats.errors for one in (chain, inner)] == [1, 1]


async def test_a_cancelled_run_is_not_counted():
    async def wait(web_socket_instance, data):
        await asyncio.get_running_loop().create_future()

    chain = chain_of(wait)
    task = asyncio.create_task(chain.arun(None, "a"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert chain.stages[0].stats.runs == 0


async def test_blocking_filters_are_counted_too():
    chain = Chain("message", [message_filter(shout, blocking=True)])
    assert await chain.arun(None, "a") == "a!"
    assert chain.stages[0].stats.runs == 1


def test_what_each_filter_costs_more_does_not_grow_with_the_runs():
    chain = chain_of(look)
    steps(chain.run, None, "a")
    first = steps(chain.run, None, "a")
    for _ in range(100):
        chain.run(None, "a")
    assert steps(chain.run, None, "a") == first


@pytest.mark.parametrize("place", range(len(BOUNDS)))
@both
async def test_a_time_is_counted_at_the_first_bound_that_is_not_below_it(monkeypatch, how, place):
    chain = chain_of(look)
    stats = chain.stages[0].stats
    bound = BOUNDS[place]
    Clock(monkeypatch, 0, bound, 0, bound * 1.01)
    await through(chain, how)
    await through(chain, how)
    stats.stopped(bound, Drop())
    stats.stopped(bound * 1.01, Drop())
    expected = [0] * (len(BOUNDS) + 1)
    expected[place : place + 2] = [2, 2]
    assert list(stats.times) == expected and stats.runs == 4


# Watched


class Watcher:
    """Notes what it sees."""

    def __init__(self, interest=lambda chain, instance, data: True):
        self.seen = []
        self._interest = interest

    def begin(self, chain, instance, data):
        if not self._interest(chain, instance, data):
            return None
        self.seen.append(("begin", chain.name, instance, data))
        return self

    def begin_stage(self, path, data):
        self.seen.append(("stage", path.rpartition(".")[2], data))

    def end_stage(self, data, seconds, error):
        assert seconds >= 0  # a clock that does not go back
        self.seen.append(("passed", data, error))

    def end(self, data, error):
        self.seen.append(("end", data, error))


@pytest.fixture
def watch():
    """``watch(chain, watcher)`` until the end of the test."""
    undone = []

    def add(chain, watcher):
        observe.watch_chain(chain, watcher)
        undone.append((chain, watcher))
        return watcher

    yield add
    for chain, watcher in undone:
        observe.unwatch_chain(chain, watcher)


@both
async def test_a_watcher_sees_what_goes_into_each_filter_and_what_comes_out(watch, how):
    chain = chain_of(shout, look)
    watcher = watch(chain, Watcher())
    assert await through(chain, how, instance="ann") == "a!"
    assert watcher.seen == [
        ("begin", "message", "ann", "a"),
        ("stage", "shout", "a"),
        ("passed", "a!", None),
        ("stage", "look", "a!"),
        ("passed", "a!", None),
        ("end", "a!", None),
    ]
    assert [stage.stats.runs for stage in chain.stages] == [1, 1]


@both
@pytest.mark.parametrize("error", [Drop(), Close(4000), KeyError("x")])
async def test_a_watcher_sees_the_error_as_it_was_raised_and_as_the_chain_raises_it(
    watch, how, error
):
    def fail(web_socket_instance, data):
        raise error

    chain = chain_of(look, fail, look)
    watcher = watch(chain, Watcher())
    with pytest.raises((Drop, Close, FilterError)) as caught:
        await through(chain, how)
    assert watcher.seen[-2:] == [("passed", None, error), ("end", None, caught.value)]
    assert filter_of_error(caught.value).endswith(".fail")
    assert [stage.stats.runs for stage in chain.stages] == [1, 1, 0]


async def test_a_watched_chain_awaits_and_runs_in_threads_as_it_does_unwatched(watch):
    threads = []

    def block(web_socket_instance, data):
        threads.append(threading.current_thread().name)

    def hidden(web_socket_instance, data):
        return shout_later(web_socket_instance, data)

    filters = [message_filter(shout_later), message_filter(block, blocking=True)]
    chain = Chain("message", [*filters, message_filter(hidden)])
    watcher = watch(chain, Watcher())
    assert await chain.pipe(None, "a") == "a!!"
    assert threads[0].startswith("fws-blocking")
    passed = [one[1] for one in watcher.seen if one[0] == "passed"]
    assert passed == ["a!", "a!", "a!!"] and watcher.seen[-1] == ("end", "a!!", None)


def test_what_may_not_run_on_one_thread_may_not_where_it_is_watched_either(watch):
    def hidden(web_socket_instance, data):
        return shout_later(web_socket_instance, data)

    for function, words in ((shout_later, "awaits: use 'await"), (hidden, "write it as 'async")):
        chain = chain_of(function)
        watcher = watch(chain, Watcher())
        with pytest.raises(FilterError) as caught:
            chain.run(None, "a")
        assert words in str(caught.value.__cause__)
        assert watcher.seen[-1] == ("end", None, caught.value)


@both
async def test_bytes_stay_mutable_where_they_are_watched(watch, how):
    chain = chain_of(shout, look, bytes_only=True)
    watch(chain, Watcher())
    assert await through(chain, how) == bytearray(b"a!")


@both
async def test_a_watcher_that_is_not_interested_costs_the_event_nothing_more(watch, how):
    chain = chain_of(shout)
    bored = watch(chain, Watcher(lambda *_: False))
    assert await through(chain, how) == "a!" and bored.seen == []
    eager = watch(chain, Watcher())
    assert await through(chain, how) == "a!" and bored.seen == []
    assert len(eager.seen) == 4


@both
async def test_a_chain_without_filters_has_no_events(watch, how):
    chain = chain_of()
    watcher = watch(chain, Watcher())
    assert await through(chain, how) == "a" and watcher.seen == []


variable = contextvars.ContextVar("variable")


class Setting(Watcher):
    """Sets a context variable in each of its methods, as a tracer does with its current span."""

    def begin(self, chain, instance, data):
        self.event = variable.set("event")
        return self

    def begin_stage(self, path, data):
        self.stage = variable.set(path.rpartition(".")[2])

    def end_stage(self, data, seconds, error):
        variable.reset(self.stage)

    def end(self, data, error):
        assert variable.get() == "event"
        variable.reset(self.event)
        self.ended = True


@both
async def test_filters_see_the_context_that_a_watcher_sets(watch, how):
    seen = []

    def note(web_socket_instance, data):
        seen.append(variable.get())

    filters = [message_filter(note), message_filter(note, blocking=True)]
    chain = Chain("message", filters)
    watcher = watch(chain, Setting())
    await through(chain, how)
    assert seen == ["note", "note"] and watcher.ended
    assert variable.get(None) is None


class Failing(Watcher):
    def __init__(self, method):
        super().__init__()
        self._method = method

    def __getattribute__(self, name):
        if name == object.__getattribute__(self, "_method"):
            raise ZeroDivisionError("of a watcher")
        return object.__getattribute__(self, name)


@both
@pytest.mark.parametrize("method", ["begin", "begin_stage", "end_stage", "end"])
async def test_a_watcher_that_raises_costs_neither_the_event_nor_other_watchers(
    watch, how, method, caplog, monkeypatch
):
    monkeypatch.setattr(observe, "_throttle", observe.LogThrottle())
    chain = chain_of(shout)
    failing, whole = watch(chain, Failing(method)), watch(chain, Watcher())
    for _ in range(2):
        assert await through(chain, how) == "a!"
    assert len(whole.seen) == 8
    seen = {"begin": 0, "begin_stage": 1, "end_stage": 2, "end": 3}
    assert failing.seen == (whole.seen[: seen[method]] + whole.seen[4 : 4 + seen[method]])
    assert caplog.text.count("Failing cannot watch an event (1 so far)") == 1
    assert "ZeroDivisionError: of a watcher" in caplog.text


# The watchdog, and what names a filter


@both
async def test_the_filter_of_a_watched_chain_that_blocks_is_named(watch, how):
    found = []

    def block(web_socket_instance, data):
        found.append(find_blocker(sys._getframe()))

    chain = chain_of(look, block)
    watch(chain, Watcher())
    await through(chain, how)
    assert ".block (" in found[0]


async def test_the_filter_that_a_watched_chain_awaits_is_named(watch):
    async def wait(web_socket_instance, data):
        await asyncio.get_running_loop().create_future()

    chain = chain_of(look, wait)
    watcher = watch(chain, Watcher())
    task = asyncio.create_task(chain.arun(None, "a"))
    await asyncio.sleep(0)
    assert filter_of_task(task).endswith(".wait")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(watcher.seen[-1][2], asyncio.CancelledError)


async def test_closing_a_watched_coroutine_is_not_an_error_of_its_filter(watch):
    async def wait(web_socket_instance, data):
        await asyncio.sleep(10)

    chain = chain_of(wait)
    watcher = watch(chain, Watcher())
    running = chain.arun(None, "a")
    running.send(None)
    running.close()
    assert isinstance(watcher.seen[-1][2], GeneratorExit)
    assert chain.stages[0].stats.errors == 0


# All chains


@pytest.fixture
def watcher_of_all():
    watcher = Watcher()
    observe.watch(watcher)
    yield watcher
    observe.unwatch(watcher)


def begun(watcher):
    return [one[1] for one in watcher.seen if one[0] == "begin"]


async def test_all_chains_are_watched_those_of_later_pipelines_too(watch):
    early = chain_of(look)
    watcher = Watcher()
    observe.watch(watcher)
    try:
        early.run(None, "a")
        filters = [message_filter(look), message_filter(look, WebSocketGroupFilter)]
        async with connect(filters) as ann:
            await ann.send("x")
            await ann.settle()
        # What the client has sent was published to nobody.
        assert begun(watcher) == ["message", "message"]
    finally:
        observe.unwatch(watcher)
    early.run(None, "a")
    assert len(begun(watcher)) == 2 and early.watchers == ()
    assert chain_of(look).watchers == ()


def test_a_chain_of_a_sites_own_is_watched_too(watcher_of_all):
    class AMeta(FilterMeta):
        pass

    class A(FilterBase, metaclass=AMeta):
        pass

    class B(A):
        filter = staticmethod(look)

    A.run("instance")
    assert watcher_of_all.seen[0] == ("begin", "A", "instance", None)


def test_who_stops_watching_one_chain_leaves_other_watchers_there(watch, watcher_of_all):
    chain = chain_of(look)
    mine = Watcher()
    watch(chain, mine)
    observe.unwatch_chain(chain, mine)
    chain.run(None, "a")
    assert mine.seen == [] and begun(watcher_of_all) == ["message"]


def test_a_chain_knows_its_pipeline_which_it_does_not_keep():
    pipeline = Pipeline([message_filter(look)])
    chain = pipeline.message
    assert chain.pipeline() is pipeline and chain_of(look).pipeline() is None
    assert {one.pipeline() for one in pipeline.chains} == {pipeline}
    del pipeline
    assert chain.pipeline() is None
