"""
How a connection becomes a member of a group::

    join(name) -> reserved or too long?  -> NotAllowed
               -> the group rule         -> NotAllowed
               -> the route's may_join   -> NotAllowed
               -> a member, with a Subscription where the route has rules

What answers at once is asked at once; from the first answer that takes time on, a task of
the connection goes on, which :meth:`Groups.leave` takes back.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn, Protocol

from ..conf import conf
from ..connections.connection import Connection
from ..connections.subscription import Subscription, in_chain
from ..exceptions import Drop, NotAllowed, only_exceptions
from ..groups import MAX_NAME, PERSONAL_PREFIX, RESERVED, Action
from ..history.base import Position
from ..pipelines.permissions import ask
from ..pipelines.pipeline import Pipeline
from ..pipelines.route import Route, check_route_group

NOT_ALLOWED = "may not join this group"
NO_SUCH_GROUP = "no such group"
PREFIXES = tuple(RESERVED)  # which one call compares


class View(Protocol):
    """The part of a hub's view that is used here."""

    @property
    def pipeline(self) -> Pipeline: ...
    def become_member(
        self, connection: Connection, group: str, subscription: Subscription | None = None
    ) -> "bool | asyncio.Future[bool]": ...


#: Asks one question: None if it is answered with yes, raises :exc:`NotAllowed` if not.
Ask = Callable[[], Awaitable[None] | None]


async def join_route_groups(connection: Connection, names: list[Any], route: Route) -> None:
    """
    Join what ``get_groups`` of the route gave, and on personal routes the user's own group.
    NotAllowed where one of them may not be.
    """
    declared = route.groups
    try:
        groups = [check_route_group(name) for name in names]
    except (TypeError, ValueError) as error:
        # Such a name comes from the URL: a mistake of the client, not of the site.
        raise NotAllowed(NO_SUCH_GROUP) from error
    for name in groups:
        if name.startswith(PERSONAL_PREFIX) and name not in declared:
            _check_own(connection, name)
    if groups:
        connection.home = groups[0]
    if not connection.may_subscribe:
        return  # its token lets it publish only
    own = connection.personal_group if route.personal else None
    # All at the same time: a layer that does not answer costs one timeout, not many.
    for joined in [connection.enter(name) for name in (*groups, own) if name is not None]:
        await joined


def _check_own(connection: Connection, name: str) -> None:
    if name != connection.personal_group:
        raise NotAllowed(NO_SUCH_GROUP) from ValueError(
            f"group {name!r:.80}: names that begin with {PERSONAL_PREFIX!r} are"
            f" {RESERVED[PERSONAL_PREFIX]}, and this is not that of the connection's user"
        )


def join(
    view: View, connection: Connection, name: str, trusted: bool, data: Any, since: Position | None
) -> "bool | asyncio.Future[bool]":
    """See :meth:`Connection.join`; the result, or a future of it. ``since`` is where to begin."""
    # Of its user's own group, in which it is, a connection may ask for what it has missed.
    is_own = since is not None and name in connection.joined and name == connection.personal_group
    if name.startswith(PREFIXES) and not is_own:
        prefix = next(filter(name.startswith, PREFIXES))
        raise NotAllowed(f"names that begin with {prefix!r} are {RESERVED[prefix]}", name)
    return enter(view, connection, name, trusted=trusted, data=data, since=since)


def enter(
    view: View,
    connection: Connection,
    name: str,
    trusted: bool,
    data: Any = None,
    since: Position | None = None,
) -> "bool | asyncio.Future[bool]":
    """:func:`join`, also a group whose name is reserved."""
    if not connection.may_subscribe:
        raise NotAllowed("this token may not subscribe", name)
    pipeline = view.pipeline
    subscription = None
    if pipeline.has_subscriptions:
        if name in connection.joined:
            held = connection.subscriptions[name]
            held.join_again(trusted, since)
            return view.become_member(connection, name, None if since is None else held)
        subscription = _subscription(pipeline, connection, name, trusted, data)
        subscription.since = since
    elif pipeline.may_join is None:
        return view.become_member(connection, name)
    join = object()
    asks = _asks(pipeline, connection, name, subscription, join, waits=not in_chain.get())
    waiting = _run(asks)
    if waiting is None:
        return view.become_member(connection, name, subscription)
    if not connection.asked:
        connection.asked = {}
    connection.asked.setdefault(name, set()).add(join)
    connection.joining += 1
    steps = _go_on(view, connection, name, subscription, waiting, asks, join)
    return connection.start_task(steps, "fws-join")


def _subscription(
    pipeline: Pipeline, connection: Connection, name: str, trusted: bool, data: Any
) -> Subscription:
    """What the connection asks for. NotAllowed where it may not even ask."""
    rules = pipeline.rules
    if rules is None:
        return Subscription(name, {}, None, data, trusted=trusted)
    if not trusted:
        if len(name) > MAX_NAME:
            raise NotAllowed(f"names have at most {MAX_NAME} characters", name)
        if not connection.has_room:
            raise NotAllowed(f"at most {conf.MAX_GROUPS} groups (MAX_GROUPS)", name)
    match = rules.find(name)
    if match is not None:
        return Subscription(name, match.captured, match.rule, data, trusted=trusted)
    if not trusted:
        raise NotAllowed("no group rule declares this name", name)
    return Subscription(name, {}, None, data, trusted=True)


