"""
One connection that speaks the Centrifuge client protocol: reads commands, answers them in
order, until its end.

::

    accepted -> connect command -> token -> connect chain, groups -> reply -> other commands
         |           |
         | 10 s      | refused
         v           v
       3502     the translated close code
"""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from typing import Any

from ..close_codes import FILTER_ERROR, TOO_LARGE, UNAUTHORIZED
from ..codecs.centrifuge import Format, choose
from ..codecs.commands import AT_ONCE, all_of, first_of, requests_of
from ..codecs.data import Data
from ..codecs.frames import Frame, Joined
from ..codecs.schema import BadFrame
from ..conf import conf
from ..exceptions import InvalidData, ends_the_task
from ..filters.rate_limit import RateLimitFilter
from ..transports import AsgiTransport, write_one
from ..transports.scheduling import Turns
from . import codes
from .codes import BadRequest, ReplyError
from .connection import ClientConnection, Receipt, Unanswered
from .pushes import Pushes
from .requests import NULL, OpenGroup, Requests
from .timers import VERSION, Expiry, Pings
from .tokens import InvalidToken, connection_claims

#: A reply waits until the server holds at most this many unsent bytes.
HIGH_WATER = 65_536
#: Key of the scope of a client that came by HTTP: what tells it where to send its commands.
STREAM = "filtered_websocket.stream"


