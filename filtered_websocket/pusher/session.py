"""
One connection that speaks the Pusher protocol: reads events and answers them in order, until
its end.

::

    accepted -> app, version, origin -> connect chain -> connection_established -> events
                       |                     |
                       v                     v
                pusher:error and the close code
"""

import asyncio
from collections.abc import Awaitable
from typing import Any

from ..close_codes import FORBIDDEN, UNAUTHORIZED
from ..codecs.data import Data, from_bytes
from ..codecs.pusher import (
    CLIENT_PREFIX,
    BadFrame,
    Said,
    data_read,
    data_said,
    error_frame,
    read,
    system_frame,
)
from ..conf import conf
from ..exceptions import Close, ends_the_task
from ..filters.rate_limit import RateLimitFilter
from ..protocols.connection import client_event
from ..protocols.requests import has_chains, through_chains
from ..transports import AsgiTransport, write_one
from . import codes, webhooks
from .apps import App
from .codes import Code, app_of, refusal_of
from .connection import NamedEvent, PusherConnection
from .pushes import Pushes
from .subscribing import Subscribing

#: A silent client is asked after so many times the pause after which an idle one pings.
SILENCE = 2
#: How long it may take to answer, seconds.
PONG = 30.0
#: The longest name of a client's event.
MAX_EVENT_NAME = 200


