"""The filters of one server event, in order, and how an event goes through them."""

from collections.abc import Iterable
from typing import Any

from ..exceptions import Close, Drop, FilterError, ends_the_task
from ..threads.blocking import run_blocking
from .stage import FilterClass, as_bytearray, make_stage


class Chain:
    """
    Filters in order, ready to run.

    An exception of a filter, of any class but ``Drop``, ``Close`` and KeyboardInterrupt, comes
    out as :exc:`~filtered_websocket.exceptions.FilterError`, which names the filter. So does
    an async filter that takes longer than ``timeout`` seconds.
    """

    __slots__ = ("_bytes", "awaits", "filters", "name", "stages")

    def __init__(
        self,
        name: str,
        filters: "Iterable[type[FilterClass]]" = (),
        *,
        bytes_only: bool = False,
        timeout: float | None = None,
    ) -> None:
        self.name = name
        self.filters = tuple(filters)
        self.stages = tuple(make_stage(cls, timeout) for cls in self.filters)
        #: Whether a stage must be awaited: only then is :meth:`run` refused.
        self.awaits = any(stage.is_async or stage.blocking for stage in self.stages)
        self._bytes = bytes_only

    def __bool__(self) -> bool:
        return bool(self.stages)

    def run(self, instance: Any, data: Any = None) -> Any:
        """Pipe ``data`` through on this thread. RuntimeError if a filter is async."""
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
        except (Drop, Close, FilterError):
            raise  # an error of a chain that a filter has set off names its filter already
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Of any class: a SystemExit would end the process, not this event.
            raise FilterError(path) from error
        return data

    async def arun(self, instance: Any, data: Any = None) -> Any:
        """Pipe ``data`` through: async filters are awaited, blocking ones run in a thread."""
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
                    # An async filter that a decorator hid from iscoroutinefunction.
                    result = await result
                if result is not None:
                    data = as_bytearray(result) if self._bytes else result
        except (Drop, Close, FilterError):
            raise
        except BaseException as error:
            if ends_the_task(error):
                raise
            raise FilterError(path) from error
        return data

    async def pipe(self, instance: Any, data: Any = None) -> Any:
        """:meth:`arun` where a filter awaits, else :meth:`run`, which costs less."""
        if self.awaits:
            return await self.arun(instance, data)
        return self.run(instance, data)
