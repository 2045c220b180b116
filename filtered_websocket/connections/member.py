"""The half of a connection that is in groups: joins them, leaves them, and uses tokens."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from asgiref.sync import markcoroutinefunction

from ..conf import conf
from ..exceptions import Close, NotAllowed
from ..groups import MAX_NAME, Action
from ..history.base import Position, check_position
from ..history.lines import NOT_RECOVERED, Recovery
from ..layer.envelope import check_group
from ..threads.result import Result, start
from ..threads.tasks import GuardedTask
from ..types import Scope
from .client import Client
from .subscription import Subscription, Turns

#: For all connections that have none, as an empty set takes 0.2 KiB. Never changed.
NO_TASKS: set["asyncio.Task[Any]"] = set()
NOTHING_ASKED: dict[str, set[object]] = {}
NO_SUBSCRIPTIONS: dict[str, Subscription] = {}


class View(Protocol):
    """The part of :class:`~filtered_websocket.hub.view.HubView` that is used here."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...
    @property
    def is_current(self) -> bool: ...
    @property
    def pipeline(self) -> Any: ...
    def call(self, function: Callable[..., object], *args: Any) -> None: ...
    def join(self, connection: Any, group: str, trusted: bool, data: Any) -> Any: ...
    def recover(
        self, connection: Any, group: str, since: Position, trusted: bool, data: Any
    ) -> Any: ...
    def enter(self, connection: Any, group: str) -> Any: ...
    def leave(self, connection: Any, group: str) -> None: ...
    def allows(self, connection: Any, action: Action, group: str) -> Any: ...
    def not_allowed(self, error: NotAllowed, where: Any) -> None: ...
    async def use_token(self, connection: Any, key: str | None) -> Any: ...


