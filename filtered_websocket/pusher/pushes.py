"""
What subscribers of one pipeline are sent: events, and who comes and goes. Encoded once.

A connection that has joined a group is sent nothing before it is told that it is subscribed:
what comes meanwhile waits, within ``MAX_OUTBOX``.
"""

import secrets
from collections import Counter
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol

from ..chains.current import About
from ..codecs.data import Data, data_to_send
from ..codecs.frames import Frame, Kind
from ..codecs.pusher import (
    CLIENT_PREFIX,
    DEFAULT_EVENT,
    event_frame,
    head_of,
    system_frame,
    user_in,
)
from ..conf import conf
from ..history.base import Position
from ..layer.envelope import EVENT, EXCLUDE, INFO, Item
from ..presence.base import Event
from ..publishing.fan_out import NOBODY, Members, write, write_frames
from ..transports import AsgiTransport, write_all
from .apps import App
from .channels import kind_of


class Subscriber(Protocol):
    """The part of a session that is used here."""

    app: App

    @property
    def id(self) -> str: ...
    @property
    def transport(self) -> AsgiTransport: ...
    def joined(self, group: str) -> None: ...
    def left(self, group: str) -> None: ...
    def occupy(self, channel: str, is_occupied: bool) -> None: ...
    def channel_of(self, group: str) -> str: ...
    def who_publishes(self, group: str, channel: str) -> Any: ...
    def renew_app(self, app: App | None) -> None: ...


class Push:
    """A message to subscribers: its frame, or None where it cannot be said."""

    __slots__ = ("frame", "group", "size")

    def __init__(self, group: str, frame: Frame | None) -> None:
        self.group = group
        self.frame = frame
        #: The bytes that it takes in a queue.
        self.size = 0 if frame is None else len(frame)


class Waiting:
    """What comes for a connection that has joined, until it is told so."""

    __slots__ = ("frames", "session", "size")

    def __init__(self, session: Subscriber) -> None:
        self.session = session
        self.frames: list[Frame] = []
        self.size = 0

    def add(self, frame: Frame) -> bool:
        """Whether there is room for it."""
        has_room: bool = self.size + len(frame) <= conf.MAX_OUTBOX
        if has_room:
            self.size += len(frame)
            self.frames.append(frame)
        return has_room


class Channel:
    """The subscribers of one group."""

    __slots__ = ("has_presence", "head", "members", "name", "standing", "waiting", "who_publishes")

    def __init__(self, name: str, who_publishes: Any) -> None:
        self.name = name
        #: Who may send client events, as in a group rule.
        self.who_publishes = who_publishes
        self.head = head_of(name)
        self.has_presence = kind_of(name).has_presence
        self.members: Members = {}
        #: Their transports.
        self.standing: set[AsgiTransport] = set()
        #: Those that have joined and were not told so yet.
        self.waiting: dict[AsgiTransport, Waiting] = {}

    def __bool__(self) -> bool:
        return bool(self.waiting or self.members)

    def frame(self, data: Data, sender: str, meta: Any) -> Frame | None:
        """The frame of a message; None for bytes that are no text."""
        event = meta.get(EVENT, DEFAULT_EVENT)
        user = None
        if self.has_presence and sender and event.startswith(CLIENT_PREFIX) and INFO in meta:
            user = user_in(meta[INFO])
        return event_frame(event, self.head, data, user)


