"""
One connection from its handshake to the end of its disconnect chain.

::

    connect   authenticate -> connect chain -> join groups -> accept | refuse
    receive   data chain on the frame -> codec -> message chain
    push      Connection -> transport, independent of reading: a slow filter delays
              only the reading of its own socket
    close     leave groups -> disconnect chain -> the hub forgets the connection

Frames are read in a loop of this package, not by Channels' dispatch, which awaits a
database thread for every event of every socket.
"""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from asgiref.sync import markcoroutinefunction
from channels.consumer import AsyncConsumer
from django.apps import apps

from . import tracing
from .auth.authenticators import AUTH_TIMEOUT, authenticate
from .auth.credentials import credentials, without_credentials
from .close_codes import FILTER_ERROR, FORBIDDEN
from .conf import conf
from .connections.connection import Connection
from .connections.ending import close_cancelled, count_end, finish, unlink
from .connections.handshake import Handshake, check_once, event_before
from .connections.reading import Reader
from .connections.refusals import log_refused, refusal_by, refuse
from .exceptions import Close, Drop, ends_the_task
from .groups import GroupRule
from .hub.hub import Hub, get_hub
from .hub.joining import join_route_groups
from .observe import handshakes
from .pipelines.entries import Entry
from .pipelines.pipeline import MayJoin, Pipeline
from .pipelines.route import Route
from .protocols.serving import Serves, find_protocol
from .threads.database import within
from .transports import open_transport
from .types import ASGIApplication, Codec, Receive, Scope, Send

#: Of :meth:`FilteredWebSocketConsumer.as_asgi`.
ARGUMENTS = {"calls", "codec", "filters", "group_rules", "groups", "personal", "protocol"}


