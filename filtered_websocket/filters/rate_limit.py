"""
Let a client send so many messages and no more.

A token bucket: who was silent for a while may send ``burst`` messages at once, and from
then on ``rate``. Counted before a message is decoded, in the memory of one process.
"""

import time
from collections import OrderedDict
from typing import Any, ClassVar, Literal
from weakref import WeakKeyDictionary

from ..close_codes import TOO_MANY
from ..exceptions import Close, Drop
from .base import WebSocketDataFilter

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
#: How many users or addresses are remembered; then the one that was silent for longest is
#: forgotten, and begins anew.
MAX_KEYS = 10_000


class Buckets:
    """Of each key, when its bucket will be full again: that is all there is to know."""

    def __init__(self, rate: str, burst: int | None) -> None:
        count, slash, unit = rate.partition("/")
        if not (count.isascii() and count.isdigit() and int(count) and slash and unit in UNITS):
            raise ValueError(f"rate is {rate!r}: write it as 20/s, 600/m or 5000/h")
        if burst is not None and burst < 1:
            raise ValueError(f"burst is {burst!r}: nobody could ever send")
        self._pause = UNITS[unit] / int(count)
        self._depth = self._pause * (int(count) if burst is None else burst)
        self._of_connections: WeakKeyDictionary[Any, float] = WeakKeyDictionary()
        self._of_others: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._of_connections) + len(self._of_others)

    def take(self, key: Any) -> bool:
        """Whether there is one left for ``key``, which has one less then."""
        now = time.monotonic()
        of: Any = self._of_others if isinstance(key, str) else self._of_connections
        full = max(of.get(key, now), now) + self._pause
        # What is left of rounding must not cost the last message of a burst.
        is_left: bool = full - now <= self._depth + self._pause / 1000
        if is_left:
            of[key] = full
        if isinstance(key, str):
            # Also who is refused: who goes on and on must not be forgotten.
            of.move_to_end(key)
            if len(of) > MAX_KEYS:
                of.popitem(last=False)
        return is_left


class RateLimitFilter(WebSocketDataFilter):
    """
    ``action`` is what happens to a message that is one too many: ``drop`` it, ``answer``
    it with an error, or ``close`` the connection with 4102.
    """

    #: So many per second, minute or hour.
    rate: str = "20/s"
    #: At once; as many as ``rate`` has in its unit if None.
    burst: int | None = None
    #: Whose messages are counted together: of users who are not logged in, and of peers
    #: without an address, each connection's.
    per: Literal["connection", "user", "address"] = "connection"
    action: Literal["drop", "answer", "close"] = "drop"

    _buckets: ClassVar[Buckets] = Buckets(rate, burst)

    def __init_subclass__(cls) -> None:
        # Options are bound by a subclass.
        cls._buckets = Buckets(cls.rate, cls.burst)

    @classmethod
    def filter(cls, web_socket_instance: Any) -> None:
        key = None
        if cls.per == "user":
            key = web_socket_instance.user_id
        elif cls.per == "address":
            key = web_socket_instance.address
        if cls._buckets.take(key or web_socket_instance):
            return
        if cls.action == "close":
            raise Close(TOO_MANY, "too many messages")
        if cls.action == "answer":
            web_socket_instance.push("Error: Too many messages")
        raise Drop
