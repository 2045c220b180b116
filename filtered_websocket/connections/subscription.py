"""One connection's membership of one group, where the route has group rules."""

import asyncio
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Any, Protocol

from ..groups import GroupRule
from ..history.base import Page, Position
from ..history.feed import Feed
from ..history.lines import NOT_RECOVERED, SUPERSEDED, Joiner, Recovery
from ..observe import totals

#: Whether a join or leave chain runs: what its filters do must not wait for its end.
in_chain: ContextVar[bool] = ContextVar("fws_in_chain", default=False)


class Sends(Protocol):
    """The part of a hub's view that sends what was missed."""

    pushes: Any

    def send_one(self, connection: Any, contents: Sequence[Any]) -> bool: ...


class Subscription:
    """What a connection's membership of a group is made of; ends when it leaves the group."""

    __slots__ = (
        "captured",
        "data",
        "group",
        "info",
        "position",
        "recovery",
        "reply",
        "rule",
        "since",
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
        #: Where it began, as (epoch, offset): what is published after that is sent as it comes.
        #: None where its group has no history, and where that could not be read then.
        self.position: Position | None = None
        #: The position from which it asks for everything, until it has it.
        self.since: Position | None = None
        #: What came of that, without what it has been sent.
        self.recovery: Recovery | None = None
        #: Whether the site has joined it, so that its rule is not asked, or no longer.
        self.trusted = trusted

    def join_again(self, trusted: bool, since: Position | None) -> None:
        """A member joins again. Where the site does it, the rule is not asked from now on."""
        self.trusted = self.trusted or trusted
        if since is not None:
            self.since = since

    @property
    def is_rechecked(self) -> bool:
        """Whether its rule is asked again while it stands."""
        return self.rule is not None and self.rule.recheck and not self.trusted

    @property
    def has_history(self) -> bool:
        """Whether its rule keeps what is published."""
        return self.rule is not None and self.rule.history is not None

    @property
    def gets_latest(self) -> bool:
        """Whether its rule gives a joiner the last publication."""
        return self.rule is not None and self.rule.latest

    async def begin(self, feed: Feed) -> bool:
        """Return when the subscription stands, or after ``LAYER_TIMEOUT``; whether it does."""
        self.position = await feed.begun()
        return self.position is not None

    async def recover(
        self,
        joiner: Joiner,
        read: Callable[[Position | None], Awaitable[Page | None]],
        since: Position | None,
    ) -> bool:
        """Return when ``joiner`` has its answer; whether the subscription stands."""
        recovery = await joiner.join(partial(read, since))
        if since is not None and recovery is not SUPERSEDED:
            totals["recovered" if recovery.recovered else "not_recovered"] += 1
            totals["recovered_messages"] += len(recovery.contents)
        if recovery is not SUPERSEDED:
            # Not what has been sent: a subscription may stand for days.
            self.recovery = recovery._replace(contents=[])
        return recovery.position is not None

    def answer(
        self, recovery: Recovery, connection: Any, view: Sends, joiners: Container[str]
    ) -> Recovery:
        """
        Send what ``connection`` has missed. The answer; SUPERSEDED if a send filter has left, or
        asked again, so that it is one of the ``joiners``.
        """
        self.position = recovery.position
        if view.pushes is not None:
            view.pushes.answered(connection, self.group)
        if not view.send_one(connection, recovery.contents):
            # Never a part: it is told so, and goes on from here.
            recovery = Recovery(False, recovery.position, [])
        is_same = connection.subscriptions.get(self.group) is self
        return SUPERSEDED if not is_same or connection.id in joiners else recovery

    def __repr__(self) -> str:
        return f"<Subscription {self.group!r:.80}>"


class OwnJoin:
    """
    A client's own join of a group, which uses it as the view of the hub: so what this join does
    is told from what other joins of the same group do meanwhile.
    """

    def __init__(self, view: Any, group: str) -> None:
        self.pipeline = view.pipeline
        self.group = group
        #: Whether this join makes the connection a member now.
        self.acts = False
        #: Whether it has, of a group in which the connection was not.
        self.has_joined = False
        #: What the last other join has returned; None: there was none, or it was undone.
        self.other: bool | Awaitable[bool] | None = None
        self._view = view

    def become_member(
        self, connection: Any, group: str, subscription: Subscription | None = None
    ) -> Any:
        """As of the view."""
        is_new = group not in connection.joined
        self.acts = True
        try:
            joined = self._view.become_member(connection, group, subscription)
        finally:
            self.acts = False
        self.has_joined = self.has_joined or (is_new and group in connection.joined)
        return joined

    def undo(self, connection: Any) -> None:
        """Leave what it has joined; other joins that wait for an answer go on."""
        if self.has_joined:
            waiting = connection.asked.get(self.group)
            connection.leave(self.group)
            if waiting:
                connection.asked[self.group] = waiting


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


class Subscribed(Protocol):
    """The part of a connection that is used here."""

    @property
    def subscriptions(self) -> Mapping[str, Subscription]: ...


async def recovered(
    connection: Subscribed, name: str, joined: "bool | asyncio.Future[bool]"
) -> Recovery:
    """What came of a join with a position."""
    if isinstance(joined, asyncio.Future):
        joined = await joined
    subscription = connection.subscriptions.get(name)
    if not joined or subscription is None:
        return NOT_RECOVERED
    return subscription.recovery or NOT_RECOVERED
