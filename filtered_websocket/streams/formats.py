"""
How messages are written to the body of a response, one of these for each kind of stream; and
for pages that only listen, how a session writes events, and the ids that these have.
"""

import hashlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import quote, unquote

from ..codecs.centrifuge import JSON, PROTOBUF, Json, Publication
from ..codecs.centrifuge import Format as Codec
from ..codecs.data import PARSER, Data
from ..codecs.frames import Frame, dump_json, is_utf8
from ..history.base import Position
from ..protocols.channels import MAX_OFFSET

#: What a line of an event ends with (HTML standard section 9.2.5).
LINE_END = re.compile(rb"\r\n|\n|\r")
#: Of a message that is to no group.
NO_GROUP = b'"" 0\n'
#: An epoch that no group has.
NO_EPOCH = "-"


class Format(Protocol):
    """One way to write messages. There is one object of each."""

    codec: Codec
    content_type: bytes
    #: What the body begins with, so that a browser or a proxy has something to pass on.
    start: bytes

    def written(self, payload: bytes) -> bytes:
        """A message as the body has it."""


class Lines:
    """A message a line."""

    codec: Codec = JSON
    content_type = b"application/x-ndjson"
    start = b""

    def written(self, payload: bytes) -> bytes:
        """As of :class:`Format`; the codec writes no line ends."""
        return payload + b"\n"


class Lengths:
    """Messages with their lengths before them, as the codec of Protobuf writes them."""

    codec: Codec = PROTOBUF
    content_type = b"application/octet-stream"
    start = b""

    def written(self, payload: bytes) -> bytes:
        """As of :class:`Format`."""
        return payload


class Events:
    """Server-sent events (HTML standard section 9.2)."""

    codec: Codec = JSON
    content_type = b"text/event-stream"
    #: A comment.
    start = b":\n\n"

    def written(self, payload: bytes) -> bytes:
        """As of :class:`Format`; the codec writes no line ends."""
        return b"data: " + payload + b"\n\n"


LINES, LENGTHS, EVENTS = Lines(), Lengths(), Events()


# Pages that only listen


def event_of(payload: bytes, name: str = "") -> bytes:
    """An event with this text as its data."""
    lines = [b"data: " + line for line in LINE_END.split(payload)]
    if name:
        lines.insert(0, b"event: " + LINE_END.sub(b" ", name.encode()))
    return b"\n".join([*lines, b"", b""])


class Plain(Json):
    """
    What a session writes: events, each after a line with its group and its offset; anything
    else as JSON, for :class:`.listening.Listening` to read.
    """

    takes_numbers = False

    def reply(self, reply: Mapping[str, Any]) -> Frame:
        """As of the base, but messages to no group are events."""
        message = reply.get("push", {}).get("message")
        if message is None:
            return super().reply(reply)
        payload: bytes = message["data"].payload
        if payload.startswith(b'"'):  # a text, of which its connection has made JSON
            payload = PARSER.parse(payload.decode()).encode()
        return Frame(NO_GROUP + event_of(payload), True)

    def can_say(self, data: Data) -> bool:
        """Text, and bytes that are text."""
        return data.kind != "b" or is_utf8(data.payload)

    def head(self, channel: str, number: int) -> bytes:
        """As of the base: JSON has no line ends."""
        return dump_json(channel).encode()

    def publication(self, head: bytes, told: Publication) -> Frame:
        """As of the base."""
        event = event_of(told.data.payload, told.event)
        return Frame(b"%b %d\n%b" % (head, told.offset, event), True)

    def fields(self, told: Publication) -> Any:
        """As of the base."""
        event = event_of(told.data.payload, told.event)
        return {"offset": told.offset, "event": event.decode()}


PLAIN = Plain()


class Places:
    """
    The positions that a client has reached, of all its groups with history; and the id of
    events that says so. Each is ``key.epoch.offset``; the key is a hash of the name for groups
    that the request names, else the name.
    """

    def __init__(self, groups: Iterable[str], last: str) -> None:
        self._keys = {"g" + _encoded(_hash(group)): group for group in groups}
        #: By :meth:`Plain.head`: what the id has before the offset, and the position.
        self._places: dict[bytes, tuple[bytes, Position]] = {}
        #: Of the last event that the client got, of groups that its request does not name.
        self.of_server: dict[str, Position] = {}
        try:
            for entry in last.split("~") if last else ():
                self._read(*entry.split("."))
        except (TypeError, ValueError):
            # What it has got, nobody knows: nothing follows on that.
            for group in self._keys.values():
                self.begin(group, Position(NO_EPOCH, 0))

    def _read(self, key: str, epoch: str, offset: str) -> None:
        if not (offset.isascii() and offset.isdigit()):
            raise ValueError
        position = Position(unquote(epoch, errors="strict"), min(int(offset), MAX_OFFSET))
        if key in self._keys:
            self.begin(self._keys[key], position)
        elif name := _name_of(key):
            self.of_server[name] = position
            self.begin(name, position)

    def of(self, group: str) -> Position | None:
        """The position in a group, if it has one."""
        found = self._places.get(PLAIN.head(group, 0))
        return None if found is None else found[1]

    def begin(self, group: str, position: Position) -> None:
        """From here on the client gets everything."""
        key = "g" + _encoded(_hash(group))
        if key not in self._keys:
            key = "s" + _encoded(group.encode())
        epoch = quote(position.epoch, safe="").replace(".", "%2E").replace("~", "%7E")
        self._places[PLAIN.head(group, 0)] = f"{key}.{epoch}.".encode(), position

    def move(self, head: bytes, offset: int) -> bytes:
        """The client gets this publication now: the line with its id, if there is one."""
        found = self._places.get(head)
        if not offset or found is None:
            return b""
        before, position = found
        self._places[head] = before, position._replace(offset=offset)
        return self.line

    def forget(self, group: str) -> None:
        """It has no position in this group any more."""
        self._places.pop(PLAIN.head(group, 0), None)

    @property
    def line(self) -> bytes:
        """The line with the id, if there is one."""
        places = [b"%b%d" % (before, place.offset) for before, place in self._places.values()]
        return b"id: %b\n" % b"~".join(places) if places else b""


def _hash(group: str) -> bytes:
    return hashlib.sha256(group.encode()).digest()[:6]


def _name_of(key: str) -> str:
    """The name that a key has; empty for a hash."""
    text = key.removeprefix("s")
    return "" if text == key else urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()


def _encoded(some: bytes) -> str:
    return urlsafe_b64encode(some).decode().rstrip("=")
