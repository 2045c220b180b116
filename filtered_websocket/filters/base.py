"""
Chains: a filter is a class, a chain is the filters of one server event, in order.

::

    class AFilter(FilterMeta):
        pass

    class A(FilterBase, metaclass=AFilter):     # a chain base: owns a chain
        pass

    class B(A):                                 # a filter: appended to A's chain
        @classmethod
        def filter(cls, web_socket_instance, data):
            print("foo")

    class C(A):
        @classmethod
        def filter(cls, web_socket_instance, data):
            print("bar")

    A.run(web_socket_instance)                  # foo, bar

What a filter returns is the next filter's input; ``None`` means "as it is now", so
a filter that changes a bytearray in place, or only looks, needs no return.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from asgiref.sync import iscoroutinefunction

from ..exceptions import Close, Drop, FilterError
from ..threads.blocking import run_blocking

#: The ``type`` of events of the consumer chain that the house itself makes.
HOUSE_EVENTS = frozenset({"gap", "layer_back", "layer_lost", "publish_failed"})


class Stage(NamedTuple):
    """One filter, with everything about it decided: how to call it, how to name it."""

    call: Callable[[Any, Any], Any]
    path: str
    is_async: bool
    blocking: bool


def dotted_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _stage(cls: "type[FilterBase]", timeout: float | None) -> Stage:
    """How to call ``cls.filter``; a :exc:`TypeError` says what does not fit."""
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

        def call(web_socket_instance: Any, data: Any) -> Any:
            return function(web_socket_instance)

    is_async = iscoroutinefunction(raw.__func__) or iscoroutinefunction(function)
    if is_async and cls.blocking:
        raise TypeError(f"{path} is blocking and its filter is async: choose one")
    if is_async and timeout is not None:
        call = _in_time(call, timeout)
    return Stage(call, path, is_async, cls.blocking)


def _in_time(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """``call``, which is async, or a :exc:`TimeoutError`."""

    async def timed(web_socket_instance: Any, data: Any) -> Any:
        try:
            async with asyncio.timeout(seconds) as limit:
                return await call(web_socket_instance, data)
        except TimeoutError:
            if not limit.expired():
                raise  # the filter's own
            raise TimeoutError(f"FILTER_TIMEOUT is {seconds} s") from None

    return timed


def as_bytearray(data: Any) -> Any:
    """Make a returned ``str`` or ``bytes`` the mutable bytearray that filters expect."""
    if isinstance(data, str):
        return bytearray(data, "utf-8")
    if isinstance(data, bytes | memoryview):
        return bytearray(data)
    return data


class Chain:
    """
    Filters in order, ready to run.

    An exception of a filter other than ``Drop`` and ``Close`` comes out as
    :exc:`~filtered_websocket.exceptions.FilterError`, which names the filter. So does an
    async filter that takes longer than ``timeout`` seconds, where that is given.
    """

    __slots__ = ("_bytes", "awaits", "filters", "name", "stages")

    def __init__(
        self,
        name: str,
        filters: "Iterable[type[FilterBase]]" = (),
        *,
        bytes_only: bool = False,
        timeout: float | None = None,
    ) -> None:
        self.name = name
        self.filters = tuple(filters)
        self.stages = tuple(_stage(cls, timeout) for cls in self.filters)
        #: Whether a stage must be awaited: only then is :meth:`run` refused.
        self.awaits = any(stage.is_async or stage.blocking for stage in self.stages)
        self._bytes = bytes_only

    def __bool__(self) -> bool:
        return bool(self.stages)

    def run(self, instance: Any, data: Any = None) -> Any:
        """Pipe ``data`` through on this thread; async filters are a RuntimeError."""
        path = ""
        try:
            for call, path, is_async, _ in self.stages:  # noqa: B007 - named below
                if is_async:
                    raise RuntimeError(
                        f"a filter in {self.name} awaits: use 'await {self.name}.arun()'"
                    )
                result = call(instance, data)
                if result is not None:
                    if hasattr(result, "__await__"):
                        getattr(result, "close", str)()
                        raise TypeError(f"it returned {result!r:.80}: write it as 'async def'")
                    data = as_bytearray(result) if self._bytes else result
        except (Drop, Close):
            raise
        except (Exception, asyncio.CancelledError) as error:
            # Nothing awaits here: what was cancelled is none of this task's.
            raise FilterError(path) from error
        return data

    async def arun(self, instance: Any, data: Any = None) -> Any:
        """Pipe ``data`` through, awaiting what awaits, blocking filters in a thread."""
        path = ""
        try:
            for call, path, is_async, blocking in self.stages:  # noqa: B007 - named below
                if is_async:
                    result = await call(instance, data)
                elif blocking:
                    result = await run_blocking(call, instance, data)
                else:
                    result = call(instance, data)
                if hasattr(result, "__await__"):
                    # It awaits and does not look like it: some decorator's work.
                    result = await result
                if result is not None:
                    data = as_bytearray(result) if self._bytes else result
        except (Drop, Close):
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            raise FilterError(path) from error
        return data


def _is_cancelled() -> bool:
    """Whether this task is cancelled; else a filter awaited what is."""
    task = asyncio.current_task()
    return task is None or bool(task.cancelling())


class FilterMeta(type):
    """
    Registers filters. A class directly on :class:`FilterBase` is a chain base and
    gets a chain of its own; any other appends itself to its base's chain.

    A leading underscore keeps a helper base out of the chain.
    """

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
        super().__init__(name, bases, namespace)
        if FilterBase in bases:
            cls._own_chain = Chain(name)
            cls._chain_base = cls
            return
        owners = {base._chain_base for base in bases if isinstance(base, FilterMeta)}
        if len(owners) > 1:
            names = " and ".join(sorted(owner.__name__ for owner in owners))
            raise TypeError(f"{dotted_path(cls)} is on two chains, {names}: make it two filters")
        if not name.startswith("_") and namespace.get("_registers", True):
            owner = owners.pop()
            filters: Any = (*owner._own_chain.filters, cls)
            owner._own_chain = Chain(owner.__name__, filters)

    # Set on chain bases by __init__; declared for those who read a filter's class.
    _own_chain: Chain
    _chain_base: "FilterMeta"


class FilterBase:
    """The root of every chain base; see the module's example."""

    #: True runs a plain ``def`` filter in a thread of the house; it may block there.
    blocking: ClassVar[bool] = False

    if TYPE_CHECKING:
        # Any signature that _stage accepts is a proper override.
        filter: ClassVar[Callable[..., Any]]
    else:

        @classmethod
        def filter(cls, web_socket_instance, data=None):
            """What this filter does; overridden in every filter."""
            raise NotImplementedError(f"{dotted_path(cls)} defines no filter()")

    @classmethod
    def run(cls, web_socket_instance: Any, data: Any = None) -> Any:
        """
        Pipe ``data`` through every filter defined on this chain base.

        Raises what a filter raises, and RuntimeError where one is ``async``.
        """
        try:
            return cls._chain_base._own_chain.run(web_socket_instance, data)  # type: ignore[attr-defined]
        except FilterError as error:
            raise error.__cause__ or error from None

    @classmethod
    async def arun(cls, web_socket_instance: Any, data: Any = None) -> Any:
        """:meth:`run`, awaiting async filters and running blocking ones in a thread."""
        try:
            return await cls._chain_base._own_chain.arun(web_socket_instance, data)  # type: ignore[attr-defined]
        except FilterError as error:
            raise error.__cause__ or error from None


class WebSocketConnectFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs once per connection, before it is accepted.

    ``data`` is the :class:`~filtered_websocket.connections.connection.Handshake`. ``Drop``,
    ``Close`` and any error refuse the connection.
    """


class WebSocketDataFilter(FilterBase, metaclass=FilterMeta):
    """Runs on every frame, before it is decoded; ``data`` is a mutable bytearray."""


class WebSocketMessageFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs on every frame that decoded; ``data`` is a mutable bytearray, or what the
    route's codec made of the frame.
    """


class WebSocketGroupFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs on every group message, once per process and pipeline with members here,
    before it is fanned out. What it returns is fanned out; ``Drop`` keeps it from
    this pipeline's members here.
    """


class WebSocketConsumerFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs on events that reach a process: Redis pub/sub, whatever is put in a
    ``queue``, the house's own. ``web_socket_instance`` is the hub as the pipeline
    sees it. Nothing happens to what comes out.
    """


class WebSocketDisconnectFilter(FilterBase, metaclass=FilterMeta):
    """
    Runs once per accepted connection, on every way out; ``data`` is ``None``. Every
    filter runs, whatever an earlier one raises.
    """


def printable(data: Any) -> str:
    """
    ``data`` as text on one line: bytes as UTF-8, control characters and what is not
    UTF-8 escaped as Python escapes them, so that output cannot be forged.
    """
    if isinstance(data, bytes | bytearray):
        data = data.decode("utf-8", "backslashreplace")
    text = str(data)
    strange = (char for char in set(text) if not char.isprintable())
    return text.translate({ord(char): char.encode("unicode_escape").decode() for char in strange})