def _asks(
    pipeline: Pipeline,
    connection: Connection,
    name: str,
    subscription: Subscription | None,
    join: object,
    *,
    waits: bool,
) -> Iterator[Ask]:
    """What has to be asked before the connection is a member, in order."""
    if subscription is not None and subscription.rule is not None and not subscription.trusted:
        rule, captured = subscription.rule, subscription.captured
        yield lambda: _require(ask(rule.join, connection, captured), name)
    may_join = pipeline.may_join
    is_own = name.startswith(PERSONAL_PREFIX) and name == connection.personal_group
    if may_join is not None and not is_own:
        yield lambda: _ask_may_join(may_join, connection, name)
    if pipeline.join:
        yield lambda: _run_join_chain(pipeline, connection, subscription, name, join, waits)


def _ask_may_join(may_join: Any, connection: Connection, name: str) -> Awaitable[None] | None:
    with only_exceptions("may_join"):
        try:
            answer = connection.context.copy().run(may_join, connection, name)
        except Drop as drop:
            _refuse(drop, name)
    return _require(answer, name)


def _run_join_chain(
    pipeline: Pipeline,
    connection: Connection,
    subscription: Subscription | None,
    name: str,
    join: object,
    waits: bool,
) -> Awaitable[None] | None:
    """
    NotAllowed where a filter raises Drop; to be awaited if a filter of it awaits, and where
    a chain of the same group runs and it ``waits`` for that.
    """
    if waits and name in connection.joined:
        return None  # another join of the same moment
    is_busy = waits and connection.turns.is_taken(name)
    if is_busy or any(chain.awaits for chain in pipeline.join):
        return _await_join_chain(pipeline, connection, subscription, name, join, waits)
    run = connection.context.copy().run
    try:
        for chain in pipeline.join:
            run(chain.run, connection, subscription)
    except Drop as drop:
        _refuse(drop, name)
    return None


async def _await_join_chain(
    pipeline: Pipeline,
    connection: Connection,
    subscription: Subscription | None,
    name: str,
    join: object,
    waits: bool,
) -> None:
    in_chain.set(True)
    async with connection.turns.take(name, waits):
        if waits and (name in connection.joined or not _is_wanted(connection, name, join)):
            return
        try:
            for chain in pipeline.join:
                await chain.pipe(connection, subscription)
        except Drop as drop:
            _refuse(drop, name)


def _refuse(drop: Drop, name: str) -> NoReturn:
    if isinstance(drop, NotAllowed):
        raise drop
    raise NotAllowed(NOT_ALLOWED, name) from drop


def _require(answer: Any, name: str) -> Awaitable[None] | None:
    """NotAllowed unless the answer is yes; to be awaited where it is not known yet."""
    if inspect.isawaitable(answer):
        return _require_later(answer, name)
    if not answer:
        raise NotAllowed(NOT_ALLOWED, name)
    return None


async def _require_later(answer: Awaitable[Any], name: str) -> None:
    with only_exceptions("may_join"):
        try:
            allowed = await answer
        except Drop as drop:
            _refuse(drop, name)
    _require(allowed, name)


def _run(asks: Iterator[Ask]) -> Awaitable[None] | None:
    """Ask what is answered at once; the first question that has to be awaited, or None."""
    for question in asks:
        waiting = question()
        if waiting is not None:
            return waiting
    return None


def _is_wanted(connection: Connection, name: str, join: object) -> bool:
    return join in connection.asked.get(name, ())


async def _go_on(
    view: View,
    connection: Connection,
    name: str,
    subscription: Subscription | None,
    waiting: Awaitable[None] | None,
    asks: Iterator[Ask],
    join: object,
) -> bool:
    try:
        while waiting is not None:
            await waiting
            # What was taken back is asked no further: nothing would undo what a filter does.
            waiting = _run(asks) if _is_wanted(connection, name, join) else None
    finally:
        connection.joining -= 1
        asked = connection.asked.get(name, set())
        is_wanted = join in asked
        asked.discard(join)
        if not asked:
            connection.asked.pop(name, None)
    joined = is_wanted and view.become_member(connection, name, subscription)
    return await joined if isinstance(joined, asyncio.Future) else joined


def allows(
    view: View, connection: Connection, action: Action, name: str
) -> "bool | asyncio.Future[bool]":
    """See :meth:`Connection.is_allowed`; the result, or a future of it."""
    rules = view.pipeline.rules
    match = None if rules is None or len(name) > MAX_NAME else rules.find(name)
    # A user's own group is joined by itself, and no client names it.
    if rules is None or match is None or (action == "join" and match.rule is rules.personal):
        return False
    answer: Any = ask(match.rule.allowed(action), connection, match.captured)
    if inspect.isawaitable(answer):
        return connection.start_task(_answer(answer), "fws-is-allowed")
    return bool(answer)


async def _answer(answer: Awaitable[Any]) -> bool:
    return bool(await answer)
