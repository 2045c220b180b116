"""
One connection that speaks the Centrifuge client protocol: reads commands, answers them in
order, and looks after pings, tokens that expire and the end.

::

    accepted -> connect command -> token -> connect chain, groups -> reply -> other commands
         |           |
         | 10 s      | refused
         v           v
       3502     the translated close code
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from ..close_codes import FILTER_ERROR, TOO_LARGE, UNAUTHORIZED
from ..codecs.centrifuge import BadFrame, Format, choose
from ..codecs.schema import messages
from ..conf import conf
from ..exceptions import ends_the_task
from ..filters.rate_limit import RateLimitFilter
from ..transports import AsgiTransport
from . import codes
from .codes import BadRequest, ReplyError
from .connection import ClientConnection
from .pushes import Pushes
from .requests import Requests, Unanswered
from .subscribed import VERSION, Expiry
from .tokens import Claims, InvalidToken, identify, read_token

#: How often the client is pinged, and how long it may take to answer, seconds.
PING, PONG = 25, 8.0
#: How long it may take from the handshake to its connect command, seconds.
STALE = 10.0
#: So many commands of a frame are handled before other connections have their turn.
TURN = 64
#: So many commands of a frame are kept when they are decoded, as they take many times the bytes of
#: the frame. Where there are more, each is decoded again when it is handled.
MOST_DECODED = 1024
#: A reply waits until the server holds at most this many unsent bytes.
HIGH_WATER = 65_536
#: Command -> the field that holds it; ``id`` is the only other field.
REQUESTS = tuple(name for name in messages()["Command"] if name != "id")


def cancel(timer: asyncio.TimerHandle | None) -> None:
    """Cancel a timer, if there is one."""
    if timer is not None:
        timer.cancel()


class Session:
    """Belongs to the hub's event loop."""

    def __init__(self, consumer: Any, view: Any) -> None:
        connection: ClientConnection = consumer.connection
        self._consumer = consumer
        self._view = view
        self.connection = connection
        self.id = connection.id
        self.format: Format
        self.format, self.subprotocol = choose(consumer.scope.get("subprotocols", ()))
        connection.format = self.format
        #: Whether the connect command was answered.
        self.is_connected = False
        self._loop: asyncio.AbstractEventLoop = view.loop
        self._awaits_pong = False
        #: Closes it unless the client does something until then.
        self._timer: asyncio.TimerHandle | None = None
        filters = view.pipeline.data.filters
        self._limits = [one for one in filters if issubclass(one, RateLimitFilter)]
        self.pushes: Pushes = view.pushes
        self.requests = Requests(self, view)
        self._unanswered = Unanswered(self)
        self.expiry = Expiry(self, view.loop)

    @property
    def transport(self) -> AsgiTransport:
        return self.connection.transport

    def begin(self) -> None:
        """The handshake was accepted."""
        self._timer = self._loop.call_later(STALE, self._close, codes.STALE)
        self.pushes.sessions[self.id] = self

    def end(self) -> None:
        """The connection has ended."""
        cancel(self._timer)
        self.expiry.stop()
        self.requests.end()
        self.pushes.sessions.pop(self.id, None)

    def _close(self, why: tuple[int, str]) -> None:
        self.connection.close(*why)

    # Pings

    def _ping(self) -> None:
        self._awaits_pong = True
        self.transport.write(self.format.ping)
        self._timer = self._loop.call_later(PONG, self._close, codes.NO_PONG)

    def _pong(self) -> None:
        if not self._awaits_pong:
            raise BadRequest
        self._awaits_pong = False
        self._wait_to_ping(PING - PONG)

    def _wait_to_ping(self, seconds: float) -> None:
        cancel(self._timer)
        self._timer = self._loop.call_later(seconds, self._ping)

    # Commands

    async def receive(self, payload: bytes, text: bool) -> None:
        """Handle one frame. Never raises but for what ends the task."""
        connection = self.connection
        if connection.deadline is not None and connection.is_expired(self._loop.time()):
            connection.close(UNAUTHORIZED, "expired")
        elif len(payload) > conf.MAX_MESSAGE_SIZE:
            await self._unanswered.settled()
            connection.close(TOO_LARGE, "bad request")
        else:
            try:
                for number, command in enumerate(await self._decode(payload, text), 1):
                    if connection.closing:
                        return
                    await self._handle(command)
                    if number % TURN == 0:
                        await asyncio.sleep(0)
            except (BadRequest, BadFrame):
                await self._unanswered.settled()
                self._close(codes.BAD_REQUEST)

    async def _decode(self, payload: bytes, text: bool) -> Iterable[dict[str, Any]]:
        """The commands of a frame. All were decoded before any is handled, or :exc:`.BadFrame`."""
        commands: list[dict[str, Any]] = []
        count = 0
        for count, command in enumerate(self.format.decode(payload, text), 1):
            if count <= MOST_DECODED:
                commands.append(command)
            if count % TURN == 0:
                await asyncio.sleep(0)
        return commands if count <= MOST_DECODED else self.format.decode(payload, text)

    async def _handle(self, command: dict[str, Any]) -> None:
        number = command.get("id", 0)
        names = [name for name in REQUESTS if name in command]
        if not command:
            self._pong()
            return
        if len(names) != 1 or (names[0] == "connect") == self.is_connected:
            raise BadRequest
        [name] = names
        request = command[name]
        if not (number or name == "send"):
            raise BadRequest
        if name == "connect":
            await self._connect(number, request)
            return
        steps = self._answer(0 if name == "send" else number, name, request)
        if name == "rpc" and self._view.pipeline.call:
            await self._view.calls_of(self.connection).start(steps)
        else:
            await steps

    async def _answer(self, number: int, name: str, request: dict[str, Any]) -> None:
        """
        Handle a request, and send the reply: a result or an error. Returns when the client
        reads: one that does not is not read either. But publishes do not wait for one another.
        """
        unanswered = self._unanswered
        if unanswered and (name != "publish" or len(unanswered) >= TURN):
            await unanswered.settled()
        try:
            for limit in self._limits:
                limit.count(self.connection)
            handle = self.expiry.refresh if name == "refresh" else getattr(self.requests, name)
            result = await handle(request)
            if isinstance(result, asyncio.Future):
                if self.transport.unsent <= HIGH_WATER:
                    unanswered.add(number, result)
                    return
                await result
                result = {}
            await unanswered.settled()
            frame = self.format.reply({"id": number, name: result})
            if len(frame) > conf.MAX_OUTBOX and name != "subscribe":
                raise ReplyError(106)
        except BaseException as error:
            if isinstance(error, BadRequest) or ends_the_task(error):
                raise
            await unanswered.settled()
            self._answer_error(number, error)
            return
        if number and self.transport.unsent + len(frame) <= HIGH_WATER:
            self.transport.write(frame)
            self.requests.replied(name)
        elif number:
            sent = self.connection.send_frame(frame)
            self.requests.replied(name)
            await sent

    def reply(self, reply: dict[str, Any]) -> None:
        """Send a reply, or a push, without waiting."""
        self.transport.write(self.format.reply(reply))

    def published(self, number: int, error: BaseException | None) -> None:
        """Answer a publish that the layer has taken, or has not."""
        if error is None:
            self.transport.write(self.format.published(number))
        else:
            self._answer_error(number, error)

    def _answer_error(self, number: int, error: BaseException) -> None:
        code = codes.code_of(error, self.connection, self._view.pipeline)
        if code and number:
            self.reply({"id": number, "error": ReplyError(code).fields})

    # Connect

    async def _connect(self, number: int, request: dict[str, Any]) -> None:
        refusal: tuple[int, str] | None
        try:
            claims = read_token(request["token"]) if request.get("token") else None
            refusal = await self._admit(request, claims)
            result = {"client": self.id, "version": VERSION, "ping": PING, "pong": True}
            result |= self.expiry.set(claims)
            if subs := self.requests.server_side():
                result["subs"] = subs
            frame = self.format.reply({"id": number, "connect": result})
        except BadRequest:
            raise
        except ReplyError as error:
            self._answer_error(number, error)
            return
        except InvalidToken:
            refusal = codes.INVALID_TOKEN
        except Exception as error:
            # Of the site: its tenants, a filter of the join chain, what one has answered.
            self._view.pipeline.failed(error, f"connection {self.id}", "connecting")
            refusal = FILTER_ERROR, "a filter failed"
        if refusal is not None or self.connection.closing:
            self._close(refusal or codes.BAD_REQUEST)  # if it does not close already
            return
        self.is_connected = True
        self._wait_to_ping(PING)
        self.transport.write(frame)
        self.requests.replied()

    async def _admit(
        self, request: dict[str, Any], claims: Claims | None
    ) -> tuple[int, str] | None:
        """Run the connect chain and join groups; a refusal, or None."""
        refusal: tuple[int, str] | None = None
        if claims is not None:
            refusal = await identify(self.connection, self._view.host, claims)
        refusal = refusal or await self._consumer.admit()
        if refusal is None and claims is not None:
            refusal = await self.requests.join_claimed(claims.channels)
        if refusal is None:
            await self.requests.recover_server_side(request.get("subs", {}))
        return refusal

    # Called by the pushes

    def joined(self, group: str) -> None:
        """It has become a member of a group."""
        self.requests.joined(group)

    def answered(self, group: str) -> None:
        """It is about to be sent what it asked for of a history."""
        self.requests.answered(group)

    def lose(self, group: str) -> None:
        """What comes next of a group does not follow on what it got."""
        self.requests.lose(group)

    def left(self, group: str) -> None:
        """It is no member of a group any more."""
        self.requests.left(group)