class Session:
    """Belongs to the hub's event loop."""

    def __init__(self, consumer: Any, view: Any) -> None:
        connection: ClientConnection = consumer.connection
        self._consumer, self._view = consumer, view
        self.connection = connection
        self.transport: AsgiTransport = connection.transport
        self.id = connection.id
        self.format: Format
        self.format, self.subprotocol = choose(consumer.scope.get("subprotocols", ()))
        # A page that only listens is written to in another way.
        self.format = getattr(consumer.scope.get(STREAM), "codec", self.format)
        connection.format = self.format
        #: Whether the connect command was answered.
        self.is_connected = False
        self._loop: asyncio.AbstractEventLoop = view.loop
        filters = view.pipeline.data.filters
        self._limits = [one for one in filters if issubclass(one, RateLimitFilter)]
        self.pushes: Pushes = view.pushes
        requests = self.requests = Requests(self, view)
        # Called by the pushes.
        self.joined, self.left = requests.joined, requests.left
        self.answered, self.lose = requests.answered, requests.lose
        self._unanswered = Unanswered(self, view.loop, self.pushes.late)
        self.came, self.sent = self._unanswered.came, self._unanswered.sent
        self.take = self._unanswered.take
        #: Whether what clients publish reaches the subscribers as it is.
        self._is_direct = not (view.pipeline.group or view.pipeline.send)
        self.pings, self.expiry = Pings(self, view.loop), Expiry(self, view.loop)

    def begin(self) -> None:
        """The handshake was accepted."""
        self.pings.begin()
        self.pushes.sessions[self.id] = self

    def end(self) -> None:
        """The connection has ended."""
        self.pings.stop()
        self.expiry.stop()
        self.requests.end()
        self.pushes.sessions.pop(self.id, None)

    def _close(self, why: tuple[int, str]) -> None:
        self.connection.close(*why)

    # Commands

    def receive(self, payload: bytes, text: bool) -> Awaitable[object] | None:
        """Handle one frame; what is to be awaited, or None. Raises only what ends the task."""
        connection = self.connection
        if connection.deadline is not None and connection.is_expired(self._loop.time()):
            connection.close(UNAUTHORIZED, "expired")
            return None
        if len(payload) > conf.MAX_MESSAGE_SIZE:
            return self._refuse((TOO_LARGE, "bad request"))
        if self.is_connected and (publish := self.format.publish(payload, text)) is not None:
            number, channel, data = publish
            group = self._open_group(channel, data)
            if group is None:
                return self._handle_first(iter([publish.command]))
            return self._publish(number, group, data)
        try:
            commands, rest = first_of(self.format, payload, text)
            if len(commands) == 1:
                steps = self._handle(commands[0])
                return None if steps is None else self._until_bad(steps)
            if len(commands) == AT_ONCE:
                # Nothing else refers to them: they may take much memory.
                decoding = all_of(self.format, payload, text, commands, rest, Turns(self.id))
                return self._until_bad(self._handle_decoded(decoding))
            return self._handle_first(iter(commands))
        except (BadRequest, BadFrame):
            return self._refuse(codes.BAD_REQUEST)

    def _handle_first(self, commands: Iterator[dict[str, Any]]) -> Awaitable[object] | None:
        """Handle commands until one takes time: that one and the rest are to be awaited."""
        turns = Turns(self.id)
        for command in commands:
            steps = self._handle(command) or (turns.next() if turns.is_over else None)
            if steps is not None:
                return self._until_bad(self._handle_all(commands, steps))
        return None

    async def _handle_decoded(self, decoding: Awaitable[Iterable[dict[str, Any]]]) -> None:
        await self._handle_all(await decoding)

    async def _handle_all(
        self, commands: Iterable[dict[str, Any]], steps: Awaitable[object] | None = None
    ) -> None:
        """Handle commands, once ``steps`` are done."""
        if steps is not None:
            await steps
        turns = Turns(self.id)
        for command in commands:
            if self.connection.closing:
                return
            steps = self._handle(command)
            if steps is not None:
                await steps
            if turns.is_over:
                await turns.next()

    async def _until_bad(self, steps: Awaitable[object]) -> None:
        try:
            await steps
        except (BadRequest, BadFrame):
            await self._refuse(codes.BAD_REQUEST)

    async def _refuse(self, why: tuple[int, str]) -> None:
        """Close, after the replies to what came before."""
        await self._unanswered.settled()
        self._close(why)

    def _handle(self, command: dict[str, Any]) -> Awaitable[object] | None:
        """Handle a command; what of that is to be awaited, or None."""
        if not command:
            self.pings.pong()
            return None
        names = requests_of(command)
        if len(names) != 1 or (names[0] == "connect") == self.is_connected:
            raise BadRequest
        [name] = names
        number, request = command.get("id", 0), command[name]
        if not (number or name == "send"):
            raise BadRequest
        if name == "connect":
            return self._connect(number, request)
        if name == "publish":
            data = request.get("data", NULL)
            group = self._open_group(request.get("channel", ""), data)
            if group is not None:
                return self._publish(number, group, data)
        steps = self._answer(0 if name == "send" else number, name, request)
        if name == "rpc" and self._view.pipeline.call:
            started: Awaitable[object] = self._view.calls_of(self.connection).start(steps)
            return started
        return steps

    def _open_group(self, channel: str, data: Data) -> OpenGroup | None:
        """The group of a publish that waits for nothing now but for the layer."""
        if self._unanswered.is_full or self.transport.unsent > HIGH_WATER:
            return None
        return self.requests.open_group(channel, data)

    def _publish(self, number: int, group: OpenGroup, data: Data) -> Awaitable[object] | None:
        """Publish to a group that is open; what is to be awaited for the reply, or None."""
        name, _, keep = group
        comes_back = self._is_direct and self.requests.stands(name)
        receipt = Receipt(self._unanswered, number, name if comes_back else "")
        connection = self.connection
        try:
            for limit in self._limits:
                limit.count(connection)
            connection.has_queued = True
            info = connection.publisher(name)
            receipt.item = self._view.submit_now(
                data, name, sender=self.id, info=info, keep=keep, done=receipt
            )
        except Exception as error:
            return self._answer_failed(number, error)
        self._unanswered.add(receipt)
        return None

    async def _answer_failed(self, number: int, error: BaseException) -> None:
        """Answer with an error, after the replies to what came before."""
        await self._unanswered.settled()
        self.answer_error(number, error)

    async def _answer(self, number: int, name: str, request: dict[str, Any]) -> None:
        """
        Handle a request, and send the reply: a result or an error. Returns when the client
        reads: one that does not is not read either. But publishes do not wait for one another.
        """
        unanswered = self._unanswered
        if unanswered and (name != "publish" or unanswered.is_full):
            await unanswered.settled()
        try:
            for limit in self._limits:
                limit.count(self.connection)
            handle = self.expiry.refresh if name == "refresh" else getattr(self.requests, name)
            result = await handle(request)
            if isinstance(result, asyncio.Future):
                if self.transport.unsent <= HIGH_WATER:
                    unanswered.follow(number, result)
                    return
                await result
                result = {}
            await unanswered.settled()
            if not number:
                return
            frame = self.format.reply({"id": number, name: result})
            if len(frame) > conf.MAX_OUTBOX and name != "subscribe":
                raise ReplyError(106)
        except BaseException as error:
            if isinstance(error, BadRequest) or ends_the_task(error):
                raise
            await self._answer_failed(number, error)
            return
        if self.transport.unsent + len(frame) <= HIGH_WATER:
            write_one(self.transport, frame)
            self.requests.replied(name)
        else:
            sent = self.connection.send_frame(frame)
            self.requests.replied(name)
            await sent

    def reply(self, reply: dict[str, Any]) -> None:
        """Send a reply, or a push, without waiting."""
        write_one(self.transport, self.format.reply(reply))

    def write_together(self, frames: list[Frame]) -> list[Frame]:
        """Send frames in one write. An empty list."""
        if frames:
            write_one(self.transport, frames[0] if len(frames) == 1 else Joined(frames))
        return []

    def answer_error(self, number: int, error: BaseException) -> None:
        """Answer with an error. It may close the connection."""
        code = codes.code_of(error, self.connection, self._view.pipeline)
        if code and number:
            why = str(error) if isinstance(error, InvalidData) else ""
            self.reply({"id": number, "error": ReplyError(code, why).fields})

    # Connect

    async def _connect(self, number: int, request: dict[str, Any]) -> None:
        refusal: tuple[int, str] | None
        try:
            claims = connection_claims(request["token"]) if request.get("token") else None
            refusal = await self.requests.connect(self._consumer, request, claims)
            result = {"client": self.id, "version": VERSION, **self.pings.fields}
            result |= self.expiry.set(claims)
            if (stream := self._consumer.scope.get(STREAM)) is not None:
                result |= stream.connected(self.connection)
            if subs := self.requests.server_side():
                result["subs"] = subs
            frame = self.format.reply({"id": number, "connect": result})
        except BadRequest:
            raise
        except ReplyError as error:
            self.answer_error(number, error)
            return
        except InvalidToken:
            refusal = self._consumer.refused(UNAUTHORIZED, "invalid token")
        except Exception as error:
            # Of the site: its tenants, a filter of the join chain, what one has answered.
            self._view.pipeline.failed(error, self.connection, "connecting")
            refusal = FILTER_ERROR, "a filter failed"
        if refusal is not None or self.connection.closing:
            self._close(refusal or codes.BAD_REQUEST)  # if it does not close already
            return
        self.is_connected = True
        self.pings.connected()
        write_one(self.transport, frame)
        self.requests.replied()
