"""
How a group message goes through the send chain: once for each recipient.

Each recipient's filters get a copy of their own, so that what they change is changed for this
recipient only. What comes out is encoded once for all recipients with an equal result.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import Context
from functools import partial
from typing import Any, Protocol

from ..close_codes import FILTER_ERROR
from ..codecs.copies import copy_of, key_of
from ..codecs.frames import text_event
from ..conf import conf
from ..exceptions import Close, Drop, ends_the_task
from ..layer.envelope import EXCLUDE
from ..publishing.fan_out import NOBODY, Members, make_frame
from ..threads.budget import OVERHEAD, Budget
from ..threads.tasks import Tasks
from ..transports import AsgiTransport, write_all
from ..types import Codec
from .chain import Chain
from .current import About, about_event


class Recipient(Protocol):
    """The part of a connection that is used here."""

    id: str
    context: Context
    joined: set[str]
    transport: AsgiTransport

    @property
    def closing(self) -> bool: ...
    def start_task(self, steps: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]: ...
    def close(self, code: int = ..., reason: str = ...) -> None: ...


class Pipeline(Protocol):
    """The part of a pipeline that is used here."""

    group: Chain
    send: Chain
    codec: Codec | None
    protocol: Any

    def failed(self, error: BaseException, where: Any) -> None: ...


class Groups(Protocol):
    """The part of a hub's groups that is used here."""

    def members(self, view: Any, name: str) -> Members: ...


class Host(Protocol):
    """The part of a hub that is used here."""

    tasks: Tasks
    backlog: Budget
    counts: Counter[str]

    @property
    def connections(self) -> Mapping[str, Recipient]: ...
    @property
    def groups(self) -> Groups: ...

    def call(self, function: Callable[..., object], *args: Any) -> None: ...


class Sending:
    """``encode`` makes the frame of a result."""

    __slots__ = ("_chain", "_encode", "_frames", "_message", "_text", "about", "size")

    def __init__(
        self,
        chain: Chain,
        about: About,
        message: Any,
        text: bool,
        encode: Callable[[Any], Any],
    ) -> None:
        self.about = about
        self._chain = chain
        self._message = message
        self._text = text
        self._encode = encode
        self._frames: dict[tuple[type, bytes], Any] = {}
        #: About the bytes that it takes in a queue.
        self.size = OVERHEAD + (len(message) if isinstance(message, bytearray | str) else 0)

    def run(self, recipient: Recipient) -> Any:
        """The result for ``recipient``, whose filters run in the context of its handshake."""
        return recipient.context.copy().run(self._run, recipient)

    def _run(self, recipient: Recipient) -> Any:
        return self._chain.run(recipient, self._begin())

    async def arun(self, recipient: Recipient) -> Any:
        """:meth:`run` in a task that has the context of the recipient's handshake."""
        return await self._chain.arun(recipient, self._begin())

    def _begin(self) -> Any:
        text_event.set(self._text)
        about_event.set(self.about)
        return copy_of(self._message)

    def frame(self, result: Any) -> Any:
        """The frame for a result; the same one for results that are encoded equally."""
        key = key_of(result)
        if key is None:
            return self._encode(result)
        frame = self._frames.get(key)
        if frame is None:
            frame = self._frames[key] = self._encode(result)
        return frame


class _Waiting:
    """What one recipient's send chain has still to handle, in order."""

    __slots__ = ("items", "size", "task")

    def __init__(self) -> None:
        #: None instead of what is not sent any more.
        self.items: deque[tuple[Sending | None, int]] = deque()
        #: About the bytes that they take.
        self.size = 0
        self.task: asyncio.Task[Any] | None = None


