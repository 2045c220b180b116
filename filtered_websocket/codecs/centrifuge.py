"""
The two formats of the Centrifuge client protocol: frames to commands, replies to frames.

In between, a command or a reply is a dict with the names of ``centrifuge.proto``; what the
schema calls bytes is :class:`Data` in it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from .data import PARSER, Data, as_json, from_bytes
from .frames import Frame, dump_json
from .publishes import Publish, read_publish
from .schema import has_protobuf, messages, protobuf_class, read

#: What JSON allows around a value, within a line.
SPACE = " \t\r"
#: One at a time: a frame may have so many that they take many times its length.
LINE = re.compile(r"[^\n]+")
#: The most bytes of the length before a Protobuf message.
LONGEST_LENGTH = 5


class BadFrame(ValueError):
    """A frame that is not of this protocol."""


class Publication(NamedTuple):
    """What a push tells of a publication."""

    data: Data
    #: Its place in the history of the group; 0 where there is none.
    offset: int = 0
    #: Who published, as JSON; empty where nobody did who has a connection.
    info: str = ""
    tags: Mapping[str, str] = {}

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

    def publication(self, channel: str, number: int, told: Publication) -> Frame:
        """The push of a publication; with a ``number`` that stands for the channel, if not 0."""


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
        return Frame(dump_json(_plain(reply)).encode(), True)

    # The reply that is sent most.
    def published(self, number: int) -> Frame:
        return Frame(b'{"id":%d,"publish":{}}' % number, True)

    def can_say(self, data: Data) -> bool:
        return data.kind != "b"

    # Put together from bytes: data is not parsed for its sake.
    def publication(self, channel: str, number: int, told: Publication) -> Frame:
        where = f'"id":{number}' if number else f'"channel":{dump_json(channel)}'
        rest = f',"offset":{told.offset}' if told.offset else ""
        rest += f',"info":{told.info}' if told.info else ""
        rest += f',"tags":{dump_json(told.tags)}' if told.tags else ""
        head = f'{{"push":{{{where},"pub":{{"data":'
        return Frame(b"".join((head.encode(), as_json(told.data), rest.encode(), b"}}}")), True)


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
            size, start = _length(payload, at)
            at = start + size
            if at > len(payload):
                raise BadFrame
            yield _parse(payload[start:at])

    def publish(self, payload: bytes, text: bool) -> Publish | None:
        """As of :class:`Format`."""
        return None

    def reply(self, reply: Mapping[str, Any]) -> Frame:
        message = protobuf_class("Reply")()
        _fill(message, reply)
        return _delimited(message)

    def published(self, number: int) -> Frame:
        return self.reply({"id": number, "publish": {}})

    def can_say(self, data: Data) -> bool:
        return True

    def publication(self, channel: str, number: int, told: Publication) -> Frame:
        message = protobuf_class("Reply")()
        push = message.push
        if number:
            push.id = number
        else:
            push.channel = channel
        _fill(push.pub, told.fields)
        return _delimited(message)


def info_of(text: str) -> dict[str, Any]:
    """A publisher's info, which travels as JSON."""
    return read("ClientInfo", json.loads(text), _data_of)


def _data_of(value: Any) -> Data:
    """What was JSON."""
    return Data(dump_json(value).encode())


def _length(payload: bytes, at: int) -> tuple[int, int]:
    """The number that a varint says, and where it ends."""
    number = 0
    for count, byte in enumerate(payload[at : at + LONGEST_LENGTH]):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return number, at + count + 1
    raise BadFrame


def _parse(part: bytes) -> dict[str, Any]:
    message = protobuf_class("Command")()
    try:
        message.ParseFromString(part)
    except Exception as error:  # google's DecodeError, which is not imported without the extra
        raise BadFrame from error
    command = _as_dict(message)
    # No other command has names that the client chooses.
    if "connect" in command and _count_keys(command) > PARSER.max_keys:
        raise BadFrame
    return command


def _count_keys(value: Any) -> int:
    """How many keys all objects of a command have together, as :class:`.JSONCodec` counts."""
    if not isinstance(value, dict):
        return 0
    return len(value) + sum(map(_count_keys, value.values()))


def _as_dict(message: Any) -> dict[str, Any]:
    """The fields of a Protobuf message that are set. :exc:`BadFrame` where a map is too long."""
    fields = messages()[message.DESCRIPTOR.name]
    found: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        field = fields[descriptor.name]
        if field.is_map:
            if len(value) > PARSER.max_keys:
                raise BadFrame  # before each of them becomes an object of Python
            is_message = field.type in messages()
            pairs = value.items()
            found[descriptor.name] = {
                key: _as_dict(one) if is_message else one for key, one in pairs
            }
        elif field.type == "bytes":
            found[descriptor.name] = from_bytes(value)
        elif field.type in messages():
            found[descriptor.name] = _as_dict(value)
        else:
            found[descriptor.name] = value
    return found


def _fill(message: Any, values: Mapping[str, Any]) -> None:
    """Set the fields of a Protobuf message."""
    for name, value in values.items():
        if isinstance(value, Data):
            setattr(message, name, value.payload)
        elif isinstance(value, list):
            for one in value:
                _fill(getattr(message, name).add(), one)
        elif isinstance(value, dict):
            field = messages()[message.DESCRIPTOR.name][name]
            part = getattr(message, name)
            if field.is_map:
                for key, one in value.items():
                    if field.type in messages():
                        _fill(part[key], one)
                    else:
                        part[key] = one
            else:
                part.SetInParent()
                _fill(part, value)
        else:
            setattr(message, name, value)


def _delimited(message: Any) -> Frame:
    body: bytes = message.SerializeToString()
    size, head = len(body), bytearray()
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return Frame(bytes(head) + body, False)


def _plain(value: Any) -> Any:
    """A reply as JSON has it."""
    if isinstance(value, Data):
        return json.loads(as_json(value))
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


JSON, PROTOBUF = Json(), Protobuf()


def choose(offered: Any) -> tuple[Format, str | None]:
    """
    The format that a client asks for by its subprotocols, and the one to be answered. JSON
    where it asks for none of ours.
    """
    if PROTOBUF.subprotocol in offered and has_protobuf():
        return PROTOBUF, PROTOBUF.subprotocol
    return JSON, JSON.subprotocol if JSON.subprotocol in offered else None
