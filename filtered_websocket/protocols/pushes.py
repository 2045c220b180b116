"""
What the subscribers of one pipeline are sent: publications, joins and leaves, and the end of a
subscription. Encoded once per publication and format.
"""

from collections.abc import Awaitable, Collection, Iterable, Sequence
from typing import Any

from ..chains.current import About, nth
from ..codecs.data import Data, data_to_send
from ..codecs.frames import Frame, Joined, Kind
from ..groups import channel_name
from ..history.base import Position
from ..layer.envelope import EXCLUDE, Item
from ..presence.base import Event
from ..publishing.fan_out import NOBODY, Members, runs_of, write
from ..transports import AsgiTransport, write_all, write_one, write_with
from .channels import (
    Channel,
    Push,
    Subscriber,
    Waiting,
    Way,
    client_info,
    frame_of,
    lose_slow,
    plain_push,
    push_of,
    told_of,
    wait,
    without_room,
)
from .codes import UNSUBSCRIBED
from .timers import Late


class Pushes:
    """Belongs to one view of a hub."""

    def __init__(self, counts: Any) -> None:
        self._counts = counts
        #: Replies to publishes that wait for the publications.
        self.late = Late()
        self._channels: dict[str, Channel] = {}
        #: Of the connections of this pipeline.
        self.sessions: dict[str, Subscriber] = {}

    # Subscribers

    def begin(self, session: Subscriber, group: str) -> None:
        """A connection has joined: what comes for it waits. By two joins at once, once."""
        if (channel := self._channels.get(group)) is None:
            channel = self._channels[group] = Channel(group)
        channel.waiting.setdefault(session.transport, Waiting(session))

    def number_of(self, group: str) -> int:
        """What stands for the group's name."""
        return self._channels[group].number

    def stand(self, session: Subscriber, group: str, is_compact: bool) -> None:
        """The reply was written: send what has waited, and what comes from now on."""
        channel = self._channels[group]
        waiting = channel.waiting.pop(session.transport)
        way = channel.add(session, is_compact)
        for push in waiting.pushes:
            if session.transport in channel.ways:  # it may end by one that does not fit
                self._write(session, way, push)

    def end(self, session: Subscriber, group: str) -> bool:
        """A connection is no subscriber any more. Whether it was one, or was about to be."""
        channel = self._channels.get(group)
        if channel is None:
            return False
        was = channel.remove(session)
        if not channel:
            del self._channels[group]
        return was

    # Called by the view

    def joined(self, connection: Any, group: str, joined: bool | Awaitable[bool]) -> None:
        """A connection has become a member, in whatever way."""
        if (session := self.sessions.get(connection.id)) is not None:
            session.joined(group, joined)

    def answered(self, connection: Any, group: str) -> None:
        """
        A member is about to be sent what it asked for of the history: whatever it would have
        been sent meanwhile is part of that.
        """
        channel, session = self._channels.get(group), self.sessions.get(connection.id)
        if channel is None or session is None:
            return
        waiting = channel.waiting.get(session.transport)
        if waiting is not None:
            waiting.take()
        session.answered(group)

    def lose(self, group: str) -> None:
        """What comes next does not follow on what the subscribers got."""
        channel = self._channels.get(group)
        if channel is not None:
            standing = [session for _, session in channel.ways.values()]
            for session in (*standing, *[one.session for one in channel.waiting.values()]):
                session.lose(group)

    def left(self, connection: Any, group: str) -> None:
        """A connection is no member any more, in whatever way."""
        if (session := self.sessions.get(connection.id)) is not None:
            session.left(group)

    def cannot_take(self, connection: Any, about: About) -> None:
        """
        A member's outbox has no room for a message: it has to ask for a publication, and for
        others ``SLOW_READER`` says what follows.
        """
        is_kept = about.position is not None
        if is_kept and (session := self.sessions.get(connection.id)) is not None:
            session.lose(about.group)
        else:
            connection.transport.overflow(is_kept=is_kept)

    # For a reply

    def first_offset(self, session: Subscriber, group: str) -> int:
        """The offset of the first publication that waits for the reply; 0: there is none."""
        for push in self._channels[group].waiting[session.transport].pushes:
            if push.is_kept and push.published is not None:
                return push.published.offset
        return 0

    def take(self, session: Subscriber, group: str) -> list[Any]:
        """The publications that wait for the reply, to be told by it."""
        return self.fields(session, self._channels[group].waiting[session.transport].take())

    def fields(self, session: Subscriber, pushes: Iterable[Push]) -> list[Any]:
        """Publications as a reply has them, without those that this client cannot be sent."""
        form = session.format
        published = [(push, told) for push in pushes if (told := push.published) is not None]
        made = [push.fields(form) for push, told in published if form.can_say(told.data)]
        self._counts["not_json"] += len(published) - len(made)
        return made

    # Messages

    def tell(self, group: str, events: Sequence[Event]) -> None:
        """Joins and leaves."""
        for event in events:
            info = client_info(event.connection, event.packed)
            push: dict[str, Any] = {event.kind: {"info": info}}
            self._send(group, plain_push(group, self._channels.get(group), push), ())

    def unpack(self, packed: tuple[Kind, bytes], codec: Any) -> tuple[Any, bool]:
        """A message that goes through no chain: nobody looks at its data."""
        kind, payload = packed
        return Data(payload, kind), kind != "b"

    def send(self, about: About, push: Push) -> None:
        """Send a message that came out of the group chain to all subscribers."""
        publisher = self.sessions.get(about.sender)
        comes_back = publisher is not None and publisher.came(about.group)
        try:
            self._send(about.group, push, about.meta.get(EXCLUDE, ()))
        finally:
            if publisher is not None and comes_back:
                publisher.sent()

    def write_items(self, group: str, items: Sequence[Item], first: Position | None) -> None:
        """
        Send messages that no chain looks at: many leave in one write. ``first`` is the place
        of the first one in the history. Raises for one that cannot be encoded, and then
        nothing was sent.
        """
        channel = self._channels.get(group)
        if channel is None:
            return
        if len(items) == 1 and not channel.waiting and EXCLUDE not in items[0].meta:
            self._write_item(channel, group, items[0], first)
            return
        told = [
            told_of(Data(item.payload, item.kind), item.meta, nth(first, number))
            for number, item in enumerate(items)
        ]
        ways = tuple(channel.members)
        made = [[frame_of(group, channel, one, way) for one in told] for way in ways]
        pushes: list[Push] = []
        is_for_all = not any([EXCLUDE in item.meta for item in items])
        if channel.waiting or not is_for_all:
            pushes = [push_of(group, channel, one) for one in told]
        publishers = self._publishers(group, items)
        try:
            if not is_for_all:
                for item, push in zip(items, pushes, strict=True):
                    self._send(group, push, item.meta.get(EXCLUDE, ()))
                return
            for waiting in channel.waiting.values():
                for push in pushes:
                    wait(waiting, push)
            for way, frames in zip(ways, made, strict=True):
                self._write_together(channel, group, channel.members.get(way, {}), frames)
        finally:
            for session in publishers:
                session.sent()

    def _write_item(self, channel: Channel, group: str, item: Item, place: Position | None) -> None:
        """One message to all subscribers, as most come: of one, lists cost more than the rest."""
        told = told_of(Data(item.payload, item.kind), item.meta, place)
        made = [(of, frame_of(group, channel, told, way)) for way, of in channel.members.items()]
        publisher, reply, comes_back = self.sessions.get(item.sender), None, False
        if publisher is not None:
            reply = publisher.take(group, item.id)
            comes_back = reply is None and publisher.came(group, item.id)
        try:
            for members, frame in made:
                if frame is None:
                    self._counts["not_json"] += len(members)
                    continue
                if frame.is_kept:
                    lose_slow(channel, group, members, len(frame))
                own = None if reply is None else members.get(item.sender)
                write_all(members.values(), frame, NOBODY if own is None else {own})
                if own is not None and reply is not None:
                    write_with(own, frame, reply)
                    reply = None
        finally:
            if publisher is not None and reply is not None:
                write_one(publisher.transport, reply)
            if publisher is not None and comes_back:
                publisher.sent()

    def _publishers(self, group: str, items: Sequence[Item]) -> list[Subscriber]:
        """Those here who have published some of the items, and are told so in the same write."""
        lasts = {item.sender: item.id for item in items}
        sessions = [(self.sessions.get(sender), last) for sender, last in lasts.items()]
        return [one for one, last in sessions if one is not None and one.came(group, last)]

    def _write_together(
        self, channel: Channel, group: str, members: Members, made: Sequence[Frame | None]
    ) -> None:
        frames = [frame for frame in made if frame is not None]
        self._counts["not_json"] += (len(made) - len(frames)) * len(members)
        for run in runs_of(frames):
            if run[0].is_kept:
                lose_slow(channel, group, members, sum(map(len, run)))
            write(members, run[0] if len(run) == 1 else Joined(run), ())

    def publication(self, about: About, message: Any, text: bool) -> Push:
        """The push of a message."""
        told = told_of(data_to_send(message, text), about.meta, about.position)
        return push_of(about.group, self._channels.get(about.group), told)

    def write_all(
        self, transports: Iterable[AsgiTransport], push: Push, skipped: Collection[AsgiTransport]
    ) -> None:
        """Send to some of a group's subscribers."""
        channel = self._channels.get(push.group)
        if channel is None:
            return
        for transport in transports:
            if transport in channel.ways:
                way, session = channel.ways[transport]
                self._write(session, way, push)
            elif transport in channel.waiting:
                wait(channel.waiting[transport], push)

    def _send(self, group: str, push: Push, exclude: Collection[str]) -> None:
        channel = self._channels.get(group)
        if channel is None:
            return
        for waiting in channel.waiting.values():
            if waiting.session.id not in exclude:
                wait(waiting, push)
        for way, members in tuple(channel.members.items()):
            frame = push.frame(way)
            if frame is None:
                self._counts["not_json"] += len(members)
                continue
            if push.is_kept:
                lose_slow(channel, group, members, len(frame), exclude)
            write(members, frame, exclude)

    def _write(self, session: Subscriber, way: Way, push: Push) -> None:
        """Send to one subscriber; one that cannot take a publication has to ask for it."""
        frame, transport = push.frame(way), session.transport
        if frame is None:
            self._counts["not_json"] += 1
        elif push.is_kept and without_room((transport,), len(frame)):
            session.lose(push.group)
        else:
            write_all((transport,), frame, NOBODY)

    def unsubscribed(
        self, session: Subscriber, group: str, why: tuple[int, str] = UNSUBSCRIBED
    ) -> None:
        """Tell one client that its subscription has ended."""
        code, reason = why
        push = {"channel": channel_name(group), "unsubscribe": {"code": code, "reason": reason}}
        frame = session.format.reply({"push": push})
        frame.is_kept = True  # never left out: it closes the connection where there is no room
        write_one(session.transport, frame)