class Pushes:
    """Belongs to one view of a hub."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        #: Its name among those of all processes.
        self.uid = secrets.token_hex(8)
        self._channels: dict[str, Channel] = {}
        #: Of the connections of this pipeline.
        self.sessions: dict[str, Subscriber] = {}
        #: Key of an app -> how many of these are its own.
        self.apps: Counter[str] = Counter()

    def add(self, session: Subscriber) -> None:
        """Its app is known: from now on it hears of its groups."""
        self.sessions[session.id] = session
        self.apps[session.app.key] += 1

    def remove(self, session: Subscriber) -> None:
        """Its connection has ended."""
        if self.sessions.pop(session.id, None) is not None:
            self.apps[session.app.key] -= 1

    def rows_read(self, rows: Mapping[str, App]) -> None:
        """The apps of the admin were read: connections of those that have changed are told."""
        for session in tuple(self.sessions.values()):
            app = rows.get(session.app.key)
            if session.app.row is not None and session.app is not app:
                session.renew_app(app)

    # Subscribers

    def begin(self, session: Subscriber, group: str) -> None:
        """A connection has joined: what comes for it waits."""
        channel = self._channels.get(group)
        if channel is None:
            name = session.channel_of(group)
            channel = Channel(name, session.who_publishes(group, name))
            self._channels[group] = channel
            session.occupy(name, True)
        channel.waiting[session.transport] = Waiting(session)

    def who_publishes(self, group: str) -> Any:
        """Who may send client events to a channel with subscribers, as in a group rule."""
        return self._channels[group].who_publishes

    def has_waiting(self, session: Subscriber, group: str) -> bool:
        """Whether an event waits until the client is told."""
        return bool(self._channels[group].waiting[session.transport].frames)

    def stand(self, session: Subscriber, group: str) -> None:
        """The client was told: send what has waited, and what comes from now on."""
        channel = self._channels[group]
        waiting = channel.waiting.pop(session.transport)
        channel.members[session.id] = session.transport
        channel.standing.add(session.transport)
        for frame in waiting.frames:
            write_all((session.transport,), frame, NOBODY)

    def end(self, session: Subscriber, group: str) -> None:
        """A connection is no subscriber any more."""
        channel = self._channels.get(group)
        if channel is None:
            return
        channel.waiting.pop(session.transport, None)
        channel.members.pop(session.id, None)
        channel.standing.discard(session.transport)
        if not channel:
            del self._channels[group]
            session.occupy(channel.name, False)

    # Called by the view

    def joined(self, connection: Any, group: str, joined: bool | Awaitable[bool]) -> None:
        """A connection has become a member, in whatever way."""
        session = self.sessions.get(connection.id)
        if session is not None:
            session.joined(group)

    def left(self, connection: Any, group: str) -> None:
        """A connection is no member any more, in whatever way."""
        session = self.sessions.get(connection.id)
        if session is not None:
            session.left(group)

    def answered(self, connection: Any, group: str) -> None:
        """
        A member is about to be sent what it has asked for of the history: whatever it would
        have been sent meanwhile is part of that.
        """
        channel = self._channels.get(group)
        waiting = None if channel is None else channel.waiting.get(connection.transport)
        if waiting is not None:
            waiting.frames.clear()
            waiting.size = 0

    def lose(self, group: str) -> None:
        """The protocol has no word for it: the consumer chain gets a ``gap``."""

    def cannot_take(self, connection: Any, about: About) -> None:
        """A member's outbox has no room for a message."""
        connection.transport.overflow()

    def tell(self, group: str, events: Sequence[Event]) -> None:
        """
        Users that have come or gone, to all but those that wait: they are told who is there
        at the moment when they are subscribed.
        """
        channel = self._channels.get(group)
        if channel is None or not channel.has_presence:
            return
        for event in events:
            user, info = event.info
            if user is None or not event.is_users:
                continue
            name, fields = "pusher_internal:member_removed", {"user_id": user}
            if event.kind == "join":
                name = "pusher_internal:member_added"
                fields = {**fields, "user_info": {} if info is None else info}
            write(channel.members, system_frame(name, fields, channel.name), (event.connection,))

    # Messages

    def unpack(self, packed: tuple[Kind, bytes], codec: Any) -> tuple[Any, bool]:
        """A message that goes through no chain: nobody looks at its data."""
        kind, payload = packed
        return Data(payload, kind), kind != "b"

    def publication(self, about: About, message: Any, text: bool) -> Push:
        """What is sent of a message."""
        channel = self._channels.get(about.group)
        if channel is None:
            return Push(about.group, None)
        data = data_to_send(message, text)
        return Push(about.group, channel.frame(data, about.sender, about.meta))

    def send(self, about: About, push: Push) -> None:
        """Send a message that came out of the group chain to all subscribers."""
        channel = self._channels.get(about.group)
        if channel is None:
            return
        if push.frame is None:
            self._counts["not_json"] += len(channel.members)
            return
        exclude = about.meta.get(EXCLUDE, ())
        for waiting in channel.waiting.values():
            if waiting.session.id not in exclude:
                self._wait(waiting, push.frame)
        write(channel.members, push.frame, exclude)

    def write_items(self, group: str, items: Sequence[Item], first: Position | None) -> None:
        """
        Send messages that no chain looks at: many leave in one write. Raises for one that
        cannot be encoded, and then nothing was sent.
        """
        channel = self._channels.get(group)
        if channel is None:
            return
        made = [
            (item, frame)
            for item in items
            if (frame := channel.frame(Data(item.payload, item.kind), item.sender, item.meta))
            is not None
        ]
        self._counts["not_json"] += (len(items) - len(made)) * len(channel.members)
        for waiting in channel.waiting.values():
            for item, frame in made:
                if waiting.session.id not in item.meta.get(EXCLUDE, ()):
                    self._wait(waiting, frame)
        write_frames(channel.members, [frame for _, frame in made], [item for item, _ in made])

    def write_all(
        self, transports: Iterable[AsgiTransport], push: Push, skipped: Collection[AsgiTransport]
    ) -> None:
        """Send to some of a group's subscribers."""
        channel = self._channels.get(push.group)
        if channel is None:
            return
        for transport in transports:
            if push.frame is None:
                self._counts["not_json"] += 1
            elif transport in channel.waiting:
                self._wait(channel.waiting[transport], push.frame)
            elif transport in channel.standing:
                write_all((transport,), push.frame, NOBODY)

    def _wait(self, waiting: Waiting, frame: Frame) -> None:
        """Keep it until the client is told, where there is room."""
        if not waiting.add(frame):
            waiting.session.transport.overflow()
