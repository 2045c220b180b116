"""
The groups of this process's connections, for each pipeline.

Joining and leaving take effect here at once; the channel layer's subscriptions follow.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence as Items
from typing import Protocol

from ..connections.connection import Connection
from ..connections.subscription import Subscription
from ..exceptions import NotAllowed
from ..layer.envelope import Batch, Item, Sequence, group_key
from ..layer.links import Link
from ..pipelines.pipeline import Pipeline
from ..presence.base import Event, Info
from ..presence.of_hub import HubPresence
from ..publishing.fan_out import Members
from .events import Events
from .grants import Grants


class View(Protocol):
    """The part of a hub's view that its groups use."""

    pipeline: Pipeline

    def deliver(self, group: str, items: Items[Item]) -> None: ...
    def tell(self, group: str, events: Items[Event]) -> None: ...


class Host(Protocol):
    """The part of a hub that its groups use."""

    connections: dict[str, Connection]
    counts: Counter[str]
    events: Events
    grants: Grants
    presence: HubPresence

    @property
    def link(self) -> Link: ...


class Group:
    """The members of one group in this process, for each pipeline."""

    __slots__ = ("key", "members", "name", "sequence")

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = group_key(name)
        #: Of each pipeline: id -> the transport of that connection.
        self.members: dict[View, Members] = {}
        #: What has arrived, where the layer may lose or repeat something.
        self.sequence: Sequence | None = None


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

    def name_of(self, key: str) -> str | None:
        """The name of the group with this name on the layer, if it has members here."""
        group = self._by_key.get(key)
        return None if group is None else group.name

    def names_of(self, view: View) -> frozenset[str]:
        """The names of the groups in which one pipeline has members here."""
        return frozenset(name for name, group in self._by_name.items() if view in group.members)

    def members(self, view: View, name: str) -> Members:
        """Id -> transport: the members of one pipeline, in this process."""
        group = self._by_name.get(name)
        return {} if group is None else group.members.get(view, {})

    def join(
        self,
        connection: Connection,
        view: View,
        name: str,
        subscription: Subscription | None = None,
    ) -> "bool | asyncio.Future[bool]":
        """
        Make ``connection`` a member, unless it has ended.

        Returns whether the layer has subscribed to the group. If it has not yet, the
        connection is a member all the same, and gets messages once the layer has. Where the
        rule says ``presence=True``, whoever asks then finds the connection present.

        Raises :exc:`~filtered_websocket.NotAllowed` for a subscription's info that is too
        long, TypeError for one that is not JSON.
        """
        link = self._hub.link
        if connection.last_groups is not None or connection.id not in self._hub.connections:
            return False
        if name in connection.joined:
            subscription = None
        is_present = subscription is not None and self._enter(connection, subscription)
        group = self._by_name.get(name)
        if group is None:
            group = self._by_name[name] = Group(name)
            self._by_key[group.key] = group
            link.want(group.key)
        group.members.setdefault(view, {})[connection.id] = connection.transport
        if subscription is not None:
            connection.add_subscription(subscription)
            if subscription.rule is not None and subscription.rule.recheck:
                self._hub.grants.rule_rechecks.start()
        connection.joined.add(name)
        if is_present:
            return connection.start_task(self._wait_present(group, connection.id), "fws-join")
        if link.is_joined(group.key):
            return True
        return connection.start_task(link.wait_joined(group.key), "fws-join")

    def _enter(self, connection: Connection, subscription: Subscription) -> bool:
        """Enter the connection where presence is kept; whether it is."""
        rule = subscription.rule
        if rule is None or not rule.presence:
            return False
        info = Info(connection.user_id, subscription.info)
        try:
            self._hub.presence.enter(subscription.group, connection.id, info, rule.join_leave)
        except ValueError as error:
            # Most likely what a filter has copied from what the client sent.
            raise NotAllowed(str(error), subscription.group) from error
        return True

    async def _wait_present(self, group: Group, connection: str) -> bool:
        is_joined = await self._hub.link.wait_joined(group.key)
        await self._hub.presence.entered(group.name, connection)
        return is_joined

    def leave(self, connection: Connection, view: View, name: str) -> Subscription | None:
        """
        Remove the member at once; after the last one the layer is unsubscribed later. Returns
        the subscription that has ended, if there was one.
        """
        connection.asked.pop(name, None)
        group = self._by_name.get(name)
        if group is None or name not in connection.joined:
            return None
        connection.joined.discard(name)
        ended = connection.remove_subscription(name)
        if ended is not None and ended.rule is not None and ended.rule.presence:
            self._hub.presence.leave(name, connection.id)
        members = group.members[view]
        del members[connection.id]
        if not members:
            del group.members[view]
        if not group.members:
            del self._by_name[name]
            del self._by_key[group.key]
            self._hub.link.unwant(group.key)
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
        missed = self._record(group, batch)
        if missed is None:
            self._hub.counts["duplicate"] += len(batch.items)
            return
        if missed:
            self._hub.counts["missed"] += missed
            self._hub.events.gap(group.name, batch.origin, missed)
            self._hub.presence.miss(group.name)
        for view in tuple(group.members):
            view.deliver(group.name, batch.items)

    def _record(self, group: Group, batch: Batch) -> int | None:
        """As :meth:`Sequence.record`."""
        if self._hub.link.is_lossless:
            return 0
        if group.sequence is None:
            group.sequence = Sequence()
        return group.sequence.record(batch)

    def joined_late(self, key: str) -> None:
        """Members were accepted before the layer had subscribed: what they missed is a gap."""
        name = self._by_key[key].name
        self._hub.events.gap(name, None, None)
        self._hub.presence.miss(name)

    def tell(self, name: str, events: Items[Event]) -> None:
        """Hand joins and leaves to every pipeline with members."""
        group = self._by_name.get(name)
        for view in tuple(group.members) if group is not None else ():
            view.tell(name, events)