class Sends:
    """The messages of one pipeline that go through its send chain."""

    def __init__(self, hub: Host, view: Any, pipeline: Pipeline) -> None:
        self._hub = hub
        self._view = view
        self._pipeline = pipeline
        #: Recipient -> what waits for a send chain that awaits.
        self._waiting: dict[Recipient, _Waiting] = {}
        #: Send a message to the members of its group.
        self.send: Callable[[About, Sending], None] = self._send_now
        if pipeline.send.awaits:
            self.send = self._queue_all
        #: Sends a frame to some of the members; a protocol's frame has several forms.
        self._write_all: Callable[[Any, Any, Any], None] = write_all
        if pipeline.protocol is not None:
            self._write_all = view.pushes.write_all

    def sending(self, about: About, message: Any, text: bool) -> Sending:
        """A message that is text, or not."""
        if self._pipeline.send.awaits:
            # A copy: a filter of the group chain may keep the message, and change it meanwhile.
            message = copy_of(message)
        codec = self._pipeline.codec

        def encode(result: Any) -> Any:
            if self._pipeline.protocol is not None:
                return self._view.pushes.publication(about, result, text)
            return about.keep(make_frame(result, codec, about.meta, text))

        return Sending(self._pipeline.send, about, message, text, encode)

    def _recipients(self, about: About) -> Iterator[Recipient]:
        """Members that are not excluded, and whose connection does not close."""
        exclude = frozenset(about.meta.get(EXCLUDE, ()))
        members = self._hub.groups.members(self._view, about.group)
        # A filter may make a member leave meanwhile.
        for key, transport in tuple(members.items()):
            if key not in exclude and transport.closed is None:
                connection = self._hub.connections[key]
                if about.group in connection.joined:
                    yield connection

    def send_one(self, connection: Recipient, content: Any) -> None:
        """Send to one member what the group chain has made of a message."""
        frame = content
        if isinstance(content, Sending):
            if self._pipeline.send.awaits:
                self._queue_one(connection, content)
                return
            frame = self._run(connection, content)
        if frame is not None:
            self._write_all((connection.transport,), frame, NOBODY)

    def _run(self, connection: Recipient, sending: Sending) -> Any:
        """The frame for one member, if there is one, and it is still a member."""
        try:
            frame = sending.frame(sending.run(connection))
        except BaseException as error:
            self._failed(connection, error)
            return None
        return frame if sending.about.group in connection.joined else None

    def _send_now(self, about: About, sending: Sending) -> None:
        frames: dict[Any, list[AsgiTransport]] = {}
        for connection in self._recipients(about):
            frame = self._run(connection, sending)
            if frame is not None:
                frames.setdefault(frame, []).append(connection.transport)
        for frame, transports in frames.items():
            self._write_all(transports, frame, NOBODY)

    def _failed(self, connection: Recipient, error: BaseException) -> None:
        """The send chain of one recipient has raised ``error``: only that one pays."""
        if isinstance(error, Drop):
            self._view.dropped(error, connection)
            return
        if isinstance(error, Close):
            connection.close(error.code, error.reason)
            return
        if ends_the_task(error):
            raise error
        self._pipeline.failed(error, connection)
        if conf.ON_ERROR == "close":
            connection.close(FILTER_ERROR, "a filter failed")

    # The same where a filter awaits

    def _queue_all(self, about: About, sending: Sending) -> None:
        for connection in self._recipients(about):
            self._queue_one(connection, sending)

    def _queue_one(self, connection: Recipient, sending: Sending) -> None:
        size = sending.size
        waiting = self._waiting.get(connection)
        if waiting is None:
            waiting = self._waiting[connection] = _Waiting()
            steps = self._send_waiting(connection, waiting)
            waiting.task = connection.start_task(steps, "fws-send")
            waiting.task.add_done_callback(partial(self._ended, connection, waiting))
        elif waiting.size + size > conf.MAX_OUTBOX:
            # Its filters are too slow: what waits for them counts as unsent.
            self._overflow(connection, sending)
            return
        waiting.items.append((sending, size))
        waiting.size += size
        self._hub.backlog.add(size)

    def _overflow(self, connection: Recipient, sending: Sending) -> None:
        if self._pipeline.protocol is not None:
            self._view.pushes.cannot_take(connection, sending.about)
        else:
            connection.transport.overflow(is_kept=sending.about.position is not None)

    async def _send_waiting(self, connection: Recipient, waiting: _Waiting) -> None:
        """Runs in the context of the recipient's handshake."""
        while waiting.items and not connection.closing:
            sending, size = waiting.items[0]
            try:
                frame = None if sending is None else sending.frame(await sending.arun(connection))
            except BaseException as error:
                self._failed(connection, error)
            else:
                if frame is not None and waiting.items[0][0] is sending:
                    self._write_all((connection.transport,), frame, NOBODY)
            waiting.items.popleft()
            waiting.size -= size
            self._hub.backlog.release(size)
        # No await since the loop's condition: nothing was queued meanwhile.
        self._forget(connection, waiting)

    def drop(self, connection: Recipient, group: str) -> None:
        """A membership has ended, or begins anew: what waits for its send chain is not sent."""
        waiting = self._waiting.get(connection)
        if waiting is not None:
            # Each is counted until its turn; the first one may be in the chain now.
            waiting.items = deque(
                (None if one is not None and one.about.group == group else one, size)
                for one, size in waiting.items
            )

    def _ended(self, connection: Recipient, waiting: _Waiting, task: object) -> None:
        if self._waiting.get(connection) is waiting:  # it was cancelled
            self._forget(connection, waiting)

    def _forget(self, connection: Recipient, waiting: _Waiting) -> None:
        del self._waiting[connection]
        self._hub.backlog.release(waiting.size, len(waiting.items))

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    async def settled(self) -> None:
        """Return when no send chain runs."""
        tasks = [waiting.task for waiting in self._waiting.values() if waiting.task]
        if tasks:
            await asyncio.wait(tasks)
