"""
The connection that filters get on a route of the Centrifuge client protocol; and what its client
has published and was not answered yet.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from asgiref.sync import markcoroutinefunction

from ..codecs.centrifuge import JSON, Format
from ..codecs.data import Data, as_json, data_of
from ..codecs.frames import dump_json
from ..connections.connection import Connection, Exclude
from ..exceptions import PublishError
from ..history.base import Position
from ..threads.result import Result
from ..transports.scheduling import settle

#: So many publishes of a client wait at most for the layer, before the next one is handled.
MOST_UNANSWERED = 64


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
    #: What others are told of it, after the user's key and the info of which that is made.
    _described: tuple[object, Data | None, str] | None = None

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
        return addressed, ids, self.publisher(addressed)

    @property
    def shown_info(self) -> str:
        """What is shown of it in presence, as JSON."""
        return "" if self.token_info is None else as_json(self.token_info).decode()

    def publisher(self, group: str) -> str:
        """What others are told of who published to ``group``, as JSON."""
        subscription = self.subscriptions.get(group)
        shown = None if subscription is None else subscription.info
        if shown is not None:
            return self._describe(shown)
        # The same for all groups; kept, as it takes as long as a short message.
        user, shown = self.user, self.token_info
        key = getattr(user, "pk", None)
        if key is not None and not user.is_authenticated:
            key = None
        known = self._described
        if known is None or known[0] != key or known[1] is not shown:
            known = self._described = key, shown, self._describe(None)
        return known[2]

    def _describe(self, shown: Any) -> str:
        fields = {"client": self.id, "user": self.user_id, "chan_info": shown}
        text = dump_json({key: value for key, value in fields.items() if value is not None})
        return f'{text[:-1]},"conn_info":{self.shown_info}}}' if self.shown_info else text


class Receipt:
    """
    Is told what came of one publish, as a future would be; but the replies to those that were
    taken together are sent by one call.
    """

    __slots__ = ("_unanswered", "answered", "error", "is_done", "number")

    def __init__(self, unanswered: "Unanswered", number: int) -> None:
        self._unanswered = unanswered
        self.number = number
        self.is_done = False
        self.error: BaseException | None = None
        #: Of those who wait for the reply.
        self.answered: asyncio.Future[None] | None = None

    def done(self) -> bool:
        return self.is_done

    def set_result(self, position: Position | None) -> None:
        self.is_done = True
        self._unanswered.look_soon()

    def set_exception(self, error: BaseException) -> None:
        self.error = error
        self.set_result(None)

    def copy(self, sent: "asyncio.Future[Any]") -> None:
        """Is told what ``sent`` was, which is done."""
        cut = PublishError("the publish was cancelled") if sent.cancelled() else None
        error = cut or sent.exception()
        if error is None:
            self.set_result(None)
        else:
            self.set_exception(error)


class Unanswered:
    """
    The publishes of one client that the layer has not taken yet. They are answered in their
    order, those that it takes together in one write.
    """

    def __init__(self, session: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._session = session
        self._loop = loop
        self._waiting: deque[Receipt] = deque()
        self._will_look = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the next publish has to wait for these."""
        return len(self._waiting) >= MOST_UNANSWERED

    def add(self, receipt: Receipt) -> None:
        """It is answered when it is done, and those before it are."""
        self._waiting.append(receipt)

    def follow(self, number: int, sent: "asyncio.Future[Any]") -> None:
        """:meth:`add` a publish; ``sent`` is done when the layer has taken it."""
        receipt = Receipt(self, number)
        self.add(receipt)
        sent.add_done_callback(receipt.copy)

    async def settled(self) -> None:
        """Return when all are answered that were added before."""
        if self._waiting:
            last = self._waiting[-1]
            last.answered = last.answered or self._loop.create_future()
            await asyncio.wait([last.answered])

    def look_soon(self) -> None:
        """Answer what is done, in the next turn of the event loop."""
        if not self._will_look:
            self._will_look = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        self._will_look = False
        waiting, transport = self._waiting, self._session.transport
        if not (waiting and waiting[0].is_done):
            return  # an earlier one has its turn first
        transport.hold()
        try:
            while waiting and waiting[0].is_done:
                receipt = waiting.popleft()
                settle(receipt.answered)
                self._session.published(receipt.number, receipt.error)
        finally:
            transport.release()
            if waiting and waiting[0].is_done:
                self.look_soon()  # one of them could not be answered
