"""
Waits of tests, on a machine that may be busy with other work.

No test says how fast something is. A wait ends with the event that it waits for, and its
limit only keeps a broken test from hanging. Where the package promises a number of seconds,
:func:`within` gives it ``PROMISE_FACTOR`` times as long, and ``make stress`` measures it.
"""

import asyncio
import contextlib
import os
import threading
import time

#: Seconds that anything may take.
LIMIT = 60.0
#: So many times its length is waited for what is promised, and at least ``LEAST`` seconds.
PROMISE_FACTOR = 5
LEAST = 30.0
#: Whether promises are measured: "make stress" sets it, on a machine without other work.
MEASURED = os.environ.get("FWS_STRESS") == "full"


class Watch:
    """A clock that tells how long something took, to print it; and whether ``limit`` is over."""

    def __init__(self, limit=LIMIT):
        assert limit >= LEAST, f"{limit} s are not enough on a busy machine"
        self._limit = limit
        self.restart()

    def restart(self):
        self._began = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self._began

    @property
    def is_over(self):
        return self.seconds > self._limit


def limited(limit=LIMIT):
    """``async with``: :exc:`TimeoutError` where it takes longer than anything may."""
    assert limit >= LEAST, f"{limit} s are not enough on a busy machine"
    return asyncio.timeout(limit)


async def until(condition, pause=0.005, limit=LIMIT):
    """Wait for what tells nobody when it happens, with so many seconds between two looks."""
    async with limited(limit):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(pause)


def wait_until(condition, limit=LIMIT):
    """The same without an event loop; whether it happened."""
    watch = Watch(limit)
    while not condition() and not watch.is_over:
        threading.Event().wait(0.05)
    return condition()


@contextlib.contextmanager
def not_before(seconds):
    """``with``: what must take so many seconds at least, as no machine is too fast for that."""
    watch = Watch()
    yield
    assert watch.seconds >= seconds, f"after {watch.seconds:.2f} s, which is before {seconds} s"


@contextlib.asynccontextmanager
async def within(promise, *, least=0.0):
    """
    ``async with``: what is promised within so many seconds, and not before ``least``.

    The test that uses it has the mark ``promise``, by which ``make stress`` finds it.
    """
    watch = Watch()
    with not_before(least):
        async with asyncio.timeout(max(PROMISE_FACTOR * promise, LEAST)):
            yield
    measure(f"promised within {promise:g} s", watch.seconds, promise)


def measure(what, seconds, promise):
    """Print how long something took; only where promises are measured it must be shorter."""
    print(f"\n  {what}: {seconds * 1000:.0f} ms", end=" ")
    if MEASURED:
        assert seconds < promise, f"{what}: {seconds:.3f} s, promised: {promise} s"


async def look_again(task, seconds=0.05):
    """Return so many seconds later, or when ``task`` is done: for loops that end with it."""
    await asyncio.wait([task], timeout=seconds)


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """
    An event loop without waits: where nothing is to be done, its clock goes on to the next
    timer. For what needs no thread and no socket: ``asyncio.Runner(loop_factory=FakeTimeLoop)``.
    """

    def __init__(self):
        self._now = 0.0
        super().__init__()
        select = self._selector.select

        def skip(seconds=None):
            if seconds:
                self._now += seconds
                seconds = 0
            return select(seconds)

        self._selector.select = skip

    def time(self):
        return self._now


def run_in_fake_time(coroutine):
    """What ``coroutine`` returns, run on a :class:`FakeTimeLoop`."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(coroutine)


def hold(link, gate):
    """Have what a hub sends wait until ``gate`` (an :class:`asyncio.Event`) is set."""
    post, tasks = link.post, set()

    async def later(*call):
        await gate.wait()
        post(*call)

    def held(*call):
        task = asyncio.ensure_future(later(*call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    link.post = held
