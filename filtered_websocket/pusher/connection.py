"""The connection that filters get on a route of the Pusher protocol."""

import uuid
from collections.abc import Mapping
from typing import Any

from asgiref.sync import markcoroutinefunction

from ..codecs.data import data_to_send
from ..codecs.frames import Frame, dump_json, text_event
from ..codecs.pusher import DEFAULT_EVENT, BadFrame, event_frame, parse_text
from ..connections.connection import Connection, Exclude
from ..connections.subscription import Subscription
from ..layer.envelope import EVENT, INFO
from ..presence.base import Info
from ..protocols.connection import ClientEvent, client_event
from ..threads.result import Result
from .channels import MAX_USER_ID
from .codes import unauthorized

#: What frames without a channel have between the name of the event and the data.
NO_CHANNEL = b',"data":'
_HALF = 1 << 64
#: A question to all processes: how many connections have the key of an app.
CONNECTIONS = "pusher_connections"


def socket_id_of(connection: str) -> str:
    """The id of a connection as this protocol writes it: two numbers."""
    number = uuid.UUID(connection).int
    return f"{number >> 64}.{number % _HALF}"


def connection_of(socket_id: str) -> str:
    """The connection with this id of the protocol. ValueError for what is none."""
    high, dot, low = socket_id.partition(".")
    numbers = [int(part) for part in (high, low) if part.isascii() and part.isdigit()]
    if not dot or len(numbers) != 2 or len(socket_id) > 41 or max(numbers) >= _HALF:
        raise ValueError("a socket_id is two numbers with a dot between them")
    return str(uuid.UUID(int=(numbers[0] << 64) | numbers[1]))


class SignedIn:
    """A user who has signed in."""

    __slots__ = ("group", "id", "info")

    def __init__(self, user: str, info: Any, group: str) -> None:
        self.id = user
        self.info = info
        self.group = group


class NamedEvent(ClientEvent):
    """An event of a client, while it goes through the data and message chains."""

    def __init__(self, to: str, name: str) -> None:
        super().__init__(to)
        self.to = to
        self.name = name


class PusherConnection(Connection):
    """
    Pushes are events named ``message``, without a channel. In the chains of a client's event,
    ``publish`` without a group is that event: the protocol then does none of its own.
    """

    #: Each event is counted, also those that go through no chain.
    counts_commands = True
    #: Who has signed in.
    signed_in: SignedIn | None = None
    #: Channel with presence -> who it is there: user and info.
    members: Mapping[str, Info] = {}
    #: What others were told last of who publishes: the user, and all of it.
    _publisher: tuple[str | None, str] | None = None

    @property
    def socket_id(self) -> str:
        """Its id as this protocol writes it."""
        return socket_id_of(self.id)

    def push(self, message: Any) -> None:
        """Queue an event without a channel for this client: any JSON value, or a text."""
        self.push_frame(_message(message))

    sendMessage = push

    @markcoroutinefunction
    def send(self, message: Any) -> Result[None]:
        """:meth:`push`, and wait until the server has taken it, or the connection has closed."""
        return self.send_frame(_message(message))

    def present_as(self, subscription: Subscription) -> Info:
        """As of a plain connection; in channels with presence who its site has signed it as."""
        known = self.members.get(subscription.group)
        if known is None:
            return super().present_as(subscription)
        return known if subscription.info is None else Info(known.user, subscription.info)

    def _address(
        self, group: str | None, exclude: Exclude, to_self: bool
    ) -> tuple[str, list[str], dict[str, Any] | None]:
        """As of a plain connection; see the class."""
        event = client_event.get()
        if not isinstance(event, NamedEvent) or group is not None:
            return super()._address(group, exclude, to_self)
        event.is_published = True
        addressed, ids, _ = super()._address(event.to, exclude, to_self)
        return addressed, ids, {EVENT: event.name, INFO: self.publisher(addressed)}

    def publisher(self, group: str) -> str:
        """What others are told of who published to ``group``, as JSON."""
        known = self.members.get(group)
        user = self.user_id if known is None else known.user
        if self._publisher is None or self._publisher[0] != user:
            fields = {"client": self.id, "user": user}
            told = {key: value for key, value in fields.items() if value is not None}
            self._publisher = user, dump_json(told)
        return self._publisher[1]


def member_of(data: Any, user: SignedIn | None) -> Info:
    """
    Who a client is in a channel with presence: by what its site has signed, or who has signed
    in. :exc:`.Refused`.
    """
    if data is None and user is not None:
        return Info(user.id, user.info)
    try:
        found = parse_text(data)
    except BadFrame as error:
        raise unauthorized(f"channel_data: {error}") from None
    key = found.get("user_id") if isinstance(found, dict) else None
    if isinstance(key, int | float) and not isinstance(key, bool):
        key = str(key)
    if not isinstance(key, str) or not 0 < len(key) <= MAX_USER_ID:
        raise unauthorized(f"channel_data has no user_id of 1 to {MAX_USER_ID} characters")
    return Info(key, found.get("user_info"))


def _message(message: Any) -> Frame:
    data = data_to_send(message, bool(text_event.get()))
    frame = event_frame(DEFAULT_EVENT, NO_CHANNEL, data)
    if frame is None:
        raise ValueError("a client of this protocol cannot be sent bytes that are no text")
    return frame
