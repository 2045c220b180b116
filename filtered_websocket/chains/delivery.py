"""
Group messages of one pipeline: through its group chain and its send chain, to the members here.

::

    deliver   no chain and no codec      -> many messages at once, in one write per member
              group chain, or codec      -> at once, message by message
              group chain that awaits    -> a queue per group: groups do not wait for one another
    finish    no send chain              -> encoded once, written to every member
              send chain                 -> once per recipient; equal results are encoded once,
                                            and many messages leave in one write per recipient
              send chain that awaits     -> a queue per recipient: a slow one delays no other

Which of these, is decided once, when the pipeline is first used.
"""

import queue
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from ..codecs.frames import Frame, text_event, unpack
from ..conf import conf
from ..exceptions import Drop, ends_the_task
from ..layer.envelope import EXCLUDE, Item
from ..publishing.fan_out import make_frame, write, write_items
from ..threads.serial_queue import SerialQueue
from .current import About, about_event
from .sending import Host, Pipeline, Sends, copy_of


class Delivery:
    """Belongs to the hub's event loop."""

    def __init__(self, hub: Host, view: Any, pipeline: Pipeline) -> None:
        self._hub = hub
        self._view = view
        self._pipeline = pipeline
        #: Group -> what waits for a group chain that awaits.
        self._backlogs: dict[str, SerialQueue[Item]] = {}
        self._sends = Sends(hub, view, pipeline)
        #: Run messages of a group, in order, through the chains; send them to the members.
        self.deliver: Callable[[str, Sequence[Item]], None] = self._write_items
        if self._pipeline.group.awaits:
            self.deliver = self._queue
        elif self._pipeline.send and not self._pipeline.send.awaits:
            self.deliver = self._run_together
        elif self._pipeline.group or self._pipeline.send or self._pipeline.codec is not None:
            self.deliver = self._run
        self._finish: Callable[[About, Any, bool], None] = self._write_to_all
        if self._pipeline.send:
            self._finish = self._sends.send

    def _write_items(self, group: str, items: Sequence[Item]) -> None:
        write_items(self._hub.groups.members(self._view, group), items)

    # Through the group chain

    def _run(self, group: str, items: Sequence[Item]) -> None:
        for item in items:
            self._run_item(group, item)

    def _run_together(self, group: str, items: Sequence[Item]) -> None:
        """As :meth:`_run`; what each recipient gets of many messages leaves in one write."""
        if len(items) == 1:
            self._run_item(group, items[0])
            return
        transports = tuple(self._hub.groups.members(self._view, group).values())
        for transport in transports:
            transport.hold()
        try:
            self._run(group, items)
        finally:
            for transport in transports:
                transport.release()

    def _run_item(self, group: str, item: Item) -> None:
        """Handle one message with a group chain that does not await."""
        pipeline = self._pipeline
        about = About(group, item.sender, item.meta)
        token = about_event.set(about)
        text_token = text_event.set(None)
        try:
            message, text = unpack(item.packed, pipeline.codec)
            text_event.set(text)
            self._finish(about, pipeline.group.run(self._view, message), text)
        except Drop as drop:
            self._view.dropped(drop, f"group {group!r:.80}")
        except BaseException as error:
            if ends_the_task(error):
                raise
            pipeline.failed(error, f"group {group!r:.80}")
        finally:
            text_event.reset(text_token)
            about_event.reset(token)

    def _queue(self, group: str, items: Sequence[Item]) -> None:
        backlog = self._backlogs.get(group)
        if backlog is None:
            backlog = self._backlogs[group] = SerialQueue(
                self._hub.tasks,
                self._hub.backlog,
                partial(self._handle_item, group),
                lambda item: item.size,
                bound=conf.PUBLISH_QUEUE,
                name=f"fws-group {group!r:.40}",
            )
        for item in items:
            try:
                backlog.put(item)
            except queue.Full:
                self._hub.counts["group_dropped"] += 1

    async def _handle_item(self, group: str, item: Item) -> None:
        """Handle one message with a group chain that awaits, in a task of its group."""
        about = About(group, item.sender, item.meta)
        about_event.set(about)
        try:
            message, text = unpack(item.packed, self._pipeline.codec)
            text_event.set(text)
            self._finish(about, await self._pipeline.group.arun(self._view, message), text)
        except Drop as drop:
            self._view.dropped(drop, f"group {group!r:.80}")
        except BaseException as error:
            if ends_the_task(error):
                raise
            self._pipeline.failed(error, f"group {group!r:.80}")
        if not self._hub.groups.members(self._view, group) and not len(
            self._backlogs.get(group, ())
        ):
            # The last member left while it was busy: no message will come.
            self._backlogs.pop(group, None)

    def left(self, group: str) -> None:
        """A member has left ``group``."""
        backlog = self._backlogs.get(group)
        if backlog is not None and not backlog.busy:
            del self._backlogs[group]

    def fan_out(self, group: str, message: Any, exclude: Collection[str]) -> None:
        """Send to the members what no group chain has seen. From any thread."""
        codec = self._pipeline.codec
        frame = make_frame(message, codec, {}, text_event.get())
        if not self._pipeline.send:
            self._hub.call(self._write, group, frame, exclude)
            return
        # As the chain gets what was published.
        own = bytearray(frame.payload) if codec is None else copy_of(message)
        about = About(group, "", {EXCLUDE: list(exclude)})
        self._hub.call(self._finish, about, own, frame.text)

    # To all alike

    def _write_to_all(self, about: About, message: Any, text: bool) -> None:
        frame = make_frame(message, self._pipeline.codec, about.meta, text)
        self._write(about.group, frame, about.meta.get(EXCLUDE, ()))

    def _write(self, group: str, frame: Frame, exclude: Collection[str]) -> None:
        write(self._hub.groups.members(self._view, group), frame, exclude)

    # Waiting

    @property
    def busy(self) -> bool:
        return self._sends.busy or any(line.busy for line in self._backlogs.values())

    async def settled(self) -> None:
        """Return when no group message is being handled."""
        for line in tuple(self._backlogs.values()):
            await line.settled()
        await self._sends.settled()
