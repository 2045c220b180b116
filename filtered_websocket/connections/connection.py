"""The connection that filters get: one socket, its user, its groups, and how to send."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ..auth.addresses import address_of
from ..close_codes import FORBIDDEN
from ..codecs.frames import Frame, text_event, to_frame
from ..exceptions import Close, check_close
from ..layer.envelope import check_group
from ..transports import AsgiTransport
from ..types import Codec, Identity, Scope

if TYPE_CHECKING:
    import asyncio

#: Connections, or ids of connections, that do not get a message.
Exclude = Iterable["Connection | str"]


class View(Protocol):
    """The part of a hub's view (:class:`~filtered_websocket.hub.hub.HubView`) a connection uses."""

    @property
    def loop(self) -> "asyncio.AbstractEventLoop": ...
    @property
    def codec(self) -> Codec | None: ...
    @property
    def storage_object(self) -> Any: ...
    @property
    def users(self) -> Mapping[str, "Connection"]: ...
    @property
    def queue(self) -> Any: ...
    def call(self, function: Callable[..., object], *args: Any) -> None: ...
    async def join(self, connection: "Connection", group: str) -> bool: ...
    def leave(self, connection: "Connection", group: str) -> None: ...
    async def use_token(self, connection: "Connection", key: str | None) -> Any: ...
    def submit(
        self, message: Any, group: str, *, sender: str, exclude: Iterable[str], on_commit: bool
    ) -> bool: ...
    async def asubmit(
        self, message: Any, group: str, *, sender: str, exclude: Iterable[str]
    ) -> None: ...


