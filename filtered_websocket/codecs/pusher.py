"""
Frames of the Pusher Channels protocol: JSON objects with an event, a channel and data.

The data of what the server says is a text, which mostly is JSON itself; that of a client's
event is any JSON value.
"""

import json
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any, NamedTuple

from .data import PARSER, Data, data_of
from .frames import Frame, dump_json, is_utf8

#: How the names of client events begin.
CLIENT_PREFIX = "client-"
#: How those of the protocol begin.
SYSTEM_PREFIXES = ("pusher:", "pusher_internal:")
#: The name of what was published without one.
DEFAULT_EVENT = "message"


class BadFrame(ValueError):
    """What a client has sent is no frame of this protocol; its text is sent to the client."""


class Said(NamedTuple):
    """What a client has sent."""

    event: str
    channel: str
    data: Any

    @property
    def fields(self) -> dict[str, Any]:
        """The data of an event of the protocol: an object, or the text of one."""
        data = self.data
        if isinstance(data, str):
            try:
                data = PARSER.parse(data)
            except (ValueError, RecursionError):
                raise BadFrame("data is not JSON") from None
        if data is None:
            return {}
        if not isinstance(data, dict):
            raise BadFrame("data is no object")
        return data

    @property
    def named_channel(self) -> str:
        """The channel in the data."""
        channel = self.fields.get("channel")
        if not (isinstance(channel, str) and channel):
            raise BadFrame("data has no channel")
        return channel


def read(payload: bytes, text: bool) -> Said:
    """The event in a frame. :exc:`BadFrame` for anything else."""
    if not text:
        raise BadFrame("frames are text")
    try:
        fields = PARSER.parse(payload.decode())
    except (ValueError, RecursionError):
        raise BadFrame("not JSON") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        raise BadFrame("not an object with an event")
    channel = fields.get("channel", "")
    if not isinstance(channel, str):
        raise BadFrame("the channel is no text")
    return Said(fields["event"], channel, fields.get("data"))


def data_said(value: Any) -> Data:
    """The data of a client's event: a text stays one."""
    return Data(value.encode(), "t") if isinstance(value, str) else data_of(value)


def data_read(payload: bytes) -> Data:
    """The data of a client's event that was a text, of which filters saw the bytes."""
    return Data(payload, "t" if is_utf8(payload) else "b")


def data_told(text: str) -> Data:
    """The data of a server's event, which is a text: JSON, where it is JSON."""
    payload = text.encode()
    try:
        PARSER.parse(text)
    except (ValueError, RecursionError):
        return Data(payload, "t")
    return Data(payload)


def quoted(text: str) -> bytes:
    """A text as JSON."""
    written: str = encode_basestring(text)
    return written.encode()


def system_frame(event: str, data: Any = None, channel: str = "") -> Frame:
    """An event of the protocol; without data, where there is none."""
    fields: dict[str, Any] = {"event": event}
    if channel:
        fields["channel"] = channel
    if data is not None:
        fields["data"] = dump_json(data)
    return Frame(dump_json(fields).encode(), True)


def error_frame(code: int, message: str) -> Frame:
    """An error, whose data is an object: so clients have it in any version."""
    return Frame(
        dump_json({"event": "pusher:error", "data": {"code": code, "message": message}}).encode(),
        True,
    )


def head_of(channel: str) -> bytes:
    """What frames of a channel have between the name of the event and the data."""
    return b',"channel":' + quoted(channel) + b',"data":'


def event_frame(event: str, head: bytes, data: Data, user: str | None = None) -> Frame | None:
    """
    A published event, of a channel with this :func:`head_of`; None for bytes that are no text.
    ``user`` is who has sent it, where that is told.
    """
    if data.kind == "b":
        return None
    # What a client has sent is a JSON value of its own; anything else is a text.
    is_value = data.kind == "j" and event.startswith(CLIENT_PREFIX)
    value = data.payload if is_value else quoted(data.payload.decode())
    tail = b"" if user is None else b',"user_id":' + quoted(user)
    return Frame(b'{"event":' + quoted(event) + head + value + tail + b"}", True)


@lru_cache(256)
def user_in(info: str) -> str | None:
    """The user in what others are told of who publishes: mostly the same few for many events."""
    user: str | None = json.loads(info).get("user")
    return user


def parse_text(text: Any) -> Any:
    """The JSON value in a text that a client has signed. :exc:`BadFrame` for anything else."""
    if not isinstance(text, str):
        raise BadFrame("not a text")
    try:
        return PARSER.parse(text)
    except (ValueError, RecursionError):
        raise BadFrame("not JSON") from None
