"""
Threads for the package's own queries: authentication and re-checks.

Queries that come one after another share a database connection. ``close_old_connections``
runs when none has come for ``LINGER``, and once a second while they come: to open a
connection (always with ``CONN_MAX_AGE = 0``) costs more than to read a session and its user.
"""

import asyncio
import contextvars
import functools
import os
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from django.db import close_old_connections

from ..logs import LogThrottle, get_logger
from .blocking import call_safely, is_in_a_test, run_in_the_thread_sensitive_thread, thread_pool

T = TypeVar("T")

logger = get_logger(__name__)
_throttle = LogThrottle()

#: How many queries run at the same time.
QUERY_THREADS = 4
#: How many times a time limit is extended while the queue moves on.
EXTENSIONS = 4
#: How many seconds queries share a connection before its age is checked.
SHARED_FOR = 1.0
#: How long a thread keeps its connection and waits for another query, seconds.
LINGER = 0.1


class QueryQueue:
    """A queue, emptied by up to ``QUERY_THREADS`` threads."""

    def __init__(self) -> None:
        #: How many queries have been answered.
        self.answered = 0
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._threads = 0
        #: How many of the threads wait for a query.
        self._idle = 0
        self._lock = threading.Condition()

    @property
    def is_waiting(self) -> bool:
        """Whether any query waits for a thread."""
        return bool(self._waiting)

    def put(self, call: Callable[[], Any]) -> "Future[Any]":
        """
        Run ``call()`` in one of the threads. Returns the future of its result.

        RuntimeError where no thread runs and none can be started.
        """
        future: Future[Any] = Future()
        with self._lock:
            self._waiting.append((call, future))
            is_enough = self._threads >= QUERY_THREADS or self._idle >= len(self._waiting)
            self._threads += not is_enough
            self._lock.notify()
        if not is_enough:
            try:
                thread_pool("fws-query", QUERY_THREADS).submit(self._run)
            except RuntimeError:
                # Not counted: else nobody would ever try again to start one.
                with self._lock:
                    self._threads -= 1
                    is_alone = self._threads <= 0
                if is_alone:
                    future.cancel()
                    raise
        return future

    def _next(self) -> "tuple[Callable[[], Any], Future[Any]] | None":
        with self._lock:
            if not self._waiting:
                self._idle += 1
                self._lock.wait_for(lambda: self._waiting, LINGER)
                self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def _run(self) -> None:
        _close_old_connections()
        checked = time.monotonic()
        while (query := self._next()) is not None:
            call, future = query
            if time.monotonic() - checked > SHARED_FOR:
                _close_old_connections()
                checked = time.monotonic()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
                self.answered += 1
            except BaseException as error:
                future.set_exception(error)
                # The error may be the connection's: do not share a broken one.
                _close_old_connections()
        _close_old_connections()


def _close_old_connections() -> None:
    """As Django's; a connection that cannot be closed must not end a thread."""
    try:
        close_old_connections()
    except Exception as error:
        if _throttle.note("close"):
            logger.warning("cannot close old database connections: %r", error)


_queries = QueryQueue()


def _forget() -> None:
    """After a fork: the threads, and what waits for them, are those of the parent process."""
    global _queries
    _queries = QueryQueue()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)


class QueryTimer:
    """
    Calls ``expired()`` after ``seconds``, but after five times as many at most while queries
    wait and the database answers others: of thousands that connect at once, those at the end
    of the queue would be refused, and would only connect again.
    """

    def __init__(self, seconds: float, expired: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._expired = expired
        self._wait(EXTENSIONS)

    def cancel(self) -> None:
        self._timer.cancel()

    def _wait(self, left: int) -> None:
        self._timer = self._loop.call_later(
            0.9 * self._seconds, self._look, _queries.answered, left
        )

    def _look(self, answered: int, left: int) -> None:
        if left and _queries.is_waiting and _queries.answered != answered:
            self._wait(left - 1)
        else:
            self._timer = self._loop.call_later(0.1 * self._seconds, self._expired)


async def within(seconds: float, steps: Coroutine[Any, Any, T]) -> T:
    """
    The result of ``steps``; TimeoutError where a :class:`QueryTimer` expires before.

    No timer is made unless it has to wait: most clients are anonymous, and are found so.
    """
    try:
        waiting = steps.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        timer = QueryTimer(seconds, lambda: limit.reschedule(loop.time()))
        try:
            return await _go_on(steps, waiting)
        finally:
            timer.cancel()


@types.coroutine
def _go_on(steps: Coroutine[Any, Any, T], waiting: Any) -> Generator[Any, Any, T]:
    """``await steps``, which has begun, and waits for ``waiting``."""
    while True:
        try:
            next_step = functools.partial(steps.send, (yield waiting))
        except BaseException as error:
            next_step = functools.partial(steps.throw, error)
        try:
            waiting = next_step()
        except StopIteration as done:
            result: T = done.value
            return result


def start_query(
    call: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
) -> "asyncio.Future[Any]":
    """
    Run ``call(*args)`` in a thread for database queries, in a copy of ``context``, which is
    that of the caller if it is not given. Returns the future of its result.

    If that is cancelled before a thread has begun with it, the query is skipped.
    RuntimeError where no thread runs and none can be started.
    """
    copied = contextvars.copy_context() if context is None else context.copy()
    run = functools.partial(copied.run, call_safely, call, *args)
    if is_in_a_test():
        return asyncio.ensure_future(run_in_the_thread_sensitive_thread(run))
    return asyncio.wrap_future(_queries.put(run))


async def run_query(
    call: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
) -> Any:
    """:func:`start_query`, and await it."""
    return await start_query(call, *args, context=context)