class FilteredWebSocketConsumer(Serves, AsyncConsumer):
    """
    Runs a pipeline on every connection of a route.

    ``filters``, ``groups`` and ``codec`` may be set by a subclass or given to
    :meth:`as_asgi`; without ``filters`` the route runs ``INSTALLED_FILTERS``.
    """

    #: The filters of this route, written as in ``INSTALLED_FILTERS``.
    filters: ClassVar[Iterable[Entry] | None] = None
    #: Every connection joins these; ``publish`` without a group publishes to the first.
    groups: ClassVar[Iterable[str] | None] = None
    #: A codec, or the dotted path of one.
    codec: ClassVar[Codec | str | None] = None
    #: ``may_join(connection, group) -> bool``, static or class method, ``def`` or ``async def``:
    #: whether a connection may join a group. None allows every group that the pipeline joins.
    may_join: ClassVar[MayJoin | None] = None
    #: How many calls of one connection run at once; 1: one after the other. None: ``CALLS``.
    calls: ClassVar[int | None] = None

    #: Group rules, or the dotted path of them; without, those that ``GROUPS`` names.
    group_rules: ClassVar[Sequence[GroupRule] | str | None] = None
    #: Whether connections of users who are logged in join their user's own group. None: where
    #: the route speaks a protocol.
    personal: ClassVar[bool | None] = None
    #: How clients speak: "plain", where a frame is a message, "centrifuge" or "pusher". None:
    #: ``PROTOCOL``.
    protocol: ClassVar[str | None] = None

    def __init__(self, route: Route) -> None:
        self.route = route
        self._accepted = False

    @classmethod
    def as_asgi(cls, *, build: bool = True, **initkwargs: Any) -> ASGIApplication:
        """
        The ASGI application of a route. ``initkwargs`` are ``filters``, ``groups``, ``codec``,
        ``calls``, ``group_rules``, ``personal`` and ``protocol``.

        Builds the pipeline at once if Django's apps are ready, else (and with
        ``build=False``) for the first connection. Raises
        :exc:`~django.core.exceptions.ImproperlyConfigured` with the message of
        ``manage.py check`` for a pipeline that cannot be built.
        """
        if unknown := set(initkwargs) - ARGUMENTS:
            raise TypeError(
                f"{cls.__name__}.as_asgi() takes {', '.join(sorted(ARGUMENTS))},"
                f" not {', '.join(sorted(unknown))}"
            )
        route = Route(
            initkwargs.get("filters", cls.filters),
            initkwargs.get("groups", cls.groups),
            initkwargs.get("codec", cls.codec),
            cls.may_join,
            initkwargs.get("group_rules", cls.group_rules),
            personal=initkwargs.get("personal", cls.personal),
            find_protocol=partial(find_protocol, initkwargs.get("protocol", cls.protocol)),
            calls=initkwargs.get("calls", cls.calls),
            dynamic=cls.get_groups is not FilteredWebSocketConsumer.get_groups,
            is_offered=not build,
        )
        if build and apps.ready:
            route.pipeline  # noqa: B018 - built, or raises

        # Channels' own is a coroutine of its own, which stays for as long as the connection.
        def app(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            return cls(route=route)(scope, receive, send)

        made: Any = functools.update_wrapper(markcoroutinefunction(app), cls, updated=())
        made.consumer_class, made.consumer_initkwargs = cls, {"route": route}
        made.route = route
        application: ASGIApplication = made
        return application

    def get_groups(self) -> Iterable[str] | Awaitable[Iterable[str]]:
        """
        The groups to join before the connection is accepted; the first is the home group.

        Override it, as ``def`` or ``async def``: ``self.scope`` and ``self.connection``
        are set, and the connect chain has run.
        """
        return self.route.joined

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, from ``websocket.connect`` to the end of its disconnect chain."""
        if scope["type"] != "websocket":
            raise ValueError(f"a WebSocket route was asked to serve {scope['type']!r}")
        self.scope = tracing.active.handshake(scope)
        event = await receive()
        if event["type"] != "websocket.connect":
            return
        self._begin(receive, send)
        try:
            self.hub.attach(self.connection)
            opening = self._open() if self._session is None else self._open_session(self._session)
            await tracing.active.opening(opening, self.connection, self.route)
            if self._accepted:
                await self._reader.run()
        except asyncio.CancelledError:
            await close_cancelled(self.connection, self.send)
            raise
        finally:
            self.connection.transport.stop()
            self._leave()
            try:
                chains = self.pipeline.disconnect if self._stood else ()
                await finish(self.connection, chains, self.pipeline.failed)
            finally:
                await self.hub.detach(self.connection)
                unlink(self)

    def _begin(self, receive: Receive, send: Send) -> None:
        """Make the connection, and what reads its messages."""
        self.base_send = send
        self.pipeline: Pipeline = self.route.pipeline
        protocol = self.pipeline.protocol
        self.hub: Hub = get_hub()
        self._view = self.hub.view(self.pipeline)
        transport = open_transport(send, conf.MAX_OUTBOX, self._transport_ended)
        transport.on_drop = self.hub.events.message_dropped
        make = Connection if protocol is None else protocol.connection
        self.connection = make(self.scope, self._view, transport, self.pipeline.home)
        awaits = self.pipeline.data.awaits or self.pipeline.message.awaits
        handle: Callable[[bytes, bool], Awaitable[object] | None] = self._receive_first
        if protocol is not None:
            self._session = protocol.session(self, self._view)
            awaits, handle = True, self._session.receive
        self._reader = self.connection.reader = Reader(
            self.connection, receive, handle, self._view, self._view.stalls, awaits
        )
        self._max_size: int = conf.MAX_MESSAGE_SIZE

    # Connect

    async def _open(self) -> None:
        """Accept the connection, or refuse it."""
        limits = self.hub.limits
        refusal = self._check_handshake() or limits.enter(self.connection)
        if refusal is None:
            refusal = await self._authenticate() or limits.identified(self.connection)
        handshake = Handshake(self.scope)
        refusal = refusal or await self._reader.guard(self._refusal(handshake))
        if self._reader.lost:
            handshakes["left"] += 1
            return
        # By a filter, or because access has ended meanwhile; also if the chain was cancelled.
        refusal = refusal or self.connection.transport.closed
        if refusal is not None:
            log_refused(self.connection, refusal[0], self._reason or refusal[1])
            send_close = self.connection.transport.send_close
            await refuse(self.scope, self.send, send_close, *refusal)
            return
        # Set before the accept is sent: a cancellation during the send may come after
        # the client has received it.
        self._accepted = True
        try:
            await self.send({"type": "websocket.accept", "subprotocol": handshake.subprotocol})
        except Exception:
            self._accepted = False
            raise
        self._admit()
        self.connection.transport.open()

    def _check_handshake(self) -> tuple[int, str] | None:
        """Check the handshake, if a site uses this consumer without ``routing``'s check."""
        self._reason = check_once(self.scope)
        return (FORBIDDEN, "refused") if self._reason else None

    async def _authenticate(self) -> tuple[int, str] | None:
        """Authenticate. Returns the code and reason of a refusal, else None."""
        grants = self.hub.grants
        try:
            # Outside of the time limit below: it has a limit of its own.
            await grants.receiving()
            if not conf.AUTHENTICATORS:
                return None
            since = event_before(self.scope, grants.events_seen)
            identity = await within(AUTH_TIMEOUT, authenticate(self.scope, self.connection))
            if credentials(self.scope):
                self.scope = self.connection.scope = without_credentials(self.scope)
            if identity is not None:
                grants.add(self.connection, identity, since)
                self.connection.identify(identity)
        except Close as close:
            return close.code, close.reason
        except BaseException as error:
            if ends_the_task(error):
                raise
            # An error of the server, not a wrong credential.
            self.pipeline.failed(error, self.connection, "authentication")
            return FILTER_ERROR, "cannot find out who connects"
        return None

    async def _refusal(self, handshake: Handshake) -> tuple[int, str] | None:
        """Run the connect chain and join groups. Returns code and reason of a refusal, or None."""
        try:
            self.hub.grants.note_user(self.connection)
            if self.pipeline.connect:
                await self.pipeline.connect.arun(self.connection, handshake)
                self.hub.grants.note_user(self.connection)  # a filter may have set another
            chosen = self.get_groups()
            names: Any = await chosen if inspect.isawaitable(chosen) else chosen
            await self._join_groups(names)
        except (Drop, Close) as error:
            code, reason, self._reason = refusal_by(error)
            return code, reason
        except BaseException as error:
            if ends_the_task(error):
                raise
            self.pipeline.failed(error, self.connection, "joining its groups")
            return FILTER_ERROR, "a filter failed"
        return None

    async def _join_groups(self, names: Any) -> None:
        if not isinstance(names, Iterable) or isinstance(names, str):
            raise TypeError(f"{type(self).__name__}.get_groups() gave {names!r:.80}, not a list")
        # A list: a generator may raise.
        await join_route_groups(self.connection, list(names), self.route)

    # Close

    @property
    def log_fields(self) -> dict[str, str]:
        """Of its connection."""
        return self.connection.log_fields

    def _transport_ended(self, code: int, reason: str) -> None:
        self._reader.end(code, reason)

    def _leave(self) -> None:
        if self._session is not None:
            self._session.end()
        ended = self._view.connections.pop(self.connection.id, None)
        if ended is not None and ended.transport.closed is not None:
            count_end(ended.transport.closed[0])
        self.hub.grants.remove_all(self.connection)
        self.hub.limits.leave(self.connection)
        self.connection.last_groups = self.connection.groups
        for group in self.connection.last_groups:
            self._view.leave(self.connection, group)
