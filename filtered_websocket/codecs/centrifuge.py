"""
The two formats of the Centrifuge client protocol: frames to commands, replies to frames.

In between, a command or a reply is a dict with the names of ``centrifuge.proto``; what the
schema calls bytes is :class:`Data` in it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from . import protobuf
from .data import PARSER, Data, as_json
from .frames import Frame, dump_json
from .protobuf import field, fill, length, parse, varint, varint_once
from .publishes import Publish, read_publish
from .schema import BadFrame, has_protobuf, protobuf_class, read

#: What JSON allows around a value, within a line.
SPACE = " \t\r"
#: One at a time: a frame may have so many that they take many times its length.
LINE = re.compile(r"[^\n]+")


class Publication(NamedTuple):
    """What a push tells of a publication."""

    data: Data
    #: Its place in the history of the group; 0 where there is none.
    offset: int = 0
    #: Who published, as JSON; empty where nobody did who has a connection.
    info: str = ""
    tags: Mapping[str, str] = {}
    #: Its name, which clients of this protocol are not told.
    event: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """As a reply has it."""
        fields: dict[str, Any] = {"data": self.data}
        if self.offset:
            fields["offset"] = self.offset
        if self.info:
            fields["info"] = info_of(self.info)
        return {**fields, "tags": dict(self.tags)} if self.tags else fields


class Format(Protocol):
    """One way to write messages. There is one object of each."""

    #: Of the WebSocket handshake.
    subprotocol: str
    #: The empty message.
    ping: Frame
    #: Whether a number may stand for a channel.
    takes_numbers: bool

    def decode(self, payload: bytes, text: bool) -> Iterator[dict[str, Any]]:
        """The commands of a frame; an empty one is a pong. Raises :exc:`BadFrame`."""

    def publish(self, payload: bytes, text: bool) -> Publish | None:
        """The publish that is all of a frame, or None: then :meth:`decode` says what it is."""

    def reply(self, reply: Mapping[str, Any]) -> Frame:
        """The frame of one reply."""

    def published(self, number: int) -> Frame:
        """The reply to a publish."""

    def can_say(self, data: Data) -> bool:
        """Whether such data can be sent."""

    def head(self, channel: str, number: int) -> bytes:
        """
        How all publications of a channel begin; with a ``number`` that stands for it, if not 0.
        """

    def publication(self, head: bytes, told: Publication) -> Frame:
        """The push of a publication. It begins with the :meth:`head` of its channel."""

    def fields(self, told: Publication) -> Any:
        """A publication as a reply has it."""


class Json:
    """One JSON object per line."""

    subprotocol = "centrifuge-json"
    ping = Frame(b"{}", True)
    takes_numbers = True

    def decode(self, payload: bytes, text: bool) -> Iterator[dict[str, Any]]:
        """As of :class:`Format`; binary frames are none."""
        if not (text and payload.strip()):
            raise BadFrame
        try:
            for found in LINE.finditer(payload.decode()):
                line = found[0]
                if publish := read_publish(line):
                    yield publish.command
                elif line.strip(SPACE):
                    yield read("Command", PARSER.parse(line), _data_of)
        except (ValueError, RecursionError) as error:
            raise BadFrame from error

    def publish(self, payload: bytes, text: bool) -> Publish | None:
        """As of :class:`Format`."""
        try:
            return read_publish(payload.decode()) if text else None
        except UnicodeDecodeError:
            return None

    def reply(self, reply: Mapping[str, Any]) -> Frame:
        return Frame(_written(reply).encode(), True)

    # The reply that is sent most.
    def published(self, number: int) -> Frame:
        return Frame(b'{"id":%d,"publish":{}}' % number, True)

    def can_say(self, data: Data) -> bool:
        return data.kind != "b"

    def head(self, channel: str, number: int) -> bytes:
        """As of :class:`Format`."""
        where = f'"id":{number}' if number else f'"channel":{dump_json(channel)}'
        return f'{{"push":{{{where},"pub":{{"data":'.encode()

    # Put together from bytes: data is not parsed for its sake.
    def publication(self, head: bytes, told: Publication) -> Frame:
        """As of :class:`Format`."""
        return Frame(b"".join((head, _published(told), b"}}}")), True)

    def fields(self, told: Publication) -> Any:
        """As of :class:`Format`."""
        return Data(b"".join((b'{"data":', _published(told), b"}")))


def _published(told: Publication) -> bytes:
    """The fields of a publication in JSON, from its data on."""
    data, offset, info, tags, _ = told
    rest = f',"info":{info}' if info else ""
    if offset:
        rest = f',"offset":{offset}{rest}'
    if tags:
        rest += f',"tags":{dump_json(tags)}'
    return as_json(data) + rest.encode()


class Protobuf:
    """Messages with their lengths as varints before them."""

    subprotocol = "centrifuge-protobuf"
    ping = Frame(b"\0", False)
    takes_numbers = False  # centrifuge-js 5.7 offers it, but drops what comes by a number

    def decode(self, payload: bytes, text: bool) -> Iterator[dict[str, Any]]:
        """As of :class:`Format`; text frames are none."""
        if text or not payload:
            raise BadFrame
        at = 0
        while at < len(payload):
            size, start = length(payload, at)
            at = start + size
            if at > len(payload):
                raise BadFrame
            yield parse(payload[start:at])

    def publish(self, payload: bytes, text: bool) -> Publish | None:
        """As of :class:`Format`."""
        return None if text else protobuf.read_publish(payload)

    def reply(self, reply: Mapping[str, Any]) -> Frame:
        message = protobuf_class("Reply")()
        fill(message, reply)
        return _delimited(message)

    # What is sent most is put together from bytes: Google's runtime takes several times as long.
    def published(self, number: int) -> Frame:
        """As of :class:`Format`."""
        said = varint_once(number)
        return Frame(b"%c\x08%b\x42\0" % (3 + len(said), said), False)

    def can_say(self, data: Data) -> bool:
        return True

    def head(self, channel: str, number: int) -> bytes:
        """As of :class:`Format`."""
        push = protobuf_class("Push")()
        if number:
            push.id = number
        else:
            push.channel = channel
        head: bytes = push.SerializeToString()
        return head

    # A message begins with its first fields, in any order.
    def publication(self, head: bytes, told: Publication) -> Frame:
        """As of :class:`Format`."""
        data, offset, info, tags, _ = told
        payload = data.payload
        pub = b"".join(
            (
                b"\x22" + varint(len(payload)) if payload else b"",
                payload,
                b"\x30" + varint_once(offset) if offset else b"",
                _tags_bytes(tags) if tags else b"",
                _info_bytes(info) if info else b"",
            )
        )
        push = head + b"\x22" + varint(len(pub))
        size = varint(len(push) + len(pub))
        whole = varint(1 + len(size) + len(push) + len(pub))
        return Frame(b"".join((whole, b"\x22", size, push, pub)), False)

    def fields(self, told: Publication) -> Any:
        """As of :class:`Format`."""
        return told.fields


def _delimited(message: Any) -> Frame:
    body: bytes = message.SerializeToString()
    return Frame(varint(len(body)) + body, False)


def info_of(text: str) -> dict[str, Any]:
    """A publisher's info, which travels as JSON."""
    return read("ClientInfo", json.loads(text), _data_of)


