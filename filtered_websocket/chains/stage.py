"""One filter of a chain: how it is called, decided once, when the pipeline is built."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Generator
from typing import Any, ClassVar, NamedTuple, Protocol

from asgiref.sync import iscoroutinefunction

from ..exceptions import Close, Drop
from ..observe import FilterStats
from ..types import Call
from .typed import method_of, typed_of


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


#: ``filter`` of a filter, as a chain calls it.
CallFilter = Callable[[Any, Any], Any]
#: How a filter, which may be async, is called where it declares what its data is.
Check = Callable[[type[FilterClass], CallFilter, bool], CallFilter]


def make_stage(
    cls: "type[FilterClass]", timeout: float | None, check: Check | None = None
) -> Stage:
    """
    Decide how to call ``cls.filter``. TypeError if its kind or signature does not fit, and what
    ``check`` raises.
    """
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

    if inspect.isgeneratorfunction(raw.__func__) or inspect.isasyncgenfunction(raw.__func__):
        raise TypeError(f"{path}.filter is a generator, as it has 'yield': use 'return'")
    is_async = iscoroutinefunction(raw.__func__) or iscoroutinefunction(function)
    if is_async and cls.blocking:
        raise TypeError(f"{path} is blocking and its filter is async: choose one")
    if check is not None:
        call = check(cls, call, is_async)
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


# What declares a type


class Later:
    """The result of a filter that awaits, which a decorator hid: ``value`` where it is None."""

    def __init__(self, result: Any, value: Any) -> None:
        self._result = result
        self._value = value

    def __await__(self) -> Generator[Any, Any, Any]:
        result = yield from self._result.__await__()
        return self._value if result is None else result

    def close(self) -> None:
        """It is not awaited."""
        getattr(self._result, "close", str)()

    def __repr__(self) -> str:
        return repr(self._result)


def check_message(cls: "type[FilterClass]", call: CallFilter, is_async: bool) -> CallFilter:
    """How a chain calls a message filter. SettingError for a type that cannot be used."""
    typed = typed_of(cls)
    if typed is None:
        return call
    read = typed.read

    def run(web_socket_instance: Any, data: Any) -> Any:
        value = read(web_socket_instance, data)
        result = call(web_socket_instance, value)
        if result is None:
            return value
        return Later(result, value) if hasattr(result, "__await__") else result

    async def arun(web_socket_instance: Any, data: Any) -> Any:
        value = read(web_socket_instance, data)
        result = await call(web_socket_instance, value)
        return value if result is None else result

    return arun if is_async else run


def check_call(cls: "type[FilterClass]", call: CallFilter, is_async: bool) -> CallFilter:
    """The same of a call filter, for the data of a call."""
    typed = typed_of(cls)
    if typed is None:
        return call
    read, method = typed.read, method_of(cls)

    def run(web_socket_instance: Any, asked: Call) -> Any:
        if asked.method != method:
            return None
        return call(web_socket_instance, read(web_socket_instance, asked.data))

    async def arun(web_socket_instance: Any, asked: Call) -> Any:
        if asked.method != method:
            return None
        return await call(web_socket_instance, read(web_socket_instance, asked.data))

    return arun if is_async else run


# What decides who may come in


def check_gate(cls: "type[FilterClass]", call: CallFilter, is_async: bool) -> CallFilter:
    """
    How a chain calls a filter that refuses by an exception: TypeError if it returns False, or
    that exception, which would let everybody in.
    """

    def run(web_socket_instance: Any, data: Any) -> Any:
        result = call(web_socket_instance, data)
        return _awaited(result) if hasattr(result, "__await__") else _no_refusal(result)

    async def arun(web_socket_instance: Any, data: Any) -> Any:
        return _no_refusal(await call(web_socket_instance, data))

    return arun if is_async else run


async def _awaited(result: Any) -> Any:
    return _no_refusal(await result)


def _no_refusal(result: Any) -> Any:
    kind = result if isinstance(result, type) else type(result)
    if result is False or issubclass(kind, Drop | Close):
        what = "False" if result is False else kind.__name__
        raise TypeError(
            f"it returned {what}: to refuse, 'raise Drop' or 'raise Close(code, reason)'"
        )
    return result


#: Chain -> how its filters are called, of those that let in, or that a client's data reaches.
CHECKS: dict[str, Check] = {
    "connect": check_gate,
    "join": check_gate,
    "message": check_message,
    "call": check_call,
}
