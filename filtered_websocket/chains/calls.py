"""
Calls: requests of a client that have an answer.

A protocol reads a call, starts a coroutine for it by :meth:`Calls.start`, and sends what
:meth:`Calls.answer` returns or raises. Of one connection so many run at once as its route
allows; which answer belongs to which call, the coroutine knows.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from contextvars import Context
from typing import Any, Protocol

from ..close_codes import FILTER_ERROR
from ..conf import conf
from ..exceptions import Close, Drop, FilteredWebSocketError, FilterError, NoSuchMethod
from ..threads.tasks import GuardedTask
from ..types import Call
from .chain import Chain
from .stalls import Grace


class Caller(Protocol):
    """The part of a connection that is used here."""

    id: str
    context: Context

    @property
    def closing(self) -> bool: ...
    def close(self, code: int = ..., reason: str = ...) -> None: ...


class Pipeline(Protocol):
    """The part of a pipeline that is used here."""

    call: tuple[Chain, ...]
    calls: int

    def failed(self, error: BaseException, where: str, who: str = ...) -> None: ...


async def first_answer(chains: Iterable[Chain], connection: Any, call: Call) -> Any:
    """What the first filter returns that answers. NoSuchMethod if there is none, or Drop."""
    try:
        for chain in chains:
            answer = await chain.pipe(connection, call)
            if not isinstance(answer, Call):
                return answer
            call = answer
    except Drop:
        pass
    raise NoSuchMethod(call.method)


class Calls:
    """The calls of one connection. Belongs to the hub's event loop."""

    def __init__(self, connection: Caller, pipeline: Pipeline) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Once the socket is gone: cancel what has not returned.
        self._graces: dict[asyncio.Task[Any], Grace] = {}
        self._over = asyncio.Event()

    async def answer(self, call: Call) -> Any:
        """
        Run ``call`` through the call chain, and return the answer.

        Raises :exc:`~filtered_websocket.exceptions.NoSuchMethod` if no filter answers, or one
        raises Drop; :exc:`~filtered_websocket.exceptions.FilterError`, logged and counted
        before, if one raises anything else; :exc:`~filtered_websocket.Close`, with which the
        connection is being closed.
        """
        try:
            return await first_answer(self._pipeline.call, self._connection, call)
        except Close as close:
            self._connection.close(close.code, close.reason)
            raise
        except FilterError as error:
            self._pipeline.failed(error, f"connection {self._connection.id}")
            if conf.ON_ERROR == "close":
                self._connection.close(FILTER_ERROR, "a filter failed")
            raise

    async def start(self, steps: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any] | None":
        """
        Run ``steps``, which handle one call, in a task; return once it has begun. That is
        when fewer than the route's ``calls`` run: until then read nothing more of this client.

        None, and nothing is run, if the connection closes. The task is cancelled
        ``FILTER_GRACE`` after the socket is gone.
        """
        try:
            while len(self._tasks) >= self._pipeline.calls and not self._over.is_set():
                over = asyncio.ensure_future(self._over.wait())
                try:
                    waited = {*self._tasks, over}
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    over.cancel()
        except BaseException:
            steps.close()
            raise
        if self._over.is_set() or self._connection.closing:
            steps.close()
            return None
        # Not one that the connection's end cancels at once.
        task = GuardedTask(steps, name="fws-call", context=self._connection.context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        grace = self._graces.pop(task, None)
        if grace is not None:
            grace.stop()
        error = None if task.cancelled() else task.exception()
        # Ours are told to the client by the protocol, or have been logged.
        if error is not None and not isinstance(error, FilteredWebSocketError):
            self._pipeline.failed(error, f"connection {self._connection.id}", "a call")

    def stop(self) -> None:
        """The socket is gone: start nothing more, and cancel what runs after FILTER_GRACE."""
        if not self._over.is_set():
            self._over.set()
            for task in self._tasks:
                self._graces[task] = Grace(task, self._connection.id)

    async def stopped(self) -> None:
        """Return when none runs. A cancellation of the caller cancels them at once."""
        self.stop()
        while self._tasks:
            try:
                await asyncio.wait(self._tasks)
            except asyncio.CancelledError:
                for task in self._tasks:
                    task.cancel()
