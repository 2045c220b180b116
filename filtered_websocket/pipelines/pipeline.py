"""A pipeline: the chains and the codec of a route, built from a list of filters."""

import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation

from ..chains.chain import Chain
from ..chains.stage import CHECKS, FilterClass
from ..conf import SettingError, conf
from ..exceptions import FilterError, PublishError
from ..filters import base
from ..logs import REMEMBERED, LogThrottle, fields_of, get_logger, place_of, recent
from ..types import Codec
from .entries import Entry, Named, PipelineError, load_entry
from .rules import Rules

logger = get_logger(__name__)

#: Chain -> (its base, whether its data is always a bytearray without a codec).
CHAINS: dict[str, tuple[Any, bool]] = {
    "connect": (base.WebSocketConnectFilter, False),
    "join": (base.WebSocketJoinFilter, False),
    "data": (base.WebSocketDataFilter, True),
    "message": (base.WebSocketMessageFilter, True),
    "call": (base.WebSocketCallFilter, False),
    "group": (base.WebSocketGroupFilter, True),
    "send": (base.WebSocketSendFilter, True),
    "consumer": (base.WebSocketConsumerFilter, False),
    "leave": (base.WebSocketLeaveFilter, False),
    "disconnect": (base.WebSocketDisconnectFilter, False),
}
#: Of a filter that uses the database, or the like, on the event loop.
BLOCKING = (
    "set 'blocking = True' on the filter, or on the function of the group rule, a 'def', which"
    " then runs in a thread; or make it"
    " 'async def' and await Django's async methods, as aget()"
)
#: Of one that takes the bytes of a message for text, or for what JSON makes of it.
BYTES = (
    "a message is a bytearray: data.decode() is its text;"
    " with FILTERED_WEBSOCKET['CODEC'] = 'filtered_websocket.json_codec.JSONCodec', or that as the"
    " codec= of the route, it is what JSON makes of it"
)
#: Class of an exception, a part of its text ("": any) -> what ends the log line of the filter.
CURES: tuple[tuple[type[BaseException], str, str], ...] = (
    (SynchronousOnlyOperation, "", BLOCKING),
    (TypeError, '(not "bytearray") to str', BYTES),
    (TypeError, "can't concat str to bytearray", BYTES),
    (TypeError, "bytearray indices must be integers", BYTES),
    (AttributeError, "'bytearray' object has no attribute", BYTES),
    (
        TypeError,
        "NoneType can't be used in 'await' expression",
        "push, publish and close return at once: only send, apublish, join and leave are awaited",
    ),
    (
        RuntimeError,
        "asyncio.run() cannot be called",
        "make the filter 'async def' and use 'await'",
    ),
    (
        AttributeError,
        "'HubView' object has no attribute",
        "a group or consumer filter gets the hub, as it runs once for all recipients: a"
        " WebSocketSendFilter gets each of them",
    ),
    (
        AttributeError,
        "'str' object has no attribute 'push'",
        "users has ids: use web_socket_instance.users.values()",
    ),
)
BUNDLED = "filtered_websocket.filters."
#: Of a bundled filter that publishes what came out of the one before it.
RETURNED = "what a filter returns is the next one's input: look at the filters before it"
#: The home group of a route that names neither filters nor groups.
DEFAULT_GROUP = "default"

MayJoin = Callable[[Any, str], bool | Awaitable[bool]]


