"""
The ASGI edge: one connection from handshake to disconnect chain.

::

    connect   authenticate -> connect chain -> join groups -> accept | refuse
    receive   data chain on the frame -> codec -> message chain
    push      Connection -> transport, beside all this: a slow filter holds up
              only the reading of its own socket
    over      leave groups -> disconnect chain -> the hub lets go

Reads are a loop of its own, not Channels' dispatch: that one awaits a database
thread for every event of every socket.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Iterable
from typing import Any, ClassVar

from channels.consumer import AsyncConsumer
from django.apps import apps

from .auth.authenticators import AUTH_TIMEOUT, authenticate
from .auth.credentials import SUBPROTOCOL, credentials, without_credentials
from .close_codes import FILTER_ERROR, FORBIDDEN, TOO_LARGE, UNAUTHORIZED
from .codecs.frames import text_event
from .conf import conf
from .connections.connection import Connection, Handshake
from .connections.handshake import CHECKED, objection, site_rule, turn_away
from .exceptions import Close, Drop
from .filters.base import Chain
from .hub.hub import Hub, get_hub
from .logs import get_logger
from .pipelines.entries import Entry
from .pipelines.pipeline import MayJoin, Pipeline, Route, check_route_group
from .threads.database import patience
from .transports import open_transport
from .transports.pace import REST
from .types import ASGIApplication, Codec, Event, Receive, Scope, Send

logger = get_logger(__name__)

#: How long a disconnect chain may go on after its connection was cancelled, seconds.
DISCONNECT_TIMEOUT = 8.0
#: RFC 6455 section 7.1.5: the code of a close frame that had none.
NO_STATUS = 1005
#: How long one connection works off what it has sent before all others have their turn, seconds.
TURN = 0.0003


class FilteredWebSocketConsumer(AsyncConsumer):
    """
    Runs a pipeline on every connection of a route.

    ``filters``, ``groups`` and ``codec`` may be set by a subclass or given to
    :meth:`as_asgi`; without ``filters`` the route runs ``INSTALLED_FILTERS``.
    """

    #: As ``INSTALLED_FILTERS``, for this route.
    filters: ClassVar[Iterable[Entry] | None] = None
    #: Joined by every connection; ``publish`` without a group means the first.
    groups: ClassVar[Iterable[str] | None] = None
    #: A codec, or the dotted path of one.
    codec: ClassVar[Codec | str | None] = None
    #: ``may_join(connection, group) -> bool``, a static or class method, ``def`` or
    #: ``async def``: who may join what. None allows all that the pipeline joins.
    may_join: ClassVar[MayJoin | None] = None

    def __init__(self, route: Route) -> None:
        self.route = route
        self._accepted = False
        self._reading = False
        self._woken = False
        self._ahead: Event | None = None

    @classmethod
    def as_asgi(cls, *, build: bool = True, **initkwargs: Any) -> ASGIApplication:
        """
        The ASGI application of a route: ``filters=``, ``groups=``, ``codec=``.

        Builds the pipeline at once where Django's apps are ready, else (and with
        ``build=False``) when it is first served;
        :exc:`~django.core.exceptions.ImproperlyConfigured` says what is wrong with it,
        in the words of ``manage.py check``.
        """
        unknown = set(initkwargs) - {"filters", "groups", "codec"}
        if unknown:
            raise TypeError(
                f"{cls.__name__}.as_asgi() takes filters, groups and codec,"
                f" not {', '.join(sorted(unknown))}"
            )
        route = Route(
            initkwargs.get("filters", cls.filters),
            initkwargs.get("groups", cls.groups),
            initkwargs.get("codec", cls.codec),
            cls.may_join,
            dynamic=cls.get_groups is not FilteredWebSocketConsumer.get_groups,
        )
        if build and apps.ready:
            route.pipeline  # noqa: B018 - built, or raises
        app: Any = super().as_asgi(route=route)
        app.route = route
        application: ASGIApplication = app
        return application

    def get_groups(self) -> Iterable[str] | Awaitable[Iterable[str]]:
        """
        The groups to join before accept; the first is the home group. For override,
        also ``async``: ``self.scope`` and ``self.connection`` are there, the connect
        chain has run.
        """
        return self.route.groups

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection, from ``websocket.connect`` to the end of its disconnect chain."""
        if scope["type"] != "websocket":
            raise ValueError(f"a WebSocket route was asked to serve {scope['type']!r}")
        self.scope = scope
        event = await receive()
        if event["type"] != "websocket.connect":
            return
        self.base_send = send
        self.pipeline: Pipeline = self.route.pipeline
        self.hub: Hub = get_hub()
        self._view = self.hub.view(self.pipeline)
        self._over = asyncio.Event()
        transport = open_transport(send, conf.MAX_OUTBOX, self._is_over)
        transport.on_drop = self.hub.message_dropped
        self.connection = Connection(scope, self._view, transport, self.pipeline.home)
        self._max_size: int = conf.MAX_MESSAGE_SIZE
        try:
            self.hub.attach(self.connection)
            await self._open()
            if self._accepted:
                await self._serve(receive)
        finally:
            transport.stop()
            self._leave()
            try:
                await self._finish()
            finally:
                await self.hub.detach(self.connection)

    # Connect

    async def _open(self) -> None:
        """Accept the connection, or refuse it."""
        limits = self.hub.limits
        refusal = self._objection() or limits.enter(self.connection)
        if refusal is None:
            refusal = await self._authenticate() or limits.identified(self.connection)
        handshake = Handshake(self.scope)
        if SUBPROTOCOL in handshake.subprotocols:
            handshake.subprotocol = SUBPROTOCOL
        refusal = refusal or await self._refusal(handshake)
        if refusal is not None:
            send_close = self.connection.transport.send_close
            await turn_away(self.scope, self.send, send_close, *refusal)
            return
        # Before it is sent: a cancellation while it is may come when the client has it.
        self._accepted = True
        try:
            await self.send({"type": "websocket.accept", "subprotocol": handshake.subprotocol})
        except Exception:
            self._accepted = False
            raise
        self._view.connections[self.connection.id] = self.connection
        self.connection.transport.open()

    def _objection(self) -> tuple[int, str] | None:
        """As ``routing``'s check, where a site's own stack stands around this consumer."""
        problem = "" if CHECKED in self.scope else objection(self.scope, site_rule, any_host=False)
        if problem:
            logger.info("refused connection %s: %s", self.connection.id, problem)
            return FORBIDDEN, "refused"
        return None

    async def _authenticate(self) -> tuple[int, str] | None:
        """Find out who connects; code and reason where that is nobody who may."""
        if not conf.AUTHENTICATORS:
            return None
        rights = self.hub.rights
        try:
            # Which has a bound of its own.
            await rights.listening()
            async with patience(AUTH_TIMEOUT):
                since = rights.heard
                identity = await authenticate(self.scope)
            if credentials(self.scope):
                self.scope = self.connection.scope = without_credentials(self.scope)
            if identity is not None:
                rights.hold(self.connection, identity, since)
                self.connection.identify(identity)
        except Close as close:
            logger.info("refused connection %s: %s", self.connection.id, close.reason)
            return close.code, close.reason
        except Exception as error:
            # A fault of ours, not of who connects.
            self.pipeline.failed(error, f"connection {self.connection.id}", "authentication")
            return FILTER_ERROR, "cannot find out who connects"
        return None

    async def _refusal(self, handshake: Handshake) -> tuple[int, str] | None:
        """Code and reason where connect chain or groups refuse; None is a welcome."""
        try:
            if self.pipeline.connect:
                await self.pipeline.connect.arun(self.connection, handshake)
            await self._join_groups()
        except Drop:
            return FORBIDDEN, "refused"
        except Close as close:
            return close.code, close.reason
        except Exception as error:
            self.pipeline.failed(error, f"connection {self.connection.id}", "joining its groups")
            return FILTER_ERROR, "a filter failed"
        return self.connection.transport.closed

    async def _join_groups(self) -> None:
        chosen = self.get_groups()
        names: Any = await chosen if inspect.isawaitable(chosen) else chosen
        if not isinstance(names, Iterable) or isinstance(names, str):
            raise TypeError(f"{type(self).__name__}.get_groups() gave {names!r:.80}, not a list")
        try:
            groups = [check_route_group(name) for name in names]
        except (TypeError, ValueError) as error:
            # A name from a URL: the client's mistake, not an error of the site.
            logger.info("refused connection %s: %s", self.connection.id, error)
            raise Close(FORBIDDEN, "no such group") from None
        if groups:
            self.connection.home = groups[0]
        if not self.connection.may_subscribe:
            return  # it publishes, and hears nothing
        if len(groups) == 1:
            await self.connection.join(groups[0])
        else:
            # Together: a layer that does not answer delays them once, not one by one.
            await asyncio.gather(*map(self.connection.join, groups))

    # Receive

    async def _serve(self, receive: Receive) -> None:
        """Read until either side closes."""
        connection, transport = self.connection, self.connection.transport
        task: Any = asyncio.current_task()
        self._task = task
        worked = ended = 0.0
        while transport.closed is None:
            # In one function: once per message, a coroutine more would be felt.
            self._reading = True
            try:
                event, self._ahead = self._ahead or await receive(), None
            except asyncio.CancelledError:
                if self._woken and task.uncancel() == 0:
                    break  # our close was sent
                raise
            finally:
                self._reading = False
            if event["type"] == "websocket.disconnect":
                transport.lost(event.get("code") or NO_STATUS, event.get("reason") or "")
                break
            began = time.perf_counter()
            # What it waited, others had.
            worked = max(0.0, worked - (began - ended))
            await self._receive(event)
            ended = time.perf_counter()
            worked += ended - began
            if connection.crowding:
                connection.crowding = False
                await self._wait_for_room(receive)
            if worked >= TURN:
                # What is queued is received without a pause, however much it is.
                worked = 0.0
                for _ in range(REST):
                    await asyncio.sleep(0)
        await self._over.wait()

    async def _wait_for_room(self, receive: Receive) -> None:
        """Read no more while the publish queue is crowded, but do not miss a disconnect."""
        room = asyncio.ensure_future(self.hub.batches.room())
        over = asyncio.ensure_future(self._over.wait())
        ahead = asyncio.ensure_future(receive())
        enough: set[asyncio.Future[Any]] = {room, over}
        try:
            await asyncio.wait({ahead, *enough}, return_when=asyncio.FIRST_COMPLETED)
            if not ahead.done():
                ahead.cancel()
                await asyncio.wait({ahead})
            if not ahead.cancelled():
                self._ahead = ahead.result()
                if self._ahead["type"] != "websocket.disconnect":
                    await asyncio.wait(enough, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in (room, over, ahead):
                waiting.cancel()
            await asyncio.wait({room, over, ahead})

    def _is_over(self, code: int, reason: str) -> None:
        """The transport is done: note how, and stop waiting for more to read."""
        self.connection.close_code = code
        self.connection.close_reason = reason
        self._over.set()
        if self._reading:
            self._woken = True
            self._task.cancel()

    async def _receive(self, event: Event) -> None:
        """One frame through the data chain, the codec and the message chain."""
        connection = self.connection
        if connection.deadline is not None and connection.is_expired(self.hub.loop.time()):
            connection.close(UNAUTHORIZED, "expired")
            return
        text = event.get("text")
        frame = bytearray(event["bytes"]) if text is None else bytearray(text, "utf-8")
        if len(frame) > self._max_size:
            connection.close(TOO_LARGE, f"a message has at most {self._max_size} bytes")
            return
        pipeline = self.pipeline
        token = text_event.set(text is not None)
        try:
            if pipeline.data.stages:
                frame = await self._pipe(pipeline.data, frame)
            message = frame
            if pipeline.codec is not None:
                message = pipeline.codec.decode(frame, text is not None)
            if pipeline.message.awaits:
                await pipeline.message.arun(connection, message)
            else:
                pipeline.message.run(connection, message)
        except Drop:
            pass
        except Close as close:
            connection.close(close.code, close.reason)
        except Exception as error:
            pipeline.failed(error, f"connection {connection.id}")
            if conf.ON_ERROR == "close":
                connection.close(FILTER_ERROR, "a filter failed")
        finally:
            text_event.reset(token)

    async def _pipe(self, chain: Chain, data: Any) -> Any:
        if chain.awaits:
            return await chain.arun(self.connection, data)
        return chain.run(self.connection, data)

    # Over

    def _leave(self) -> None:
        self._view.connections.pop(self.connection.id, None)
        self.hub.rights.leave(self.connection)
        self.hub.limits.leave(self.connection)
        for group in self.connection.groups:
            self._view.leave(self.connection, group)

    async def _finish(self) -> None:
        """
        The disconnect chain, where the connection was accepted: on every way out, once.

        A task of its own, so that a cancellation of this one does not end it: only where
        it takes too long is what it waits for cancelled, filter by filter.
        """
        if not self.pipeline.disconnect and not self.connection.transport.writing:
            return
        chain = asyncio.ensure_future(self._disconnect())
        if await _outlast(chain, DISCONNECT_TIMEOUT):
            raise asyncio.CancelledError

    async def _disconnect(self) -> None:
        """Every filter, whatever an earlier one raises."""
        await self.connection.transport.stopped()
        for chain in self.pipeline.disconnect if self._accepted else ():
            try:
                await self._pipe(chain, None)
            except (Drop, Close, asyncio.CancelledError):
                pass
            except Exception as error:
                self.pipeline.failed(error, f"connection {self.connection.id}")


async def _outlast(task: "asyncio.Future[None]", timeout: float) -> bool:
    """
    Wait for ``task``; whether a cancellation came meanwhile. From then on it has
    ``timeout`` seconds, after which it is cancelled until it ends.
    """
    loop = asyncio.get_running_loop()
    deadline: float | None = None
    while not task.done():
        left = None
        if deadline is not None:
            left = deadline - loop.time()
            if left <= 0:
                task.cancel()
                left = 0.1
        try:
            await asyncio.wait({task}, timeout=left)
        except asyncio.CancelledError:
            deadline = deadline or loop.time() + timeout
    return deadline is not None