class Member(Client):
    """The public methods may be called from any thread and event loop."""

    #: Joins that wait for an answer, also those that were taken back. Private to this package.
    joining = 0
    _turns: Turns | None = None

    _view: View

    if TYPE_CHECKING:

        def close(self, code: int = 1000, reason: str = "") -> None: ...

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        #: The names of its groups; only the hub changes it.
        self.joined: set[str] = set()
        #: Group -> joins that wait for an answer whether they are allowed.
        self.asked: dict[str, set[object]] = NOTHING_ASKED
        #: Its groups when it ended; None before.
        self.last_groups: frozenset[str] | None = None
        #: Joins and token lookups in progress; cancelled when the connection ends.
        self.tasks: set[asyncio.Task[Any]] = NO_TASKS
        self._subscriptions: dict[str, Subscription] = NO_SUBSCRIPTIONS

    @property
    def turns(self) -> Turns:
        """Of its join and leave chains. Private to this package."""
        if self._turns is None:
            self._turns = Turns()
        return self._turns

    @property
    def has_room(self) -> bool:
        """
        Whether it may join one more group of ``MAX_GROUPS``, to which joins that wait count.
        Private to this package.
        """
        most: int = conf.MAX_GROUPS
        return len(self.joined) + self.joining < most

    @property
    def groups(self) -> frozenset[str]:
        """The names of its groups; in the disconnect chain, of those it was in at the end."""
        return frozenset(self.joined) if self.last_groups is None else self.last_groups

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """Group -> subscription, to look at. Empty where the route has no group rules."""
        return self._subscriptions

    def add_subscription(self, new: Subscription) -> Subscription | None:
        """
        The subscription that begins: ``new``; or that of a member, if it asks for what it has
        missed. Private to this package.
        """
        held = self._subscriptions.get(new.group)
        if held is not None:
            # Joined before, or by another join of the same moment, which goes on.
            held.join_again(new.trusted, new.since)
            return None if new.since is None else held
        if not self._subscriptions:
            self._subscriptions = {}
        self._subscriptions[new.group] = new
        return new

    def remove_subscription(self, group: str) -> Subscription | None:
        """The subscription that ends, if there is one. Private to this package."""
        return self._subscriptions.pop(group, None)

    @markcoroutinefunction
    def join(self, group: str, trusted: bool = False, data: Any = None) -> Result[bool]:
        """
        Join ``group``: what is published to it from now on reaches this connection.

        Where the route has group rules, the first one that matches the name is asked, unless
        ``trusted``; a name that none declares is refused. ``data`` is what the client sent
        along, for the rest of its :class:`Subscription`.

        False if the layer did not answer within ``LAYER_TIMEOUT``: the connection then
        joins as soon as the layer answers, and the consumer chain gets a ``gap`` event.
        Raises :exc:`~filtered_websocket.NotAllowed` if the rule, the route's ``may_join`` or
        its token does not allow it, and for names that begin with ``token:`` or ``user:``. A
        later refusal that nobody awaits is logged.
        """
        self._check_name(group, trusted)
        joined: Result[bool] = start(
            self._view,
            self._view.join,
            self,
            group,
            trusted,
            data,
            on_error=self.call_failed,
            value=False,
        )
        return joined

    @markcoroutinefunction
    def recover(
        self, group: str, since: tuple[str, int], trusted: bool = False, data: Any = None
    ) -> Result[Recovery]:
        """
        :meth:`join` a group with history, and send this connection all that was published
        after the position ``since``, in order, once, before anything newer. Or, where not all
        of that is kept any more, or it cannot be read now, nothing of it: then ``recovered``
        of the answer is False. What is published from the answer's position on reaches the
        connection in any case.

        Raises what :meth:`join` raises, and TypeError for what is no position. A member starts
        again from ``since``.
        """
        self._check_name(group, trusted)
        recovered: Result[Recovery] = start(
            self._view,
            self._view.recover,
            self,
            group,
            check_position(since),
            trusted,
            data,
            on_error=self.call_failed,
            value=NOT_RECOVERED,
        )
        return recovered

    def _check_name(self, group: str, trusted: bool) -> None:
        try:
            check_group(group)
        except ValueError as error:
            if trusted or self._view.pipeline.rules is None:
                raise
            # What a client sent, most likely: it is answered as any name that may not be joined.
            raise NotAllowed(f"names have 1 to {MAX_NAME} characters", group) from error

    def enter(self, group: str) -> Result[bool]:
        """:meth:`join` a group of its route, or its own. Private to this package."""
        joined: Result[bool] = start(
            self._view, self._view.enter, self, group, on_error=self.call_failed, value=False
        )
        return joined

    @markcoroutinefunction
    def leave(self, group: str) -> Result[None]:
        """Leave ``group`` at once; no error if it is not a member."""
        left: Result[None] = start(
            self._view, self._view.leave, self, group, on_error=self.call_failed
        )
        return left

    @markcoroutinefunction
    def is_allowed(self, action: Action, group: str) -> Result[bool]:
        """
        Whether the group rules allow ``"join"``, ``"publish"`` or ``"see"`` to this
        connection. False for names that no rule declares, and where the route has no rules.

        Raises what the rule's function raises.
        """
        answer: Result[bool] = start(
            self._view,
            self._view.allows,
            self,
            action,
            group,
            on_error=self.call_failed,
            value=False,
        )
        return answer

    @markcoroutinefunction
    def use_token(self, key: str | None = None) -> Result[Any]:
        """
        Join the broadcast group of the token ``key`` and leave that of a token used
        before. Returns the token, which has ``label``, ``group_name`` and ``can_publish``.

        Without a key, joins the group of the token it connected with. None if there is no
        such token, or it is not valid. When the token is revoked or expires, the
        connection is closed.
        """
        used: Result[Any] = start(self._view, self._use_token, key, on_error=self.call_failed)
        return used

    def _use_token(self, key: str | None) -> "asyncio.Task[Any]":
        return self.start_task(self._view.use_token(self, key), "fws-use-token")

    def start_task(self, steps: Coroutine[Any, Any, Any], name: str) -> "asyncio.Task[Any]":
        """
        A task in the context of the handshake, cancelled when the connection ends. Private
        to this package.
        """
        context = self.context.copy()
        task = GuardedTask(steps, loop=self._view.loop, name=name, context=context)
        if not self.tasks:
            self.tasks = set()
        self.tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        self.tasks = self.tasks or NO_TASKS

    def call_failed(self, error: BaseException) -> None:
        """
        A call has failed, and nobody awaits it. From any thread. Private to this package.
        """
        if isinstance(error, NotAllowed):
            self.not_allowed(error)
        elif isinstance(error, Close):
            self.close(error.code, error.reason)
        else:
            self._view.pipeline.failed(error, self, "a call that is not awaited")

    def not_allowed(self, error: NotAllowed) -> None:
        """Count and log a refusal that no filter has caught. Private to this package."""
        self._view.not_allowed(error, self)

    def rule_failed(self, error: BaseException) -> None:
        """Log what a group rule raised that was asked again. Private to this package."""
        self._view.pipeline.failed(error, self, "a group rule")
