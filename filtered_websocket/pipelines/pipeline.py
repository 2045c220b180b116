"""A pipeline: the six chains and the codec of a route, built from a list of filters."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from ..chains.chain import Chain
from ..chains.stage import FilterClass
from ..conf import conf
from ..exceptions import FilterError
from ..filters import base
from ..logs import LogThrottle, get_logger
from ..types import Codec
from .entries import Entry, PipelineError, load_entry

logger = get_logger(__name__)

#: Chain -> (its base, whether its data is always a bytearray without a codec).
CHAINS: dict[str, tuple[Any, bool]] = {
    "connect": (base.WebSocketConnectFilter, False),
    "data": (base.WebSocketDataFilter, True),
    "message": (base.WebSocketMessageFilter, True),
    "group": (base.WebSocketGroupFilter, True),
    "consumer": (base.WebSocketConsumerFilter, False),
    "disconnect": (base.WebSocketDisconnectFilter, False),
}
#: The home group of a route that names neither filters nor groups.
DEFAULT_GROUP = "default"

MayJoin = Callable[[Any, str], bool | Awaitable[bool]]


class Pipeline:
    """Six chains and a codec. Raises :exc:`PipelineError` if it cannot be built."""

    def __init__(
        self,
        entries: Sequence[Entry],
        codec: Codec | None = None,
        may_join: MayJoin | None = None,
        home: str = DEFAULT_GROUP,
    ) -> None:
        #: The group of ``publish`` calls that name none.
        self.home = home
        self.codec = codec
        self.may_join = may_join
        found = [pair for entry in entries for pair in load_entry(entry)]
        self._labels: dict[str, list[str]] = {}
        chains: dict[str, Chain] = {}
        for name, (chain_base, bytes_only) in CHAINS.items():
            mine = [(label, cls) for label, cls in found if issubclass(cls, chain_base)]
            self._labels[name] = list(dict.fromkeys(label for label, _ in mine))
            chains[name] = _chain(
                name,
                [cls for _, cls in mine],
                bytes_only and (codec is None or name == "data"),
            )
        self.connect = chains["connect"]
        self.data = chains["data"]
        self.message = chains["message"]
        self.group = chains["group"]
        self.consumer = chains["consumer"]
        #: One chain per filter: if one raises, the next ones still run.
        self.disconnect = tuple(
            _chain("disconnect", [cls], False) for cls in chains["disconnect"].filters
        )
        self._throttle = LogThrottle()
        #: Filter path -> how often it raised.
        self.failures = self._throttle.counts

    def lines(self) -> list[str]:
        """The pipeline written as shell pipes, one line per chain that has filters."""
        width = max(len(name) for name in CHAINS)
        return [
            f"{name:{width}} | {' | '.join(labels)}"
            for name, labels in self._labels.items()
            if labels
        ]

    def failed(self, error: BaseException, where: str, who: str = "the codec") -> None:
        """Count an error of a filter; log it with its traceback, at most every 10 s per filter."""
        path = error.path if isinstance(error, FilterError) else who
        if not self._throttle.note(path):
            return
        cause = error.__cause__ or error
        logger.error(
            "%s raised %s on %s (%d so far)",
            path,
            type(cause).__name__,
            where,
            self.failures[path],
            exc_info=cause,
        )


def _chain(name: str, filters: Iterable[type[FilterClass]], bytes_only: bool) -> Chain:
    try:
        # Read once: pipelines are built again when the setting changes.
        return Chain(name, filters, bytes_only=bytes_only, timeout=conf.FILTER_TIMEOUT)
    except (TypeError, ValueError) as error:
        # ValueError: Python knows no signature of it (of a function written in C).
        raise PipelineError(f"INSTALLED_FILTERS: {error}.", "Change the filter.", 11) from error
