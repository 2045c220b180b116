"""
Calls: requests of a client that have an answer.

A protocol reads a call, starts a coroutine for it by :meth:`Calls.start`, and sends what
:meth:`Calls.answer` returns or raises. Of one connection so many run at once as its route
allows; which answer belongs to which call, the coroutine knows.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

from ..close_codes import FILTER_ERROR
from ..conf import conf
from ..exceptions import Close, Drop, FilterError, InvalidData, NoSuchMethod, NotAllowed
from ..types import Call
from .chain import Chain
from .running import Running


class Caller(Protocol):
    """The part of a connection that is used here."""

    id: str

    @property
    def closing(self) -> bool: ...
    def not_allowed(self, error: NotAllowed) -> None: ...
    def close(self, code: int = ..., reason: str = ...) -> None: ...


class Pipeline(Protocol):
    """The part of a pipeline that is used here."""

    call: tuple[Chain, ...]
    calls: int

    def failed(self, error: BaseException, where: Any, who: str = ...) -> None: ...


async def first_answer(chains: Iterable[Chain], connection: Any, call: Call) -> Any:
    """What the first filter returns that answers. NoSuchMethod if none does, or for Drop."""
    try:
        for chain in chains:
            answer = await chain.pipe(connection, call)
            if not isinstance(answer, Call):
                return answer
            call = answer
    except (NotAllowed, InvalidData):
        raise
    except Drop:
        pass
    raise NoSuchMethod(call.method)


class Calls:
    """The calls of one connection. Belongs to the hub's event loop."""

    def __init__(self, connection: Caller, pipeline: Pipeline, running: Running) -> None:
        self._connection = connection
        self._pipeline = pipeline
        self._running = running
        self._tasks: set[asyncio.Task[Any]] = set()

    async def answer(self, call: Call) -> Any:
        """
        Run ``call`` through the call chain, and return the answer.

        Raises :exc:`~filtered_websocket.exceptions.NoSuchMethod` if no filter answers, or one
        raises Drop; :exc:`~filtered_websocket.exceptions.InvalidData` for data that is not as
        a filter declares it; :exc:`~filtered_websocket.NotAllowed`, counted and logged;
        :exc:`~filtered_websocket.exceptions.FilterError`, logged and counted, if a filter
        raises anything else; :exc:`~filtered_websocket.Close`, with which the connection is
        being closed.
        """
        try:
            return await first_answer(self._pipeline.call, self._connection, call)
        except NotAllowed as refusal:
            self._connection.not_allowed(refusal)
            raise
        except Close as close:
            self._connection.close(close.code, close.reason)
            raise
        except FilterError as error:
            self._pipeline.failed(error, self._connection)
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
        over = self._running.over
        try:
            while len(self._tasks) >= self._pipeline.calls and not over.is_set():
                gone = asyncio.ensure_future(over.wait())
                try:
                    waited = {*self._tasks, gone}
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    gone.cancel()
        except BaseException:
            steps.close()
            raise
        if over.is_set() or self._connection.closing:
            steps.close()
            return None
        task = self._running.begin(steps, "a call")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