class Pipeline:
    """Chains and a codec. Raises :exc:`PipelineError` if it cannot be built."""

    def __init__(
        self,
        entries: Sequence[Entry],
        codec: Codec | None = None,
        may_join: MayJoin | None = None,
        home: str = DEFAULT_GROUP,
        rules: Rules | None = None,
        calls: int = 1,
        protocol: Any = None,
    ) -> None:
        #: How its clients speak; None: a frame is a message.
        self.protocol = protocol
        #: The group of ``publish`` calls that name none.
        self.home = home
        self.codec = codec
        self.may_join = may_join
        #: What its connections may join; None: whatever its filters join.
        self.rules = rules
        #: How many calls of one connection run at once.
        self.calls = calls
        #: Chain -> what its filters are called in :meth:`lines`.
        self.labels: dict[str, list[str]] = {}
        self._add_chains([pair for entry in entries for pair in load_entry(entry)])
        #: Whether its connections keep a ``Subscription`` of each of their groups.
        self.has_subscriptions = bool(rules is not None or self.join or self.leave)
        self._throttle = LogThrottle()
        #: Filter path -> how often it raised.
        self.failures: Counter[str] = Counter()

    def _add_chains(self, found: list[Named]) -> None:
        chains: dict[str, Chain] = {}
        for name, (chain_base, bytes_only) in CHAINS.items():
            mine = [(label, cls) for label, cls in found if issubclass(cls, chain_base)]
            self.labels[name] = [label for label, _ in mine]
            chains[name] = _chain(
                name,
                [cls for _, cls in mine],
                bytes_only and (self.codec is None or name == "data"),
            )
        self.connect = chains["connect"]
        self.data = chains["data"]
        self.message = chains["message"]
        self.group = chains["group"]
        self.send = chains["send"]
        self.consumer = chains["consumer"]
        #: One chain per filter: each gets the subscription, whatever the one before returned.
        self.join = _one_by_one(chains["join"])
        self.leave = _one_by_one(chains["leave"])
        #: One chain per filter: the first answer ends it.
        self.call = _one_by_one(chains["call"])
        #: One chain per filter: if one raises, the next ones still run.
        self.disconnect = _one_by_one(chains["disconnect"])
        for chain in self.chains:
            chain.pipeline = weakref.ref(self)

    @property
    def chains(self) -> tuple[Chain, ...]:
        """All of them, in the order of :data:`CHAINS`."""
        return (
            self.connect,
            *self.join,
            self.data,
            self.message,
            *self.call,
            self.group,
            self.send,
            self.consumer,
            *self.leave,
            *self.disconnect,
        )

    def labels_of(self, chain: Chain) -> list[str]:
        """What the filters of one of :attr:`chains` are called in :meth:`lines`."""
        labels, chains = self.labels[chain.name], getattr(self, chain.name)
        return labels if chains is chain else [labels[chains.index(chain)]]

    def lines(self) -> list[str]:
        """The pipeline written as shell pipes, one line per chain that has filters."""
        width = max(len(name) for name in CHAINS)
        return [
            f"{name:{width}} | {' | '.join(labels)}"
            for name, labels in self.labels.items()
            if labels
        ]

    def failed(self, error: BaseException, where: Any, who: str = "the codec") -> None:
        """
        Count an error of a filter, and log it with its traceback: with DEBUG each time, else
        at most once in 10 s for the same filter, class of the exception and line. ``where`` is
        a connection, or a text.
        """
        path = error.path if isinstance(error, FilterError) else who
        self.failures[path] += 1
        cause = error.__cause__ or error
        kind, line = type(cause).__name__, _line_of(cause)
        place = place_of(where)
        recent.failed(path, cause, line, place)
        if not (self._throttle.note(f"{path} {kind} {line}") or settings.DEBUG):
            return
        cure = _cure_of(path, cause)
        count = self.failures[path]
        text = "%s raised %s on %s (%d so far)%s"
        told = {REMEMBERED: True, **fields_of(where)}
        logger.error(text, path, kind, place, count, cure, exc_info=cause, extra=told)


def _cure_of(path: str, error: BaseException) -> str:
    """The end of the line of the log about a mistake that many make, or nothing."""
    if isinstance(error, PublishError) and path.startswith(BUNDLED):
        return f": {RETURNED}" if isinstance(error.__cause__, TypeError) else ""
    words = error.args[0] if error.args else ""
    for kind, part, cure in CURES:
        if isinstance(error, kind) and (not part or (isinstance(words, str) and part in words)):
            return f": {cure}"
    return ""


def _line_of(error: BaseException) -> str:
    """File and line where ``error`` was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return (
        ""
        if traceback is None
        else f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}"
    )


def _one_by_one(chain: Chain) -> tuple[Chain, ...]:
    """A chain for each filter of ``chain``."""
    return tuple(_chain(chain.name, [cls], False) for cls in chain.filters)


def _chain(name: str, filters: Iterable[type[FilterClass]], bytes_only: bool) -> Chain:
    try:
        # Read once: pipelines are built again when the setting changes.
        timeout, check = conf.FILTER_TIMEOUT, CHECKS.get(name)
        return Chain(name, filters, bytes_only=bytes_only, timeout=timeout, check=check)
    except SettingError as error:  # of what a filter declares
        raise PipelineError(f"INSTALLED_FILTERS: {error.message}", error.hint, 34) from error
    except (TypeError, ValueError) as error:
        # ValueError: Python knows no signature of it (of a function written in C).
        raise PipelineError(f"INSTALLED_FILTERS: {error}.", "Change the filter.", 11) from error
