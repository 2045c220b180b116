"""
The groups of this process's connections, for each pipeline.

Joining and leaving take effect here at once; the channel layer's subscriptions follow.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from collections.abc import Sequence as Items
from functools import partial
from typing import Any, Protocol, TypeAlias

from .. import tracing
from ..connections.connection import Connection
from ..connections.subscription import Subscription
from ..history.base import Page
from ..history.feed import Feed
from ..history.feeds import Feeds
from ..history.follower import Run
from ..history.lines import SUPERSEDED, Joiner, Line, Passed, Recovery
from ..layer.envelope import Batch, Item, Sequence, group_key
from ..layer.links import Link
from ..pipelines.pipeline import Pipeline
from ..presence.base import Event
from ..presence.of_hub import HubPresence
from ..publishing.fan_out import Members
from .events import Events
from .grants import Grants


class View(Protocol):
    """The part of a hub's view that its groups use."""

    pipeline: Pipeline
    pushes: Any  # what sends to subscribers, where clients speak a protocol

    def deliver(self, group: str, items: Items[Item]) -> None: ...
    def tell(self, group: str, events: Items[Event]) -> None: ...
    def deliver_run(self, group: str, run: Run, line: Line) -> None: ...
    async def prepare(self, group: str, page: Page) -> list[Passed]: ...
    def send_one(self, connection: Any, contents: Items[Any]) -> bool: ...
    def drop_unsent(self, connection: Any, group: str) -> None: ...


class Host(Protocol):
    """The part of a hub that its groups use."""

    connections: dict[str, Connection]
    counts: Counter[str]
    events: Events
    grants: Grants
    presence: HubPresence
    feeds: Feeds

    @property
    def link(self) -> Link: ...


NO_LINES: "dict[View, Line]" = {}
#: Run by a task of a connection that joins; whether the subscription stands.
Steps: TypeAlias = Callable[[], Coroutine[Any, Any, bool]]


class Group:
    """The members of one group in this process, for each pipeline."""

    __slots__ = ("feed", "key", "lines", "members", "messages", "name", "sequence")

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = group_key(name)
        self.messages = 0  #: How many have come, with those that came twice.
        #: Of each pipeline: id -> the transport of that connection.
        self.members: dict[View, Members] = {}
        #: What has arrived, where the layer may lose or repeat something.
        self.sequence: Sequence | None = None
        #: Where it has a history: what has come of it, and what each pipeline's members got.
        self.feed: Feed | None = None
        self.lines: dict[View, Line] = NO_LINES

    def add(self, view: View, connection: Connection) -> None:
        """A member that is told no position, also where others are."""
        self.members.setdefault(view, {})[connection.id] = connection.transport
        if self.feed is not None:
            self.feed.follower.keeps_all = True

    def line(self, view: View, feed: Feed) -> Line:
        """What the members of one pipeline were sent of the history."""
        self.lines = self.lines or {}
        if view not in self.lines:
            self.lines[view] = Line(feed)
        return self.lines[view]


