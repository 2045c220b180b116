"""
What a session keeps of one subscription; the subscribers of one group, and the messages that
they are sent.

A connection that joins a group hears nothing of it before the reply that says so: what comes
meanwhile waits, within ``MAX_OUTBOX``.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..codecs.centrifuge import Format, Publication
from ..codecs.data import Data, data_of
from ..codecs.frames import Frame
from ..conf import conf
from ..groups import channel_name
from ..history.base import Position, check_position
from ..layer.envelope import EVENT, INFO, TAGS
from ..presence.base import shown_of, unpack_info
from ..publishing.fan_out import Members
from ..threads.budget import OVERHEAD
from ..transports import AsgiTransport

#: In ``flag`` of a subscribe command: it takes a number that stands for the channel.
COMPACT = 1
#: In the same: it takes no subscription that has lost something.
REJECT = 2
#: Higher than any offset, and Redis can still count on from it.
MAX_OFFSET = 2**53 - 1
#: The part of ``MAX_OUTBOX`` that publications of groups with history may take: the rest is
#: for the news that one was not sent.
SHARE = 7 / 8
#: Most publications have none.
NO_TAGS: Mapping[str, str] = {}
#: Of channels, in one process.
_numbers = itertools.count(1)


class Subscribed:
    """One subscription."""

    __slots__ = ("expiry", "is_compact", "is_lost", "is_own", "joining", "since", "stands")

    def __init__(self, is_compact: bool = False, is_own: bool = False) -> None:
        self.is_compact = is_compact
        #: Whether the client has asked for it, not the server.
        self.is_own = is_own
        #: Of one by the server: until it is done, the client is not told.
        self.joining: asyncio.Future[bool] | None = None
        #: The position that the client comes back with.
        self.since: Position | None = None
        #: Whether something was lost before the client was told of it.
        self.is_lost = False
        #: Whether the client was told of it.
        self.stands = False
        #: Ends it where its token is not renewed.
        self.expiry: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """It does not expire any more."""
        if self.expiry is not None:
            self.expiry.cancel()
            self.expiry = None


def since_of(request: dict[str, Any]) -> Position | None:
    """The position that a client comes back with."""
    return position_of(request) if request.get("recover") else None


def position_of(fields: dict[str, Any]) -> Position:
    """A position as clients send it: of a history, or of a recovery."""
    return check_position((fields.get("epoch", ""), min(fields.get("offset", 0), MAX_OFFSET)))


class Way(NamedTuple):
    """How a subscriber is written to: the format, and whether by the number of the channel."""

    format: Format
    is_compact: bool


class Subscriber(Protocol):
    """The part of a session that is used here."""

    @property
    def format(self) -> Format: ...
    @property
    def id(self) -> str: ...
    @property
    def transport(self) -> AsgiTransport: ...
    def joined(self, group: str, joined: bool | Awaitable[bool]) -> None: ...
    def left(self, group: str) -> None: ...
    def take(self, group: str, last: int) -> Frame | None: ...
    def came(self, group: str, last: int | None = None) -> bool: ...
    def sent(self) -> None: ...
    def answered(self, group: str) -> None: ...
    def lose(self, group: str) -> None: ...


class Push:
    """A message to subscribers; its frame of each :class:`Way` is made once."""

    def __init__(
        self, group: str, make: Callable[[Way], Frame | None], published: Publication | None = None
    ) -> None:
        self.group = group
        #: None for anything but a publication.
        self.published = published
        self._make = make
        self._frames: dict[Way, Frame | None] = {}
        self._fields: dict[Format, Any] = {}

    @property
    def size(self) -> int:
        """About the bytes that it takes in a queue."""
        if self.published is None:
            return OVERHEAD
        return OVERHEAD + len(self.published.data.payload) + len(self.published.info)

    @property
    def is_kept(self) -> bool:
        """Whether it is of a group with history: then it is never left out."""
        return self.published is not None and self.published.offset > 0

    def frame(self, way: Way) -> Frame | None:
        """The frame; None where it cannot be said in this format."""
        if way not in self._frames:
            self._frames[way] = self._make(way)
        return self._frames[way]

    def fields(self, form: Format) -> Any:
        """The publication as a reply has it; made once."""
        if form not in self._fields and self.published is not None:
            self._fields[form] = form.fields(self.published)
        return self._fields.get(form)


class Waiting:
    """What comes for a connection that has joined, until it is told so."""

    __slots__ = ("_size", "pushes", "session")

    def __init__(self, session: Subscriber) -> None:
        self.session = session
        self.pushes: list[Push] = []
        self._size = 0

    def add(self, push: Push) -> bool:
        """Whether there is room for it."""
        has_room: bool = self._size + push.size <= conf.MAX_OUTBOX
        if has_room:
            self._size += push.size
            self.pushes.append(push)
        return has_room

    def take(self) -> list[Push]:
        """Remove the publications, and return them."""
        taken = [push for push in self.pushes if push.published is not None]
        self.pushes = [push for push in self.pushes if push.published is None]
        self._size = sum(push.size for push in self.pushes)
        return taken


class Channel:
    """The subscribers of one group."""

    def __init__(self, group: str) -> None:
        self.name = channel_name(group)
        #: Stands for the name, where a client takes that.
        self.number = next(_numbers)
        self.members: dict[Way, Members] = {}
        self.ways: dict[AsgiTransport, tuple[Way, Subscriber]] = {}
        self._heads: dict[Way, bytes] = {}
        #: Those that have joined and were not told so yet.
        self.waiting: dict[AsgiTransport, Waiting] = {}

    def __bool__(self) -> bool:
        return bool(self.waiting or self.ways)

    def head(self, way: Way) -> bytes:
        """How all its publications begin; made once."""
        head = self._heads.get(way)
        if head is None:
            number = self.number if way.is_compact else 0
            head = self._heads[way] = way.format.head(self.name, number)
        return head

    def add(self, session: Subscriber, is_compact: bool) -> Way:
        """From now on it is written to."""
        way = Way(session.format, is_compact)
        self.members.setdefault(way, {})[session.id] = session.transport
        self.ways[session.transport] = way, session
        return way

    def remove(self, session: Subscriber) -> bool:
        """Whether it was a subscriber, or was about to be."""
        was = self.waiting.pop(session.transport, None) is not None
        way, _ = self.ways.pop(session.transport, (None, None))
        if way is None:
            return was
        del self.members[way][session.id]
        if not self.members[way]:
            del self.members[way]
        return True


def told_of(data: Data, meta: Mapping[str, Any], position: Position | None) -> Publication:
    """What is told of a message to a group."""
    offset = 0 if position is None else position.offset
    info, tags, event = meta.get(INFO, ""), meta.get(TAGS, NO_TAGS), meta.get(EVENT, "")
    return Publication(data, offset, info, tags, event)


def frame_of(group: str, channel: Channel | None, told: Publication, way: Way) -> Frame | None:
    """The frame of a publication; None where it cannot be said in this format."""
    if not way.format.can_say(told.data):
        return None
    head = way.format.head(channel_name(group), 0) if channel is None else channel.head(way)
    frame = way.format.publication(head, told)
    frame.is_kept = told.offset > 0
    return frame


def push_of(group: str, channel: Channel | None, told: Publication) -> Push:
    """The push of a publication."""
    return Push(group, partial(frame_of, group, channel, told), told)


def plain_push(group: str, channel: Channel | None, push: dict[str, Any]) -> Push:
    """Any other push to the subscribers of a group."""
    number = 0 if channel is None else channel.number

    def make(way: Way) -> Frame:
        where = {"id": number} if way.is_compact else {"channel": channel_name(group)}
        return way.format.reply({"push": {**where, **push}})

    return Push(group, make)


def client_info(connection: str, packed: str) -> dict[str, Any]:
    """A connection as clients see it, of its presence entry."""
    info, shown = unpack_info(packed), shown_of(packed)
    fields: dict[str, Any] = {"client": connection}
    if info.user is not None:
        fields["user"] = info.user
    if shown:
        fields["conn_info"] = Data(shown.encode())
    if info.info is not None:
        fields["chan_info"] = data_of(info.info)
    return fields


def that_fit(pushes: Iterable[Push], room: int) -> Iterable[Push]:
    """The first of them, and what follows as long as there is room for it."""
    for number, push in enumerate(pushes):
        room -= push.size
        if number and room < 0:
            return
        yield push


def without_room(transports: Iterable[AsgiTransport], size: int) -> list[AsgiTransport]:
    """Those that cannot take so many bytes of publications beside what is unsent."""
    room = conf.MAX_OUTBOX * SHARE - size
    return [transport for transport in transports if (unsent := transport.unsent) and unsent > room]


def lose_slow(
    channel: Channel, group: str, members: Members, size: int, exclude: Collection[str] = ()
) -> None:
    """Members that have no room for so many bytes of publications have to ask for them."""
    for transport in without_room(members.values(), size):
        session = channel.ways[transport][1]
        if session.id not in exclude:
            session.lose(group)


def wait(waiting: Waiting, push: Push) -> None:
    """Keep it until the reply, where there is room."""
    if waiting.add(push):
        return
    if push.is_kept:
        waiting.session.lose(push.group)
    else:
        waiting.session.transport.overflow()