class Session:
    """Belongs to the hub's event loop."""

    subprotocol = None
    app: App

    def __init__(self, consumer: Any, view: Any) -> None:
        self.connection: PusherConnection = consumer.connection
        self.id = self.connection.id
        self.pushes: Pushes = view.pushes
        #: Whether the client was told that it is connected.
        self.is_connected = False
        self._consumer = consumer
        self._view = view
        self._loop: asyncio.AbstractEventLoop = view.loop
        filters = view.pipeline.data.filters
        self._limits = [one for one in filters if issubclass(one, RateLimitFilter)]
        self._has_chains = has_chains(view.pipeline)
        self._subscribing = subscribing = Subscribing(self, view)
        # Called by the pushes.
        self.joined, self.left = subscribing.joined, subscribing.left
        self.channel_of = subscribing.channel_of
        self.who_publishes = view.pipeline.rules.who_publishes
        #: When it was heard last, by the loop's clock; and what looks after that.
        self._heard = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def transport(self) -> AsgiTransport:
        return self.connection.transport

    # Begin and end

    def begin(self) -> Awaitable[object] | None:
        """The handshake was accepted, and may be refused already; what is to be awaited."""
        return None if self.connection.closing else self._establish()

    async def _establish(self) -> None:
        refusal: Code | None
        try:
            found = await app_of(self._consumer.scope, self._view.host, self.pushes)
            if isinstance(found, App):
                self.app = found
                self.pushes.add(self)
                refusal = await self._consumer.admit()
            else:
                self._consumer.refused(FORBIDDEN, found[1])
                refusal = found
        except Exception as error:
            # Of the site: its apps are wrong, say.
            self._view.pipeline.failed(error, self.connection, "connecting")
            refusal = codes.GENERIC
        if refusal is not None:
            self.close(*refusal)
            return
        self.is_connected = True
        self.tell(
            "pusher:connection_established",
            {
                "socket_id": self.connection.socket_id,
                "activity_timeout": self.app.activity_timeout,
            },
        )
        self._subscribing.begin()
        self._heard = self._loop.time()
        self._look_later()

    def renew_app(self, app: App | None) -> None:
        """Its app has changed in the admin, or is no longer there."""
        renewed = codes.renewed(self.app, app)
        if isinstance(renewed, App):
            self.app = renewed
        else:
            self.close(*renewed)

    def end(self) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._subscribing.end()
        self.pushes.remove(self)

    # What the client is told

    def tell(self, event: str, data: Any = None, channel: str = "") -> None:
        """Send an event of the protocol, without waiting."""
        write_one(self.transport, system_frame(event, data, channel))

    def error(self, code: int, message: str) -> None:
        """Tell of a mistake; the connection stays."""
        write_one(self.transport, error_frame(code, message))

    def close(self, code: int, message: str) -> None:
        """Tell why, and close."""
        if not self.connection.closing:
            self.error(codes.translate(code, "")[0], message)
            self.connection.close(code, message)

    # What backends are told

    def occupy(self, channel: str, is_occupied: bool) -> None:
        """This process has the first subscriber of a channel here, or the last one has left."""
        presence = self._view.host.presence
        webhooks.occupy(presence, self.app, self.pushes.uid, channel, is_occupied)

    def miss(self, channel: str) -> None:
        """Tell that a channel with a cache has no event."""
        self.tell("pusher:cache_miss", None, channel)
        webhooks.tell(self.app, {"name": "cache_miss", "channel": channel})

    def _note(self, event: NamedEvent, data: Data) -> None:
        """A client event was published."""
        if not self.app.webhooks:
            return
        fields = {
            "name": "client_event",
            "channel": self.channel_of(event.to),
            "event": event.name,
            "data": data.payload.decode("utf-8", "replace"),
            "socket_id": self.connection.socket_id,
        }
        known = self.connection.members.get(event.to)
        user = {} if known is None else {"user_id": known.user}
        webhooks.tell(self.app, {**fields, **user})

    # Silence

    def _look_later(self) -> None:
        due = self._heard + SILENCE * self.app.activity_timeout
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        if self._loop.time() < self._heard + SILENCE * self.app.activity_timeout:
            self._look_later()
            return
        self.tell("pusher:ping", {})
        self._timer = self._loop.call_later(PONG, self._look_again, self._heard)

    def _look_again(self, heard: float) -> None:
        if self._heard > heard:
            self._look_later()
        else:
            self.connection.close(*codes.NO_PONG)

    # What it says

    def receive(self, payload: bytes, text: bool) -> Awaitable[object] | None:
        """Handle one frame; what is to be awaited, or None. Raises only what ends the task."""
        connection = self.connection
        self._heard = self._loop.time()
        if connection.deadline is not None and connection.is_expired(self._heard):
            connection.close(UNAUTHORIZED, "expired")
            return None
        if len(payload) > conf.MAX_MESSAGE_SIZE:
            self.error(codes.GENERIC[0], f"a frame has at most {conf.MAX_MESSAGE_SIZE} bytes")
            return None
        try:
            return self._handle(read(payload, text))
        except BadFrame as error:
            self.error(codes.GENERIC[0], str(error))
        except Exception as error:
            self._failed(error)
        return None

    def _handle(self, said: Said) -> Awaitable[object] | None:
        """Handle an event; what of that is to be awaited, or None."""
        if said.event == "pusher:ping":
            self.tell("pusher:pong", {})
            return None
        if said.event == "pusher:pong":
            return None
        for limit in self._limits:
            limit.count(self.connection)
        if said.event.startswith(CLIENT_PREFIX):
            return self._relay(said)
        if said.event == "pusher:subscribe":
            return self._subscribing.subscribe(said.named_channel, said.fields)
        if said.event == "pusher:unsubscribe":
            self._subscribing.unsubscribe(said.named_channel)
        elif said.event == "pusher:signin":
            self._subscribing.sign_in(said.fields)
        else:
            raise BadFrame(f"there is no event {said.event!r:.80}")
        return None

    # Client events

    def _relay(self, said: Said) -> Awaitable[object] | None:
        """Send an event to the other subscribers; what is to be awaited, or None."""
        group = self._subscribing.group_of(said.channel)
        data = data_said(said.data)
        problem = self._why_no_event(said, group, data)
        if problem is not None:
            self.error(codes.REFUSED, problem)
            return None
        event = NamedEvent(group, said.event)
        if self.pushes.who_publishes(group) is True and not self._has_chains:
            self._publish(event, data)
            return None
        return self._relay_later(event, data)

    def _why_no_event(self, said: Said, group: str, data: Data) -> str | None:
        if not self.app.client_events:
            return "this app takes no client events"
        if not self._subscribing.stands(group):
            return f"not subscribed to {said.channel!r:.80}"
        if self.pushes.who_publishes(group) is None:
            return "client events are for private channels, and for those with presence"
        if len(said.event) > MAX_EVENT_NAME:
            return f"the name of an event has at most {MAX_EVENT_NAME} characters"
        if len(data.payload) > self.app.max_event_size:
            return f"the data of an event has at most {self.app.max_event_size} bytes"
        if not self.app.buckets.take(self.connection):
            return f"more than {self.app.client_event_rate} client events"
        if not self.connection.may_publish:
            return "this token may not publish"
        return None

    def _publish(self, event: NamedEvent, data: Data) -> None:
        token = client_event.set(event)
        try:
            self.connection.publish(data)
        finally:
            client_event.reset(token)
        self._note(event, data)

    async def _relay_later(self, event: NamedEvent, data: Data) -> None:
        """The same where a rule or a filter has to be asked."""
        connection, pipeline = self.connection, self._view.pipeline
        try:
            if not await connection.is_allowed("publish", event.to):
                self.error(codes.REFUSED, "not allowed")
                return
            read = data_read if data.kind == "t" else from_bytes
            data = await through_chains(connection, pipeline, event, data, read, data_said)
            if not event.is_published:
                self._publish(event, data)
        except BaseException as error:
            if ends_the_task(error):
                raise
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """An event of the client was not handled: tell it."""
        if isinstance(error, Close):
            self.close(error.code, error.reason)
            return
        refusal = refusal_of(error, self.connection, self._view.pipeline)
        self.error(codes.REFUSED, str(refusal))
