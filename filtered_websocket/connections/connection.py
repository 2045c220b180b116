"""The connection that filters get: one socket, its user, its groups, and how to send."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from asgiref.sync import markcoroutinefunction

from ..chains.calls import Calls
from ..chains.running import Running
from ..close_codes import FORBIDDEN
from ..codecs.frames import Frame, text_event, to_frame
from ..exceptions import Close, check_close
from ..history.base import Position
from ..observe import traffic
from ..presence.base import Info
from ..publishing.items import with_event
from ..threads.result import Result, start
from ..transports import AsgiTransport
from ..types import Codec, Scope
from . import member
from .subscription import Subscription

#: Connections, or ids of connections, that do not get a message.
Exclude = Iterable["Connection | str"]


class View(member.View, Protocol):
    """The part of :class:`~filtered_websocket.hub.view.HubView` that a connection uses."""

    @property
    def codec(self) -> Codec | None: ...
    @property
    def storage_object(self) -> Any: ...
    @property
    def users(self) -> Mapping[str, "Connection"]: ...
    def present(self, group: str) -> Mapping[str, Any]: ...
    def queue_of(self, connection: "Connection") -> Any: ...
    def submit(
        self,
        message: Any,
        group: str,
        *,
        sender: str,
        exclude: Iterable[str],
        on_commit: bool,
        idempotency_key: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> None: ...
    def asubmit(
        self,
        message: Any,
        group: str,
        *,
        sender: str,
        exclude: Iterable[str],
        idempotency_key: str = "",
        meta: Mapping[str, Any] | None = None,
    ) -> Result[Position | None]: ...


class Connection(member.Member):
    """
    One socket. A filter may set any attribute on it; ``state`` is a dict for the same
    use, and ``token`` is such an attribute: setting it grants nothing.

    Its methods may be called from any thread and event loop. Those that can be awaited
    act when they are called; awaiting them waits until that is done.
    """

    #: Its calls; None until a protocol asks for them. Private to this package.
    calls: Calls | None = None
    #: What reads its messages. Private to this package.
    reader: Any = None
    #: What goes on for a while once its socket is gone, if anything was begun.
    running: Running | None = None

    def __init__(self, scope: Scope, view: View, transport: AsgiTransport, home: str) -> None:
        super().__init__(scope)
        self._state: dict[str, Any] | None = None
        #: How the connection ended, in the disconnect chain; RFC 6455 section 7.4.
        self.close_code: int | None = None
        self.close_reason: str = ""
        #: Whether its filters published, or put an event, since its reader last looked: it
        #: pauses while queues are more than half full.
        self.has_queued = False
        #: ``publish`` without a group publishes to this one.
        self.home = home
        #: Sends the frames. Private to this package.
        self.transport = transport
        self._view: View = view

    def __repr__(self) -> str:
        return f"<Connection {self.id} {self.scope['path']!r}>"

    @property
    def pipeline(self) -> Any:
        """The chains of its route. Private to this package."""
        return self._view.pipeline

    @property
    def shown_info(self) -> str:
        """
        What others are shown of it in presence, as JSON, where its protocol has that; empty:
        nothing. Private to this package.
        """
        return ""

    def present_as(self, subscription: Subscription) -> Info:
        """Who it is to others in a group, where presence is kept. Private to this package."""
        return Info(self.user_id, subscription.info)

    @property
    def state(self) -> dict[str, Any]:
        """For filters; empty at first."""
        if self._state is None:
            self._state = {}
        return self._state

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._state = state

    @property
    def users(self) -> Mapping[str, "Connection"]:
        """id -> connection, of this process and pipeline; iterating sees one moment."""
        return self._view.users

    def present(self, group: str) -> Mapping[str, Any]:
        """
        Connection id -> ``Info(user, info)`` of everyone in ``group``, in all processes, as
        far as it was told here; see :meth:`HubView.present`.
        """
        return self._view.present(group)

    @property
    def queue(self) -> Any:
        """``queue.put(event)`` hands an event to the pipeline's consumer chain."""
        return self._view.queue_of(self)

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
        traffic.pushed += 1
        traffic.bytes_out += frame.longest
        self._view.call(self.transport.write, frame)

    @markcoroutinefunction
    def send(self, message: Any) -> Result[None]:
        """
        :meth:`push`, and wait until the server has taken the message, or the connection
        has closed. Messages leave in the order of the calls.
        """
        return self.send_frame(to_frame(message, self._view.codec, text=text_event.get()))

    def send_frame(self, frame: Frame) -> Result[None]:
        """:meth:`send` of a frame that is already encoded. Private to this package."""
        if self._view.is_current:
            return Result(self._send(frame))
        sent: Result[None] = start(self._view, self._send, frame, on_error=self.call_failed)
        return sent

    def _send(self, frame: Frame) -> "asyncio.Future[None]":
        done: asyncio.Future[None] = self._view.loop.create_future()
        traffic.pushed += 1
        traffic.bytes_out += frame.longest
        self.transport.write(frame, done)
        return done

    def publish(
        self,
        message: Any,
        group: str | None = None,
        *,
        exclude: Exclude = (),
        on_commit: bool = False,
        to_self: bool = False,
        idempotency_key: str = "",
        event: str = "",
    ) -> None:
        """
        Send ``message`` to every member of ``group`` (its home group if None), in all
        processes, but not to itself unless ``to_self``.

        Returns once the message is queued. Delivery: at most once, in order per publisher
        and group. Where the group rule keeps a history, the message gets its place there; with
        an ``idempotency_key`` that was used for this group in the last five minutes, nothing
        is published. ``event`` is its name for clients of Pusher, and in ``current.event``.
        Raises :exc:`~filtered_websocket.PublishError` for a mistake in the
        call, and :exc:`~filtered_websocket.Close` (4403) if its token may not publish;
        a later failure reaches the consumer chain as ``publish_failed``.
        """
        group, ids, meta = self._address(group, exclude, to_self)
        self._view.submit(
            message,
            group,
            sender=self.id,
            exclude=ids,
            on_commit=on_commit,
            idempotency_key=idempotency_key,
            meta=with_event(event, meta),
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
        event: str = "",
    ) -> Result[Position | None]:
        """
        :meth:`publish`, and wait until the layer has taken it; PublishError if it fails. The
        position of the message, with ``repeated`` where the key was known; None where the
        group has no history.
        """
        group, ids, meta = self._address(group, exclude, to_self)
        return self._view.asubmit(
            message,
            group,
            sender=self.id,
            exclude=ids,
            idempotency_key=idempotency_key,
            meta=with_event(event, meta),
        )

    def _address(
        self, group: str | None, exclude: Exclude, to_self: bool
    ) -> tuple[str, list[str], dict[str, Any] | None]:
        """
        The group of what it publishes now, the ids of those that do not get it, and what a
        protocol tells of it besides, which is nothing on plain routes.
        """
        if not self.may_publish:
            raise Close(FORBIDDEN, "this token may not publish")
        self.has_queued = True
        ids = excluded_ids(exclude) if exclude else []
        return (
            self.home if group is None else group,
            ids if to_self else [self.id, *ids],
            None,
        )

    def renew(self, at: float | None) -> bool:
        """
        Whether it has a token of its protocol, which now lasts until then, in seconds since
        1970, or for ever. Private to this package.
        """
        return False

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
