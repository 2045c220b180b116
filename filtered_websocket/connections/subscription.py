"""One connection's membership of one group, where the route has group rules."""

import asyncio
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from ..groups import GroupRule

#: Whether a join or leave chain runs: what its filters do must not wait for its end.
in_chain: ContextVar[bool] = ContextVar("fws_in_chain", default=False)


class Subscription:
    """What a connection's membership of a group is made of; ends when it leaves the group."""

    __slots__ = (
        "captured",
        "data",
        "group",
        "info",
        "position",
        "reply",
        "rule",
        "trusted",
    )

    def __init__(
        self,
        group: str,
        captured: dict[str, Any],
        rule: GroupRule | None,
        data: Any = None,
        *,
        trusted: bool = False,
    ) -> None:
        self.group = group
        #: What the rule's pattern has captured from the name.
        self.captured = captured
        #: The first rule that matches the name; None if none does.
        self.rule = rule
        #: What the client sent along, or None. Of any size and type.
        self.data = data
        #: Shown in presence.
        self.info: Any = None
        #: Told to the joiner, by protocols that have an answer.
        self.reply: Any = None
        #: Of the last publication it was sent, as (epoch, offset), or None.
        self.position: tuple[str, int] | None = None
        #: Whether the site joined it, so that its rule was not asked, and is not asked again.
        self.trusted = trusted

    def __repr__(self) -> str:
        return f"<Subscription {self.group!r:.80}>"


class Turn:
    """``async with`` it to run a chain, once the one before has ended."""

    def __init__(self, turns: "Turns", group: str, before: "asyncio.Future[None] | None") -> None:
        self._turns = turns
        self._group = group
        self._before = before
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> None:
        if self._before is not None:
            await asyncio.wait({self._before})

    async def __aexit__(
        self, kind: object, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended.set_result(None)
        self._turns.give_back(self, self._group)


class Turns:
    """
    Lets the join and leave chains of one connection and group run one after the other, in
    the order of the joins and leaves.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, Turn] = {}

    def is_taken(self, group: str) -> bool:
        """Whether a chain of this group runs, or waits."""
        return group in self._last

    def take(self, group: str, waits: bool = False) -> Turn:
        """The next turn, which ``waits`` for the one before."""
        last = self._last.get(group) if waits else None
        turn = self._last[group] = Turn(self, group, None if last is None else last.ended)
        return turn

    def give_back(self, turn: Turn, group: str) -> None:
        """It has ended."""
        if self._last.get(group) is turn:
            del self._last[group]
