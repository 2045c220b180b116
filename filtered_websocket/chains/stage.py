"""One filter of a chain: how it is called, decided once, when the pipeline is built."""

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol

from asgiref.sync import iscoroutinefunction

from ..observe import FilterStats


class FilterClass(Protocol):
    """The part of a filter that a chain uses."""

    blocking: ClassVar[bool]
    filter: ClassVar[Callable[..., Any]]


class Stage(NamedTuple):
    """
    One filter of a built chain: how to call it, its dotted path for messages, and what it has
    done.
    """

    call: Callable[[Any, Any], Any]
    path: str
    is_async: bool
    blocking: bool
    stats: FilterStats


def dotted_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def make_stage(cls: "type[FilterClass]", timeout: float | None) -> Stage:
    """Decide how to call ``cls.filter``. TypeError if its kind or signature does not fit."""
    path = dotted_path(cls)
    raw = inspect.getattr_static(cls, "filter")
    if not isinstance(raw, classmethod | staticmethod):
        raise TypeError(f"{path}.filter is an instance method: make it a classmethod")
    function: Callable[..., Any] = cls.filter
    try:
        inspect.signature(function).bind(None, None)
        call = function
    except TypeError:
        try:
            inspect.signature(function).bind(None)
        except TypeError:
            raise TypeError(
                f"{path}.filter{inspect.signature(function)} must take"
                " (web_socket_instance, data) or (web_socket_instance)"
            ) from None

        @functools.wraps(function)
        def call(web_socket_instance: Any, data: Any) -> Any:
            return function(web_socket_instance)

    is_async = iscoroutinefunction(raw.__func__) or iscoroutinefunction(function)
    if is_async and cls.blocking:
        raise TypeError(f"{path} is blocking and its filter is async: choose one")
    if is_async and timeout is not None:
        call = _in_time(call, timeout)
    return Stage(call, path, is_async, cls.blocking, FilterStats(path))


def _in_time(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Wrap the async ``call``: TimeoutError after ``seconds``."""

    async def timed(web_socket_instance: Any, data: Any) -> Any:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await call(web_socket_instance, data)
        except TimeoutError:
            if not limit.expired():
                raise  # raised by the filter itself
            raise TimeoutError(f"FILTER_TIMEOUT is {seconds} s") from None

    return timed


def as_bytearray(data: Any) -> Any:
    """Make a returned ``str`` or ``bytes`` the mutable bytearray that filters expect."""
    if isinstance(data, str):
        return bytearray(data, "utf-8")
    if isinstance(data, bytes | memoryview):
        return bytearray(data)
    return data
