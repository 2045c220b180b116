"""
Group messages of one pipeline: through its group chain and its send chain, to the members here.

::

    deliver   no chain and no codec      -> many messages at once, in one write per member
              group chain, or codec      -> at once, message by message
              group chain that awaits    -> a queue per group: groups do not wait for one another
    send      no send chain              -> encoded once, written to every member
              send chain                 -> once per recipient; equal results are encoded once,
                                            and many messages leave in one write per recipient
              send chain that awaits     -> a queue per recipient: a slow one delays no other

It is decided when the pipeline is first used, also for what comes out of a history for one client.
"""

import asyncio
import queue
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from ..codecs.copies import copy_of
from ..codecs.frames import Frame, text_event, unpack
from ..conf import conf
from ..exceptions import Drop, ends_the_task
from ..history.base import Page, Position
from ..history.follower import Run
from ..history.lines import Line, Passed, Waiting
from ..layer.envelope import EXCLUDE, Item
from ..publishing.fan_out import make_frame, write, write_items
from ..threads.serial_queue import SerialQueue
from .current import About, about_event, nth
from .sending import Host, Pipeline, Recipient, Sends

#: So many publications of a page are handled before others have their turn.
TURN = 64

#: What the group chain has made of a message: a frame, a protocol's push, or a :class:`Sending`.
Content = Any
OnContent = Callable[[About, Content], None]
Place = Position | None
WriteRun = Callable[[str, Sequence[Item], Place], None]


