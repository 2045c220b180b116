"""The connection that filters get on a route of the Centrifuge client protocol."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from asgiref.sync import markcoroutinefunction

from ..codecs.centrifuge import JSON, Format
from ..codecs.data import Data, as_json, data_of
from ..codecs.frames import dump_json
from ..connections.connection import Connection, Exclude
from ..threads.result import Result


class ClientEvent:
    """A publish of a client, while it goes through the data and message chains."""

    def __init__(self, group: str | None) -> None:
        self.group = group
        #: Whether a filter has published it, so that the protocol does not.
        self.is_published = False


#: The publish whose chains run now.
client_event: ContextVar[ClientEvent | None] = ContextVar("fws_client_event", default=None)


class ClientConnection(Connection):
    """
    Pushes are messages of this protocol. In the chains of a client's publish, ``publish``
    without a group is that publish: the protocol then does none of its own.
    """

    format: Format = JSON
    #: Shown to others as ``conn_info``.
    token_info: Data | None = None
    #: Each command is counted, also those that go through no chain.
    counts_commands = True
    #: Has its token last until then; None where it has no token of the protocol.
    on_renew: Callable[[float | None], None] | None = None
    #: What others are told of it, and of what that is made.
    _described: tuple[object, str] | None = None

    def push(self, message: Any) -> None:
        """Queue an asynchronous message for this client: any JSON value; bytes for Protobuf."""
        self.push_frame(self._message(message))

    sendMessage = push

    @markcoroutinefunction
    def send(self, message: Any) -> Result[None]:
        """:meth:`push`, and wait until the server has taken it, or the connection has closed."""
        return self.send_frame(self._message(message))

    def _message(self, message: Any) -> Any:
        data = data_of(message)
        if not self.format.can_say(data):
            raise ValueError("a client that speaks JSON cannot be sent bytes that are not JSON")
        return self.format.reply({"push": {"message": {"data": data}}})

    def renew(self, at: float | None) -> bool:
        """As of a plain connection; its token lasts until then."""
        if self.on_renew is None:
            return False
        self.on_renew(at)
        return True

    def _address(
        self, group: str | None, exclude: Exclude, to_self: bool
    ) -> tuple[str, list[str], str]:
        """As of a plain connection; see the class."""
        event = client_event.get()
        if group is None and event is not None and event.group is not None:
            addressed, ids, _ = super()._address(event.group, exclude, True)
            event.is_published = True
        else:
            addressed, ids, _ = super()._address(group, exclude, to_self)
        return addressed, ids, self._publisher(addressed)

    @property
    def shown_info(self) -> str:
        """What is shown of it in presence, as JSON."""
        return "" if self.token_info is None else as_json(self.token_info).decode()

    def _publisher(self, group: str) -> str:
        """What others are told of who published to ``group``, as JSON."""
        subscription = self.subscriptions.get(group)
        shown = None if subscription is None else subscription.info
        if shown is not None:
            return self._describe(shown)
        # The same for all groups; kept, as it takes as long as a short message.
        key = self.user_id, self.token_info
        if self._described is None or self._described[0] != key:
            self._described = key, self._describe(None)
        return self._described[1]

    def _describe(self, shown: Any) -> str:
        fields = {"client": self.id, "user": self.user_id, "chan_info": shown}
        text = dump_json({key: value for key, value in fields.items() if value is not None})
        return f'{text[:-1]},"conn_info":{self.shown_info}}}' if self.shown_info else text
