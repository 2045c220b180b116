"""The filters of one server event, in order, and how an event goes through them."""

from collections.abc import Callable, Iterable
from typing import Any

from ..exceptions import Close, Drop, FilterError, ends_the_task
from ..observe import QUICK, Watcher, Watches, add_chain, begin, clock
from ..quoting import keep_secret
from ..threads.blocking import run_blocking
from .stage import Check, FilterClass, Stage, as_bytearray, make_stage


class Chain:
    """
    Filters in order, ready to run.

    An exception of a filter, of any class but ``Drop``, ``Close`` and KeyboardInterrupt, comes
    out as :exc:`~filtered_websocket.exceptions.FilterError`, which names the filter. So does
    an async filter that takes longer than ``timeout`` seconds. ``check`` is how filters are called
    that declare a type, one of :data:`.stage.CHECKS`.

    Each run of a filter is counted and timed in the ``stats`` of its stage: the clock is read
    once between two filters.
    """

    __slots__ = (
        "__weakref__",
        "_bytes",
        "awaits",
        "filters",
        "name",
        "pipeline",
        "stages",
        "watchers",
    )
    #: What sees its events: :mod:`~filtered_websocket.observe`.
    watchers: tuple[Watcher, ...]

    def __init__(
        self,
        name: str,
        filters: "Iterable[type[FilterClass]]" = (),
        *,
        bytes_only: bool = False,
        timeout: float | None = None,
        check: Check | None = None,
    ) -> None:
        self.name = name
        self.filters = tuple(filters)
        self.stages = tuple(make_stage(cls, timeout, check) for cls in self.filters)
        #: Whether a stage must be awaited: only then is :meth:`run` refused.
        self.awaits = any(stage.is_async or stage.blocking for stage in self.stages)
        self._bytes = bytes_only
        #: Returns its pipeline, or None: it has none, or that is gone.
        self.pipeline: Callable[[], Any] = no_pipeline
        add_chain(self)

    def __bool__(self) -> bool:
        return bool(self.stages)

    def run(self, instance: Any, data: Any = None) -> Any:
        """Pipe ``data`` through on this thread. RuntimeError if a filter is async."""
        path = ""
        if self.watchers and (watches := begin(self, instance, data)) is not None:
            return self._run_watched(watches, instance, data)
        began = clock() if self.stages else 0.0
        try:
            for call, path, is_async, _, stats in self.stages:  # noqa: B007 - named below
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
                ended = clock()
                stats.seconds += (seconds := ended - began)
                if seconds <= QUICK:
                    stats.quick += 1
                else:
                    stats.note_slow(seconds)
                began = ended
        except (Drop, Close, FilterError) as error:
            stats.stopped(clock() - began, error)
            raise  # an error of a chain that a filter has set off names its filter already
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            # Of any class: a SystemExit would end the process, not this event.
            stats.stopped(clock() - began, error)
            keep_secret(error, data)
            raise FilterError(path) from error
        return data

    async def arun(self, instance: Any, data: Any = None) -> Any:
        """Pipe ``data`` through: async filters are awaited, blocking ones run in a thread."""
        path = ""
        if self.watchers and (watches := begin(self, instance, data)) is not None:
            return await self._arun_watched(watches, instance, data)
        began = clock() if self.stages else 0.0
        try:
            for call, path, is_async, blocking, stats in self.stages:  # noqa: B007 - named below
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
                ended = clock()
                stats.seconds += (seconds := ended - began)
                if seconds <= QUICK:
                    stats.quick += 1
                else:
                    stats.note_slow(seconds)
                began = ended
        except (Drop, Close, FilterError) as error:
            stats.stopped(clock() - began, error)
            raise
        except BaseException as error:
            if ends_the_task(error):
                raise
            stats.stopped(clock() - began, error)
            keep_secret(error, data)
            raise FilterError(path) from error
        return data

    async def pipe(self, instance: Any, data: Any = None) -> Any:
        """:meth:`arun` where a filter awaits, else :meth:`run`, which costs less."""
        if self.awaits:
            return await self.arun(instance, data)
        return self.run(instance, data)

    # Watched

    def _run_watched(self, watches: Watches, instance: Any, data: Any) -> Any:
        try:
            data = self._twin(watches, watched).run(instance, data)
        except BaseException as error:
            watches.tell("end", None, error)
            raise
        watches.tell("end", data, None)
        return data

    async def _arun_watched(self, watches: Watches, instance: Any, data: Any) -> Any:
        try:
            data = await self._twin(watches, watched_async).arun(instance, data)
        except BaseException as error:
            watches.tell("end", None, error)
            raise
        watches.tell("end", data, None)
        return data

    def _twin(self, watches: Watches, watch: "Callable[[Stage, Watches], Stage]") -> "Chain":
        """This chain for one event, which ``watches`` see."""
        twin = Chain.__new__(Chain)
        twin.name, twin._bytes, twin.watchers = self.name, self._bytes, ()
        twin.stages = tuple(watch(stage, watches) for stage in self.stages)
        return twin


def no_pipeline() -> None:
    """Of chains that belong to none."""


def watched(stage: Stage, watches: Watches) -> Stage:
    """``stage``, of a chain that runs on one thread."""

    def call(instance: Any, data: Any) -> Any:
        with watches.stage(stage.path, data) as passing:
            result = stage.call(instance, data)
            passing.returned(result)
        return result

    return stage if stage.is_async else stage._replace(call=call)


def watched_async(stage: Stage, watches: Watches) -> Stage:
    """``stage``, of a chain that is awaited."""

    async def call(instance: Any, data: Any) -> Any:
        with watches.stage(stage.path, data) as passing:
            if stage.blocking:
                result = await run_blocking(stage.call, instance, data)
            else:
                result = stage.call(instance, data)
            if hasattr(result, "__await__"):
                result = await result
            passing.returned(result)
        return result

    return stage._replace(call=call, is_async=True, blocking=False)
