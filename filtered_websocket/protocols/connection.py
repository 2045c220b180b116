"""
The connection that filters get on a route of the Centrifuge client protocol; and what its client
has published and was not answered yet.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from asgiref.sync import markcoroutinefunction

from ..codecs.centrifuge import JSON, Format
from ..codecs.data import Data, as_json, data_of
from ..codecs.frames import Frame, dump_json
from ..connections.connection import Connection, Exclude
from ..exceptions import PublishError
from ..history.base import Position
from ..layer.envelope import INFO
from ..threads.result import Result
from ..transports.scheduling import settle

if TYPE_CHECKING:
    from .timers import Late

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
    ) -> tuple[str, list[str], dict[str, Any]]:
        """As of a plain connection; see the class."""
        event = client_event.get()
        if group is None and event is not None and event.group is not None:
            event.is_published = True
            group, to_self = event.group, True
        addressed, ids, _ = super()._address(group, exclude, to_self)
        return addressed, ids, {INFO: self.publisher(addressed)}

    @property
    def shown_info(self) -> str:
        """What is shown of it to others, as JSON; nothing of bytes that are not JSON."""
        info = self.token_info
        return "" if info is None or info.kind == "b" else as_json(info).decode()

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

    __slots__ = ("_unanswered", "answered", "error", "group", "is_done", "item", "number")

    def __init__(self, unanswered: "Unanswered", number: int, group: str = "") -> None:
        self._unanswered = unanswered
        self.number = number
        #: The group whose publication is to come to this client, too; empty: none, or it has come.
        self.group = group
        #: The id of the message.
        self.item = 0
        self.is_done = False
        self.error: BaseException | None = None
        #: Of those who wait for the reply.
        self.answered: asyncio.Future[None] | None = None

    def done(self) -> bool:
        return self.is_done

    def set_result(self, position: Position | None) -> None:
        self.is_done = True
        if self.group:
            self._unanswered.wait()
        else:
            self._unanswered.look_soon()

    def set_exception(self, error: BaseException) -> None:
        self.error = error
        self.group = ""
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
    order, those that it takes together in one write, and with their publications where this
    client gets them, too.
    """

    def __init__(self, session: Any, loop: asyncio.AbstractEventLoop, late: "Late") -> None:
        self._session, self._loop, self._late = session, loop, late
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
            self.hurry()
            last = self._waiting[-1]
            last.answered = last.answered or self._loop.create_future()
            await asyncio.wait([last.answered])

    def look_soon(self) -> None:
        """Answer what is done, in the next turn of the event loop."""
        if not self._will_look:
            self._will_look = True
            self._loop.call_soon(self._look)

    def wait(self) -> None:
        """A publish is done whose publication is to come, and is answered with it."""
        self._late.add(self)

    def hurry(self) -> None:
        """Answer what is done, with its publication or without it."""
        for receipt in self._waiting:
            receipt.group = ""
        self.look_soon()

    def take(self, group: str, last: int) -> Frame | None:
        """
        The reply to the only publish that waits, where it is done but for its publication, which
        comes up to this id: for the same write. Else None, and :meth:`came` is to be called.
        """
        if len(self._waiting) != 1:
            return None
        one = self._waiting[0]
        if not one.is_done or one.error is not None:
            return None
        if one.group and (one.group != group or one.item > last):
            return None
        try:
            frame: Frame = self._session.format.published(one.number)
        except Exception:
            return None  # :meth:`sent` tells of it
        self._waiting.popleft()
        self._late.remove(self)
        settle(one.answered)
        return frame

    def came(self, group: str, last: int | None = None) -> bool:
        """
        The client is about to be sent its publications up to the message with this id, or the
        next one. Whether replies to them can leave in the same write, at :meth:`sent`.
        """
        any_came = False
        for receipt in self._waiting:
            if receipt.group == group and (not any_came if last is None else receipt.item <= last):
                receipt.group, any_came = "", True
        if any_came:
            self._session.transport.hold()
        return any_came

    def sent(self) -> None:
        """What :meth:`came` was told of has been written."""
        self._late.remove(self)
        try:
            self._answer()
        finally:
            if self._waiting:
                self.look_soon()  # the layer's answer comes in the same turn, as a rule
            else:
                self._session.transport.release()

    def _look(self) -> None:
        self._will_look = False
        try:
            self._answer()
        finally:
            self._session.transport.release()

    def _answer(self) -> None:
        """Answer in order, up to one that is not done, or whose publication is to come first."""
        waiting, session = self._waiting, self._session
        frames: list[Frame] = []
        try:
            while waiting and waiting[0].is_done:
                if waiting[0].group:
                    self._late.add(self)
                    break
                receipt = waiting.popleft()
                settle(receipt.answered)
                if receipt.error is None:
                    frames.append(session.format.published(receipt.number))
                    continue
                # It may close the connection, after the replies to what came before.
                frames = session.write_together(frames)
                session.answer_error(receipt.number, receipt.error)
        except BaseException:
            self.look_soon()  # those after the one that could not be answered
            raise
        finally:
            session.write_together(frames)