def _tags_bytes(tags: Mapping[str, str]) -> bytes:
    """The tags of a publication."""
    pub = protobuf_class("Publication")()
    fill(pub, {"tags": dict(tags)})
    made: bytes = pub.SerializeToString()
    return made


@lru_cache(1024)
def _info_bytes(text: str) -> bytes:
    """A publisher's info as a field of a publication."""
    info = protobuf_class("ClientInfo")()
    fill(info, info_of(text))
    return field(5, info.SerializeToString())


def _data_of(value: Any) -> Data:
    """What was JSON."""
    return Data(dump_json(value).encode())


def _written(value: Any) -> str:
    """
    A reply in JSON. Data is put in as it is: it is not parsed for its sake. ValueError for bytes
    that are not JSON.
    """
    # What most values are. A dump of a number takes three times as long.
    kind = type(value)
    if kind is str:
        return dump_json(value)
    if kind is int:
        return str(value)
    if value is True:
        return "true"
    if isinstance(value, Data):
        return as_json(value).decode()
    if isinstance(value, dict):
        fields = [f"{_name(key)}:{_written(one)}" for key, one in value.items()]
        return f"{{{','.join(fields)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return dump_json(value)


@lru_cache(256)
def _name(name: str) -> str:
    return dump_json(name)


JSON, PROTOBUF = Json(), Protobuf()


def choose(offered: Any) -> tuple[Format, str | None]:
    """
    The format that a client asks for by its subprotocols, and the one to be answered. JSON
    where it asks for none of ours.
    """
    if PROTOBUF.subprotocol in offered and has_protobuf():
        return PROTOBUF, PROTOBUF.subprotocol
    return JSON, JSON.subprotocol if JSON.subprotocol in offered else None
