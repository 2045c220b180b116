"""
What ``join``, ``leave``, ``send``, ``apublish`` and ``use_token`` of a connection return.

The call itself acts at once, so a forgotten ``await`` changes nothing but when the caller
goes on. From another thread or event loop, it acts on the loop of the connection soon.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future as ThreadFuture
from functools import partial
from typing import Any, Protocol, TypeVar

T_co = TypeVar("T_co", covariant=True)

#: What is called with an error that nobody awaits. From any thread.
OnError = Callable[[BaseException], object]


class Loop(Protocol):
    """The part of a hub's view that is used here."""

    @property
    def is_current(self) -> bool: ...
    def call(self, function: Callable[..., object], *args: Any) -> None: ...


class Result(Coroutine[Any, Any, T_co]):
    """
    Awaiting it waits until the call is done. Once, in the event loop of the caller.

    A coroutine for :func:`asyncio.create_task` and the like. If it is not awaited,
    ``on_error`` gets what the call raised later.
    """

    __slots__ = ("_future", "_steps", "_value")

    def __init__(self, future: Any, value: Any = None) -> None:
        #: None if the call is done already.
        self._future = future
        #: The result if there is no future, or if it is cancelled.
        self._value = value
        self._steps: Generator[Any, Any, T_co] | None = None

    def detach(self) -> "asyncio.Future[T_co] | None":
        """Instead of awaiting, on the loop of the call: its future, or None if it is done."""
        future: asyncio.Future[T_co] | None = self._future
        self._future = None
        return future

    def __bool__(self) -> bool:
        # As any object it would be true: 'if connection.is_allowed(...)' would allow everything.
        raise TypeError("this call has an answer only if it is awaited: write 'await' before it")

    def __await__(self) -> Generator[Any, Any, T_co]:
        future, self._future = self._future, None
        if future is None:
            value: T_co = self._value
            return value
        if isinstance(future, ThreadFuture):
            waiting: asyncio.Future[T_co] = asyncio.wrap_future(future)
        elif isinstance(future, asyncio.Task):
            # Who awaits may be cancelled; what the call has begun goes on.
            waiting = asyncio.shield(future)
        else:
            waiting = future
        try:
            return (yield from waiting)
        except asyncio.CancelledError:
            task: Any = asyncio.current_task()
            if task.cancelling() or not future.cancelled():
                raise
            # Not this task was cancelled: the connection has ended.
            value = self._value
            return value

    def send(self, value: Any) -> Any:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.throw(*error)

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()


class WatchedResult(Result[T_co]):
    """One whose call may fail after it has returned."""

    __slots__ = ("_on_error", "_view")

    def __init__(self, view: Loop, future: Any, value: Any, on_error: OnError) -> None:
        super().__init__(future, value)
        self._view = view
        self._on_error = on_error

    def __del__(self) -> None:
        if self._future is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._view.call(_report, self._future, self._on_error)


def start(
    view: Loop, function: Callable[..., Any], *args: Any, on_error: OnError, value: Any = None
) -> Any:
    """
    Call ``function(*args)``, which returns the result or a future of it, on the loop of
    ``view``: now if it runs there. ``value`` is the result if the connection ends before.
    """
    if view.is_current:
        outcome = function(*args)
        if isinstance(outcome, asyncio.Future):
            return WatchedResult(view, outcome, value, on_error)
        return Result(None, outcome)
    future: ThreadFuture[Any] = ThreadFuture()
    future.set_running_or_notify_cancel()
    view.call(_run, future, function, args, value)
    return WatchedResult(view, future, value, on_error)


def _run(target: "ThreadFuture[Any]", function: Callable[..., Any], args: Any, value: Any) -> None:
    try:
        outcome = function(*args)
    except Exception as error:
        target.set_exception(error)
        return
    if isinstance(outcome, asyncio.Future):
        outcome.add_done_callback(partial(_copy, target, value))
    else:
        target.set_result(outcome)


def _copy(target: "ThreadFuture[Any]", value: Any, source: "asyncio.Future[Any]") -> None:
    if source.cancelled():
        target.set_result(value)
    elif error := source.exception():
        target.set_exception(error)
    else:
        target.set_result(source.result())


def _report(future: Any, on_error: OnError) -> None:
    def report(done: Any) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            on_error(error)

    future.add_done_callback(report)
