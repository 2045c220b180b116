"""
Commands and replies as bytes of Protobuf, and as dicts with the names of ``centrifuge.proto``.
What the schema calls bytes is :class:`.Data` in those.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .data import PARSER, Data, from_bytes
from .publishes import Publish
from .schema import NUMBERS, BadFrame, messages, protobuf_class

#: The most bytes of the length before a Protobuf message.
LONGEST_LENGTH = 5


def length(payload: bytes, at: int) -> tuple[int, int]:
    """The number that a varint says, and where it ends."""
    if at + 1 < len(payload):
        # Most are of one byte or two.
        if (number := payload[at]) < 0x80:
            return number, at + 1
        if (more := payload[at + 1]) < 0x80:
            return number & 0x7F | more << 7, at + 2
    number = 0
    for count, byte in enumerate(payload[at : at + LONGEST_LENGTH]):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return number, at + count + 1
    raise BadFrame


#: The tags of a command's number, of its publish, and of the channel and the data of that.
NUMBER, PUBLISH, CHANNEL, DATA = 1 << 3, 7 << 3 | 2, 1 << 3 | 2, 2 << 3 | 2


def read_publish(payload: bytes) -> Publish | None:
    """
    The publish that is all of a frame, as the clients' libraries write it. None for whatever is
    written in another way, or is wrong.
    """
    end = len(payload)
    try:
        size, at = length(payload, 0)
        if at + size != end or payload[at] != NUMBER:
            return None
        number, at = length(payload, at + 1)
        if payload[at] != PUBLISH:
            return None
        size, at = length(payload, at + 1)
        if at + size != end or payload[at] != CHANNEL:
            return None
        size, at = length(payload, at + 1)
        channel, at = payload[at : at + size].decode(), at + size
        if payload[at] != DATA:
            return None
        size, at = length(payload, at + 1)
    except (BadFrame, IndexError, UnicodeDecodeError):
        return None
    if not size or at + size != end or not 0 < number <= NUMBERS["uint32"][1]:
        return None
    return Publish(number, channel, from_bytes(payload[at:]))


def parse(part: bytes) -> dict[str, Any]:
    """A command. Raises :exc:`.BadFrame`."""
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


def fill(message: Any, values: Mapping[str, Any]) -> None:
    """Set the fields of a Protobuf message."""
    for name, value in values.items():
        if isinstance(value, Data):
            setattr(message, name, value.payload)
        elif isinstance(value, list):
            for one in value:
                fill(getattr(message, name).add(), one)
        elif isinstance(value, dict):
            field = messages()[message.DESCRIPTOR.name][name]
            part = getattr(message, name)
            if field.is_map:
                for key, one in value.items():
                    if field.type in messages():
                        fill(part[key], one)
                    else:
                        part[key] = one
            else:
                part.SetInParent()
                fill(part, value)
        else:
            setattr(message, name, value)


def field(number: int, content: bytes) -> bytes:
    """A field of a Protobuf message, whose content has a length."""
    return bytes((number << 3 | 2,)) + varint(len(content)) + content


@lru_cache(256)
def varint(number: int) -> bytes:
    """A number that comes again, as of a length."""
    return varint_once(number)


def varint_once(number: int) -> bytes:
    """A number that does not, as of a command."""
    if number < 0x80:
        return bytes((number,))
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)