class Connection:
    """
    One socket. A filter may set any attribute on it; ``state`` is a dict for the same
    use, and ``token`` is such an attribute: setting it grants nothing.

    ``push``, ``sendMessage``, ``publish`` and ``close`` may be called from any thread.
    """

    def __init__(self, scope: Scope, view: View, transport: AsgiTransport, home: str) -> None:
        #: Unique among all processes.
        self.id: str = str(uuid.uuid4())
        self.scope = scope
        self.state: dict[str, Any] = {}
        #: The token it connected with, or used since.
        self.token: Any = None
        #: How the connection ended, in the disconnect chain; RFC 6455 section 7.4.
        self.close_code: int | None = None
        self.close_reason: str = ""
        #: True after this connection published while the publish queue was more than half
        #: full: the reader then pauses.
        self.crowding = False
        #: ``publish`` without a group publishes to this one.
        self.home = home
        #: The names of its groups; only the hub changes it.
        self.joined: set[str] = set()
        #: Sends the frames. Private to this package.
        self.transport = transport
        #: When its access expires, by the loop's clock. Private to this package.
        self.deadline: float | None = None
        self._identity: Identity | None = None
        self._may_publish = True
        self._may_subscribe = True
        self._view = view

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.scope['path']!r}>"

    @property
    def identity(self) -> Identity | None:
        """What an authenticator found; None if no credential was offered."""
        return self._identity

    def identify(self, identity: Identity) -> None:
        """Set user and token from what authentication found. Private to this package."""
        self._identity = identity
        self.scope["user"] = identity.user
        self.token = identity.token
        # A token of a site's own authenticator may lack these attributes.
        self._may_publish = getattr(identity.token, "can_publish", True)
        self._may_subscribe = getattr(identity.token, "can_subscribe", True)

    @property
    def may_subscribe(self) -> bool:
        """Whether it may join groups: not with a token that may only publish."""
        return self._may_subscribe

    def is_expired(self, now: float) -> bool:
        """Whether its access has expired by the loop's clock."""
        return self.deadline is not None and now >= self.deadline

    @property
    def user(self) -> Any:
        """Django's user, of the session or the token; None where no authentication ran."""
        return self.scope.get("user")

    @property
    def user_id(self) -> str | None:
        """The primary key of a user who is logged in, as text; None of anybody else."""
        key = getattr(self.user, "pk", None)
        # A custom model may have keys of anonymous users too.
        return None if key is None or not self.user.is_authenticated else str(key)

    @cached_property
    def address(self) -> str:
        """
        The client's IP address: the peer's, or with ``TRUSTED_PROXIES`` the one that the
        outermost proxy saw; of IPv6 the /64 network. Empty on a Unix socket.
        """
        return address_of(self.scope)

    @property
    def session(self) -> Any:
        """Django's session, to read; it is not saved over a WebSocket."""
        return self.scope.get("session")

    @property
    def groups(self) -> frozenset[str]:
        """The names of the groups this connection is in."""
        return frozenset(self.joined)

    @property
    def users(self) -> Mapping[str, "Connection"]:
        """id -> connection, of this process and pipeline; iterating sees one moment."""
        return self._view.users

    @property
    def queue(self) -> Any:
        """``queue.put(event)`` hands an event to the pipeline's consumer chain."""
        return self._view.queue

    @property
    def storage_object(self) -> Any:
        """Sets of text that all filters share; see ``filtered_websocket.storage_objects``."""
        return self._view.storage_object

    @property
    def closing(self) -> bool:
        """Whether either side has begun to close."""
        return self.transport.closing

    def push(self, message: Any) -> None:
        """
        Queue ``message`` for this socket; never waits.

        ``str``, dict and list are sent as text. Bytes are sent as text in a filter that
        handles a text message, else as binary. TypeError or ValueError for what cannot
        be encoded. Does nothing once the connection closes.
        """
        self.push_frame(to_frame(message, self._view.codec, text=text_event.get()))

    def sendMessage(self, message: Any) -> None:
        """:meth:`push` under the name of version 0.4: bytes that are UTF-8 go as text."""
        self.push_frame(to_frame(message, self._view.codec, text=True))

    def push_frame(self, frame: Frame) -> None:
        """Queue a frame that is already encoded."""
        self._view.call(self.transport.write, frame)

    async def send(self, message: Any) -> None:
        """
        :meth:`push`, and wait until the server has taken the message, or the connection
        has closed. Messages leave in the order of the calls.
        """
        frame = to_frame(message, self._view.codec, text=text_event.get())
        done = self._view.loop.create_future()
        self.transport.write(frame, done)
        await done

    def publish(
        self,
        message: Any,
        group: str | None = None,
        *,
        exclude: Exclude = (),
        on_commit: bool = False,
        to_self: bool = False,
    ) -> None:
        """
        Send ``message`` to every member of ``group`` (its home group if None), in all
        processes, but not to itself unless ``to_self``.

        Returns once the message is queued. Delivery: at most once, in order per publisher
        and group. Raises :exc:`~filtered_websocket.PublishError` for a mistake in the
        call, and :exc:`~filtered_websocket.Close` (4403) if its token may not publish;
        a later failure reaches the consumer chain as ``publish_failed``.
        """
        self._check_may_publish()
        self.crowding = self._view.submit(
            message,
            self.home if group is None else group,
            sender=self.id,
            exclude=self._excluded(exclude, to_self),
            on_commit=on_commit,
        )

    async def apublish(
        self,
        message: Any,
        group: str | None = None,
        *,
        exclude: Exclude = (),
        to_self: bool = False,
    ) -> None:
        """:meth:`publish`, and wait until the layer has taken it; PublishError if it fails."""
        self._check_may_publish()
        await self._view.asubmit(
            message,
            self.home if group is None else group,
            sender=self.id,
            exclude=self._excluded(exclude, to_self),
        )

    def _check_may_publish(self) -> None:
        if not self._may_publish:
            raise Close(FORBIDDEN, "this token may not publish")

    def _excluded(self, exclude: Exclude, to_self: bool) -> list[str]:
        ids = excluded_ids(exclude) if exclude else []
        return ids if to_self else [self.id, *ids]

    async def join(self, group: str) -> bool:
        """
        Join ``group``: what is published to it from now on reaches this connection.

        False if the layer did not answer within ``LAYER_TIMEOUT``: the connection then
        joins as soon as the layer answers, and the consumer chain gets a ``gap`` event.
        Raises :exc:`~filtered_websocket.Close` (4403) if the route or its token does not
        allow it, and for names that begin with ``token:``.
        """
        return await self._view.join(self, check_group(group))

    async def use_token(self, key: str | None = None) -> Any:
        """
        Join the broadcast group of the token ``key`` and leave that of a token used
        before. Returns the token, which has ``label``, ``group_name`` and ``can_publish``.

        Without a key, joins the group of the token it connected with. None if there is no
        such token, or it is not valid. When the token is revoked or expires, the
        connection is closed.
        """
        return await self._view.use_token(self, key)

    async def leave(self, group: str) -> None:
        """Leave ``group`` at once; no error if it is not a member."""
        self._view.leave(self, group)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """
        Close the connection after the messages that were pushed before.

        ``code`` and ``reason`` are those of :exc:`~filtered_websocket.Close`.
        """
        check_close(code, reason)
        self._view.call(self.transport.close, code, reason)


def excluded_ids(exclude: Exclude) -> list[str]:
    """The ids of connections, given as connections or ids."""
    if isinstance(exclude, str):
        return [exclude]
    return [entry if isinstance(entry, str) else entry.id for entry in exclude]