class Groups:
    """Belongs to the hub's event loop."""

    def __init__(self, hub: Host) -> None:
        self._hub = hub
        self._by_name: dict[str, Group] = {}
        self._by_key: dict[str, Group] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all groups that have members here."""
        return tuple(self._by_name)

    def find(self, name: str) -> Group | None:
        """The group, if it has members here."""
        return self._by_name.get(name)

    def name_of(self, key: str) -> str | None:
        """The name of the group with this name on the layer, if it has members here."""
        return None if (group := self._by_key.get(key)) is None else group.name

    def names_of(self, view: View) -> frozenset[str]:
        """The names of the groups in which one pipeline has members here."""
        return frozenset(name for name, group in self._by_name.items() if view in group.members)

    def members(self, view: View, name: str) -> Members:
        """Id -> transport: the members of one pipeline, in this process."""
        return {} if (group := self._by_name.get(name)) is None else group.members.get(view, {})

    def join(
        self, connection: Connection, view: View, name: str, subscription: Subscription | None
    ) -> "bool | asyncio.Future[bool]":
        """
        Make ``connection`` a member, unless it has ended.

        Returns whether the layer has subscribed to the group. If not yet, the connection is a
        member all the same, and gets messages once it has. Where the rule says
        ``presence=True``, whoever asks then finds it present.

        Raises NotAllowed for an info that is too long, TypeError for one that is not JSON.
        """
        link = self._hub.link
        if connection.last_groups is not None or connection.id not in self._hub.connections:
            return False
        is_new = name not in connection.joined
        is_present = is_new and self._hub.presence.admit(subscription, connection)
        group = self._by_name.get(name)
        if group is None:
            group = self._by_name[name] = Group(name)
            self._by_key[group.key] = group
            link.want(group.key)
        if subscription is not None:
            if subscription.is_rechecked:
                self._hub.grants.rule_rechecks.start()
            subscription = connection.add_subscription(subscription)
        connection.joined.add(name)
        steps: Steps = partial(link.wait_joined, group.key)
        if subscription is not None and subscription.has_history and self._follow(group):
            steps = self._join_history(connection, view, group, subscription)
        else:
            if is_new:  # a member may be waiting for what it has missed
                group.add(view, connection)
            if link.is_joined(group.key) and not is_present:
                return True
        if is_present:
            steps = partial(self._hub.presence.entered_after, steps, name, connection.id)
        return connection.start_task(steps(), "fws-join")

    def leave(self, connection: Connection, view: View, name: str) -> Subscription | None:
        """Remove the member at once. Returns the subscription that has ended, if there was one."""
        connection.asked.pop(name, None)
        group = self._by_name.get(name)
        if group is None or name not in connection.joined:
            return None
        connection.joined.discard(name)
        ended = connection.remove_subscription(name)
        if ended is not None and ended.rule is not None and ended.rule.presence:
            self._hub.presence.leave(name, connection.id)
        members = group.members[view]
        members.pop(connection.id, None)
        if (line := group.lines.get(view)) is not None:
            line.leave(connection.id)
        if not (members or (line is not None and line.joiners)):
            del group.members[view]
            group.lines.pop(view, None)
        if not group.members:
            del self._by_name[name]
            del self._by_key[group.key]
            self._hub.link.unwant(group.key)
            if group.feed is not None:
                self._hub.feeds.close(group.feed)
        return ended

    def clear(self) -> None:
        """Forget all groups, when the hub ends."""
        self._by_name.clear()
        self._by_key.clear()

    def deliver(self, batch: Batch) -> None:
        """Hand a batch to every pipeline with members; a repeated one is counted and dropped."""
        group = self._by_key.get(batch.key)
        if group is None:
            return
        group.messages += len(batch.items)
        if batch.epoch and self._follow(group):
            feed: Any = group.feed
            feed.take(batch)
            return
        missed = self._record(group, batch)
        if missed is None:
            self._hub.counts["duplicate"] += len(batch.items)
            return
        if missed:
            self._hub.events.gap(group.name, batch.origin, missed)
            self._hub.presence.miss(group.name)
        tracing.active.deliver(self._hand_on, group.name, batch.items, group)

    def _hand_on(self, items: Items[Item], group: Group) -> None:
        for view in tuple(group.members):
            view.deliver(group.name, items)

    def _record(self, group: Group, batch: Batch) -> int | None:
        """As :meth:`Sequence.record`."""
        if self._hub.link.is_lossless or batch.epoch:
            return 0
        if group.sequence is None:
            group.sequence = Sequence()
        return group.sequence.record(batch)

    # Groups with history

    def _follow(self, group: Group) -> bool:
        """Whether the history of ``group`` is followed, from now on if it was not."""
        if group.feed is None:
            hand_out, lose = partial(self._hand_out, group), partial(self._lose, group)
            group.feed = self._hub.feeds.open(group.key, hand_out, lose, bool(group.members))
        return group.feed is not None

    def _hand_out(self, group: Group, run: Run) -> None:
        tracing.active.deliver(self._deliver_run, group.name, run.items, group, run)

    def _deliver_run(self, items: list[Item], group: Group, run: Run) -> None:
        feed: Any = group.feed
        run = run if items is run.items else run._replace(items=items)
        for view in tuple(group.members):
            view.deliver_run(group.name, run, group.line(view, feed))

    def _lose(self, group: Group) -> None:
        """What was missed is no longer kept."""
        self._hub.events.gap(group.name, None, None)
        self._hub.presence.miss(group.name)
        for view, line in tuple(group.lines.items()):
            line.lose()
            if view.pushes is not None:
                view.pushes.lose(group.name)

    def _join_history(
        self, connection: Connection, view: View, group: Group, subscription: Subscription
    ) -> Steps:
        """Make ``connection`` a member; with a position, or ``latest``, once it was sent that."""
        feed: Any = group.feed
        line = group.line(view, feed)
        members = group.members.setdefault(view, {})
        since, subscription.since = subscription.since, None
        if since is None and not subscription.gets_latest:
            members[connection.id] = connection.transport
            return partial(subscription.begin, feed)
        members.pop(connection.id, None)
        view.drop_unsent(connection, group.name)
        line.leave(connection.id)  # one that asked before, and is not answered yet

        def answer(recovery: Recovery) -> Recovery:
            recovery = subscription.answer(recovery, connection, view, line.joiners)
            if recovery is not SUPERSEDED:
                members[connection.id] = connection.transport
            return recovery

        prepare = partial(tracing.active.recover, view.prepare, group.name)
        joiner = Joiner(line, connection.id, prepare, answer)
        return partial(subscription.recover, joiner, feed.read, since)

    def joined_late(self, key: str) -> None:
        """Members were accepted before the layer had subscribed: what they missed is a gap."""
        group = self._by_key[key]
        if group.feed is None or group.feed.position is None:
            self._hub.events.gap(group.name, None, None)
        if group.feed is not None:
            group.feed.check()
        self._hub.presence.miss(group.name)

    def tell(self, name: str, events: Items[Event]) -> None:
        """Hand joins and leaves to every pipeline with members."""
        group = self._by_name.get(name)
        for view in tuple(group.members) if group else ():
            view.tell(name, events)

    def layer_back(self) -> None:
        """What was published meanwhile is a gap, or is asked for where it is kept."""
        for group in tuple(self._by_name.values()):
            if group.feed is None:
                self._hub.events.gap(group.name, None, None)
        self._hub.feeds.compare_soon()
