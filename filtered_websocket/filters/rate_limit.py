"""
Limit how many messages a client may send.

A token bucket: after a pause a client may send ``burst`` messages at once, then ``rate``.
Messages are counted before they are decoded, in the memory of one process.
"""

import time
from collections import OrderedDict
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from ..close_codes import TOO_MANY
from ..exceptions import Close, Drop
from .base import WebSocketDataFilter

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: How many users or addresses are remembered. One more, and the one that was silent for
#: longest is forgotten: it starts with a full bucket again.
MAX_KEYS = 10_000


class Buckets:
    """The buckets of all keys; for each only the time when it will be full is stored."""

    def __init__(self, rate: str, burst: int | None) -> None:
        count, slash, unit = rate.partition("/")
        if not (count.isascii() and count.isdigit() and int(count) and slash and unit in UNITS):
            raise ValueError(f"rate is {rate!r}: write it as 20/s, 600/m or 5000/h")
        if burst is not None and burst < 1:
            raise ValueError(f"burst is {burst!r}: it must be at least 1")
        self._pause = UNITS[unit] / int(count)
        self._depth = self._pause * (int(count) if burst is None else burst)
        self._of_connections: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._of_others: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of_connections) + len(self._of_others)

    def take(self, key: Any) -> bool:
        """Take one message from the bucket of ``key``. Returns whether there was one left."""
        now = time.monotonic()
        of: Any = self._of_others if isinstance(key, str) else self._of_connections
        full = max(of.get(key, now), now) + self._pause
        # Allow for rounding errors, so that a burst is not one message short.
        is_left: bool = full - now <= self._depth + self._pause / 1000
        if is_left:
            of[key] = full
        if isinstance(key, str):
            # Also if refused: otherwise a client that floods would be forgotten first.
            of.move_to_end(key)
            if len(of) > MAX_KEYS:
                of.popitem(last=False)
        return is_left


class TooMany(Drop):
    """A message over the limit."""


class RateLimitFilter(WebSocketDataFilter):
    """
    ``action`` is what happens to a message over the limit: ``drop`` it, ``answer`` with an
    error, or ``close`` the connection with 4102.

    Where clients speak a protocol every command is counted, and one over the limit is
    answered with the protocol's error unless the connection is closed.
    """

    #: Messages per second, minute or hour, as 20/s, 600/m or 5000/h.
    rate: str = "20/s"
    #: Messages at once after a pause; None: the number in ``rate``.
    burst: int | None = None
    #: Which messages are counted together. Without a user (or address) each connection is
    #: counted alone.
    per: Literal["connection", "user", "address"] = "connection"
    action: Literal["drop", "answer", "close"] = "drop"

    _buckets: ClassVar[Buckets] = Buckets(rate, burst)

    def __init_subclass__(cls) -> None:
        # Options are set by making a subclass; it counts apart.
        cls._buckets = Buckets(cls.rate, cls.burst)

    @classmethod
    def filter(cls, web_socket_instance: Any) -> None:
        if not getattr(web_socket_instance, "counts_commands", False):
            try:
                cls.count(web_socket_instance)
            except TooMany:
                if cls.action == "answer":
                    web_socket_instance.push("Error: Too many messages")
                raise

    @classmethod
    def count(cls, connection: Any) -> None:
        """Count one message; TooMany or Close for one over the limit."""
        key = None
        if cls.per == "user":
            key = connection.user_id
        elif cls.per == "address":
            key = connection.address
        if cls._buckets.take(key or connection):
            return
        if cls.action == "close":
            raise Close(TOO_MANY, "too many messages")
        raise TooMany
