"""
What the package tells traces: a publish, a delivery, a handshake. Chains have their watchers
(:mod:`~filtered_websocket.observe`).

Nothing is traced until ``metrics/traces.py`` has found a tracer provider of the site, and puts
its own in the place of ``active``. So what is below needs no OpenTelemetry.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

#: ``meta`` keys of a published message: the headers of W3C Trace Context, where it is traced.
TRACE, TRACE_STATE = "c", "cs"


class Tracing:
    """
    Traces nothing. What it gets to be called or awaited is so once, and its errors come out as
    they are.
    """

    def handshake(self, scope: T) -> T:
        """A handshake begins, unless it has: its scope from here on."""
        return scope

    def within(self, scope: Any, steps: Awaitable[T]) -> Awaitable[T]:
        """What is to be awaited for ``steps``, a part of this handshake."""
        return steps

    def opening(self, steps: Awaitable[T], connection: Any, route: Any) -> Awaitable[T]:
        """The same for the last part, after which it is answered."""
        return steps

    def refused(self, scope: Any, code: int, reason: str) -> None:
        """This handshake is refused."""

    def publish(self, send: Callable[..., T], group: str, item: Any, *rest: Any) -> T:
        """``send(group, item, *rest)``, and it may send another item."""
        return send(group, item, *rest)

    def published(self, group: str, item: T) -> T:
        """What is to be queued for ``item``, which is published now."""
        return item

    def bind(self, function: Callable[[], T]) -> Callable[[], T]:
        """``function``, which belongs to what is done now, whenever it is called."""
        return function

    def unsent(self, group: str, items: Sequence[Any], error: BaseException) -> None:
        """What was queued could not be sent."""

    def deliver(self, hand_on: Callable[..., None], group: str, items: Any, *rest: Any) -> None:
        """``hand_on(items, *rest)``: what has come for ``group``, or others in their place."""
        hand_on(items, *rest)

    def recover(
        self, prepare: Callable[[str, Any], Awaitable[T]], group: str, page: Any
    ) -> Awaitable[T]:
        """What is to be awaited for ``prepare(group, page)``: a page of a history, or another."""
        return prepare(group, page)


#: Of this process.
active = Tracing()
