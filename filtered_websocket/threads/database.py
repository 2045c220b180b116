"""
Threads for what the house itself asks the database: who connects, and who may stay.

QueryQueue that wait for one another share a connection, which is looked at (and, with
``CONN_MAX_AGE = 0``, closed) when no question waits any more, and once a second where
they never cease. To open one costs about as much as a session and its user: with many
clients at the door that was half of it.
"""

import asyncio
import contextlib
import contextvars
import functools
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any

from django.db import close_old_connections

from .blocking import call_safely, is_in_a_test, run_in_the_thread_sensitive_thread, thread_pool

#: How many questions are asked side by side.
QUERY_THREADS = 4
#: How often the time of a handshake begins anew while it waits in line.
ANEW = 4
#: How many seconds a connection is shared before it is looked at.
SHARED_FOR = 1.0


class QueryQueue:
    """A queue, and as many threads that empty it as there is work for."""

    def __init__(self) -> None:
        #: How many questions have been answered.
        self.answered = 0
        self._waiting: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._asking = 0
        self._lock = threading.Lock()

    @property
    def wait(self) -> bool:
        """Whether any question waits for a thread."""
        return bool(self._waiting)

    def put(self, call: Callable[[], Any]) -> "Future[Any]":
        """Have ``call()`` called; its future."""
        told: Future[Any] = Future()
        with self._lock:
            self._waiting.append((call, told))
            is_enough = self._asking >= QUERY_THREADS
            self._asking += not is_enough
        if not is_enough:
            thread_pool("fws-query", QUERY_THREADS).submit(self._ask)
        return told

    def _next(self) -> "tuple[Callable[[], Any], Future[Any]] | None":
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._asking -= 1
            return None

    def _ask(self) -> None:
        close_old_connections()
        looked = time.monotonic()
        while (question := self._next()) is not None:
            call, told = question
            if time.monotonic() - looked > SHARED_FOR:
                close_old_connections()
                looked = time.monotonic()
            if not told.set_running_or_notify_cancel():
                continue
            try:
                told.set_result(call())
                self.answered += 1
            except BaseException as error:
                told.set_exception(error)
                # It may have been the connection's fault.
                close_old_connections()
        close_old_connections()


_queue_of_queries = QueryQueue()


@contextlib.asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """
    As ``asyncio.timeout(seconds)``, but who waits while the database answers others has
    more time, five times as much at most: with thousands at the door, each in turn, to
    refuse those at the end of the line would only have them come again.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def look_later(left: int) -> None:
        nonlocal timer
        timer = loop.call_later(0.9 * seconds, look, _queue_of_queries.answered, left)

    def look(answered: int, left: int) -> None:
        if left and _queue_of_queries.wait and _queue_of_queries.answered != answered:
            limit.reschedule(loop.time() + seconds)
            look_later(left - 1)

    async with asyncio.timeout(seconds) as limit:
        look_later(ANEW)
        try:
            yield
        finally:
            timer.cancel()


async def run_query(call: Callable[..., Any], *args: Any) -> Any:
    """
    Await ``call(*args)``, which asks the database, in a thread of the house's, with this
    task's context.

    A cancelled caller is not asked for any more, unless its turn has come.
    """
    if is_in_a_test():
        return await run_in_the_thread_sensitive_thread(call, *args)
    run = functools.partial(contextvars.copy_context().run, call_safely, call, *args)
    return await asyncio.wrap_future(_queue_of_queries.put(run))