class Delivery:
    """Belongs to the hub's event loop."""

    def __init__(self, hub: Host, view: Any, pipeline: Pipeline) -> None:
        self._hub, self._view, self._pipeline = hub, view, pipeline
        #: Group -> what waits for a group chain that awaits.
        self._backlogs: dict[str, SerialQueue[Waiting]] = {}
        self._sends = Sends(hub, view, pipeline)
        self.drop_unsent = self._sends.drop
        self._is_plain = not (pipeline.group or pipeline.send) and pipeline.codec is None
        #: Run messages of a group, in order, through the chains; send them to the members.
        self.deliver: Callable[[str, Sequence[Item]], None] = self._run
        if pipeline.group.awaits:
            self.deliver = self._queue
        elif self._is_plain:
            self.deliver = self._write_items
        elif pipeline.send and not pipeline.send.awaits:
            self.deliver = self._run_together
        self._unpack: Callable[[Any, Any], tuple[Any, bool]] = unpack
        self._encode: Callable[[About, Any, bool], Content] = self._make_frame
        self._send: OnContent = self._write_frame
        #: Sends many messages that no chain looks at; the place of the first in the history.
        self._write_run: WriteRun | None = self._write_items if self._is_plain else None
        if pipeline.protocol is not None:
            self._encode, self._send = view.pushes.publication, view.pushes.send
            if not (pipeline.group or pipeline.send):
                self._unpack = view.pushes.unpack
                self.deliver = self._write_run = self._push_items
        if self._pipeline.send:
            self._encode, self._send = self._sends.sending, self._sends.send

    def _write_items(self, group: str, items: Sequence[Item], first: Place = None) -> None:
        write_items(self._hub.groups.members(self._view, group), items, first is not None)

    def _push_items(self, group: str, items: Sequence[Item], first: Place = None) -> None:
        """By the protocol; one message that cannot be encoded does not cost the others."""
        try:
            self._view.pushes.write_items(group, items, first)
        except Exception:
            for number, item in enumerate(items):
                self._run_item(group, item, nth(first, number), self._send)

    def deliver_run(self, group: str, run: Run, line: Line) -> None:
        """:attr:`deliver` publications of a history; ``line`` is told what becomes of them."""
        if self._pipeline.group.awaits:
            self._queue_run(group, run, line)
            return
        if self._write_run is not None and not line.joiners:
            self._write_run(group, run.items, Position(run.epoch, run.first))
            line.move(Position(run.epoch, run.first + len(run.items) - 1))
            return
        # One by one: who joins becomes a member between two of them.
        for offset, item in enumerate(run.items, run.first):
            content = self._content_of(group, item, Position(run.epoch, offset), self._send)
            line.note(run.epoch, Passed.of(offset, item, content))
        if not run.items:
            line.move(Position(run.epoch, run.first - 1))

    def _content_of(
        self, group: str, item: Item, position: Position, send: OnContent | None
    ) -> Content | None:
        if self._is_plain:
            if send is not None:
                self._write_items(group, [item], position)
            return Frame(item.payload, item.kind != "b", is_kept=True)
        return self._run_item(group, item, position, send)

    # Through the group chain

    def _run(self, group: str, items: Sequence[Item]) -> None:
        for item in items:
            self._run_item(group, item, None, self._send)

    def _run_together(self, group: str, items: Sequence[Item]) -> None:
        """As :meth:`_run`; what each recipient gets of many messages leaves in one write."""
        if len(items) == 1:
            self._run(group, items)
            return
        transports = tuple(self._hub.groups.members(self._view, group).values())
        for transport in transports:
            transport.hold()
        try:
            self._run(group, items)
        finally:
            for transport in transports:
                transport.release()

    def _run_item(
        self, group: str, item: Item, position: Position | None, send: OnContent | None
    ) -> Content | None:
        """Handle one message with a group chain that does not await; None if it is dropped."""
        about = About(group, item.sender, item.meta, position)
        token = about_event.set(about)
        text_token = text_event.set(None)
        try:
            message, text = self._unpack(item.packed, self._pipeline.codec)
            text_event.set(text)
            content = self._encode(about, self._pipeline.group.run(self._view, message), text)
            if send is not None:
                send(about, content)
            return content
        except BaseException as error:
            self._failed(group, error)
            return None
        finally:
            text_event.reset(text_token)
            about_event.reset(token)

    def _failed(self, group: str, error: BaseException) -> None:
        if isinstance(error, Drop):
            self._view.dropped(error, f"group {group!r:.80}")
        elif ends_the_task(error):
            raise error
        else:
            self._pipeline.failed(error, f"group {group!r:.80}")

    def _backlog(self, group: str) -> SerialQueue[Waiting]:
        backlog = self._backlogs.get(group)
        if backlog is None:
            backlog = self._backlogs[group] = SerialQueue(
                self._hub.tasks,
                self._hub.backlog,
                partial(self._handle, group),
                lambda waiting: 0 if waiting.item is None else waiting.item.size,
                bound=conf.PUBLISH_QUEUE,
                name=f"fws-group {group!r:.40}",
            )
        return backlog

    def _queue(self, group: str, items: Sequence[Item]) -> None:
        backlog = self._backlog(group)
        for item in items:
            try:
                backlog.put(Waiting(item))
            except queue.Full:
                self._hub.counts["group_dropped"] += 1

    def _queue_run(self, group: str, run: Run, line: Line) -> None:
        """A publication for which there is no room is read again later, and all after it."""
        if line.is_behind:
            return

        # Of now, whenever that is: an idle one is removed while a line reads its history.
        def put(position: Position, item: Item | None) -> bool:
            try:
                self._backlog(group).put(Waiting(item, position, line))
            except queue.Full:
                return False
            return True

        last = Position(run.epoch, run.first - 1)
        places = ((Position(run.epoch, n), item) for n, item in enumerate(run.items, run.first))
        for position, item in places if run.items else [(last, None)]:
            if not put(position, item):
                line.fall_behind(last, put, lambda: self._backlog(group).settled())
                return
            last = position

    async def _handle(self, group: str, waiting: Waiting) -> None:
        """Handle one message with a group chain that awaits, in a task of its group."""
        item, position, line = waiting
        send = self._send if line is None else partial(self._send_of, line)
        content = item and await self._arun_item(group, item, position, send)
        if line is not None and position is not None:
            line.handled(position, item, content)
        if not (self._hub.groups.members(self._view, group) or len(self._backlogs.get(group, ()))):
            # The last member left while it was busy: no message will come.
            self._backlogs.pop(group, None)

    def _send_of(self, line: Line, about: About, content: Content) -> None:
        """Not to those who have joined since the last member of its time left."""
        if line.feed.is_open:
            self._send(about, content)

    async def _arun_item(
        self, group: str, item: Item, position: Position | None, send: OnContent | None
    ) -> Content | None:
        """As :meth:`_run_item`, in a task."""
        about = About(group, item.sender, item.meta, position)
        about_event.set(about)
        try:
            message, text = unpack(item.packed, self._pipeline.codec)
            text_event.set(text)
            message = await self._pipeline.group.arun(self._view, message)
            content = self._encode(about, message, text)
            if send is not None:
                send(about, content)
            return content
        except BaseException as error:
            self._failed(group, error)
            return None

    def left(self, connection: Recipient, group: str) -> None:
        """A member has left ``group``."""
        self.drop_unsent(connection, group)
        backlog = self._backlogs.get(group)
        if backlog is not None and not backlog.busy:
            del self._backlogs[group]

    def fan_out(self, group: str, message: Any, exclude: Collection[str]) -> None:
        """Send to the members what no group chain has seen. From any thread."""
        codec = self._pipeline.codec
        frame = make_frame(message, codec, {}, text_event.get())
        about = About(group, "", {EXCLUDE: list(exclude)} if exclude else {})
        content: Content = frame
        if self._pipeline.send or self._pipeline.protocol:
            # As the chain gets what was published.
            own = bytearray(frame.payload) if codec is None else copy_of(message)
            content = self._encode(about, own, frame.text)
        self._hub.call(self._send, about, content)

    # What comes out of a history for one client

    async def prepare(self, group: str, page: Page) -> list[Passed]:
        """Run the publications of a page through the group chain, for who joins."""
        passed = []
        for number, (offset, item) in enumerate(page.publications, 1):
            position = Position(page.position.epoch, offset)
            if self._pipeline.group.awaits:
                content = await self._arun_item(group, item, position, None)
            else:
                content = self._content_of(group, item, position, None)
            passed.append(Passed.of(offset, item, content))
            if number % TURN == 0:
                await asyncio.sleep(0)
        return passed

    def send_one(self, connection: Recipient, contents: Sequence[Content]) -> bool:
        """
        Send to one member what the group chain has made of some messages; nothing, and False,
        where ``MAX_OUTBOX`` has no room for all.
        """
        size = sum(len(one) if isinstance(one, Frame) else one.size for one in contents)
        if len(contents) > 1 and connection.transport.unsent + size > conf.MAX_OUTBOX:
            return False
        for content in contents:
            self._sends.send_one(connection, content)
        return True

    def _make_frame(self, about: About, message: Any, text: bool) -> Frame:
        return about.keep(make_frame(message, self._pipeline.codec, about.meta, text))

    def _write_frame(self, about: About, frame: Frame) -> None:
        members = self._hub.groups.members(self._view, about.group)
        write(members, frame, about.meta.get(EXCLUDE, ()))

    @property
    def busy(self) -> bool:
        return self._sends.busy or any(line.busy for line in self._backlogs.values())

    async def settled(self) -> None:
        """Return when no group message is being handled."""
        for line in tuple(self._backlogs.values()):
            await line.settled()
        await self._sends.settled()
