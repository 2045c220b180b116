"""The connection that filters get on a route of the Centrifuge client protocol."""

from contextvars import ContextVar
from typing import Any

from asgiref.sync import markcoroutinefunction

from ..codecs.centrifuge import JSON, Format
from ..codecs.data import Data, as_json, data_of
from ..codecs.frames import dump_json
from ..connections.connection import Connection, Exclude
from ..history.base import Position
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

    def publish(
        self,
        message: Any,
        group: str | None = None,
        *,
        exclude: Exclude = (),
        on_commit: bool = False,
        to_self: bool = False,
        idempotency_key: str = "",
    ) -> None:
        """:meth:`.Connection.publish`; see the class."""
        self._check_may_publish()
        self.has_queued = True
        group, to_self = self._chosen(group, to_self)
        ids = self._excluded(exclude, to_self)
        self._client_view.submit(
            message,
            group,
            sender=self.id,
            exclude=ids,
            on_commit=on_commit,
            idempotency_key=idempotency_key,
            info=self._publisher(group),
        )

    @markcoroutinefunction
    def apublish(
        self,
        message: Any,
        group: str | None = None,
        *,
        exclude: Exclude = (),
        to_self: bool = False,
        idempotency_key: str = "",
    ) -> Result[Position | None]:
        """:meth:`.Connection.apublish`; see the class."""
        self._check_may_publish()
        self.has_queued = True
        group, to_self = self._chosen(group, to_self)
        ids = self._excluded(exclude, to_self)
        sent: Result[Position | None] = self._client_view.asubmit(
            message,
            group,
            sender=self.id,
            exclude=ids,
            idempotency_key=idempotency_key,
            info=self._publisher(group),
        )
        return sent

    @property
    def _client_view(self) -> Any:
        return self._view

    def _chosen(self, group: str | None, to_self: bool) -> tuple[str, bool]:
        event = client_event.get()
        if group is not None or event is None or event.group is None:
            return self.home if group is None else group, to_self
        event.is_published = True
        return event.group, True

    @property
    def shown_info(self) -> str:
        """What is shown of it in presence, as JSON."""
        return "" if self.token_info is None else as_json(self.token_info).decode()

    def _publisher(self, group: str) -> str:
        """What others are told of who published to ``group``, as JSON."""
        fields: dict[str, Any] = {"client": self.id, "user": self.user_id}
        subscription = self.subscriptions.get(group)
        if subscription is not None:
            fields["chan_info"] = subscription.info
        text = dump_json({key: value for key, value in fields.items() if value is not None})
        return f'{text[:-1]},"conn_info":{self.shown_info}}}' if self.shown_info else text
