"""
Sends what is queued to the channel layer, in batches.

At the end of a turn of the event loop every group with messages sends one batch. What is
published to a group while its batch is on its way makes the next one: no delay when idle,
one round trip for many messages, of many groups, under load::

    publish a, b to x, c to y  -> send x [a, b], y [c]
    publish d, e to x             (on its way)
                               -> send x [d, e]

During an outage of the layer they wait. A batch whose send failed may have arrived; it is
sent again with the same numbers, so that receivers recognise a repetition.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from ..conf import conf, describe
from ..exceptions import PublishError
from ..history.base import Position
from ..history.hosts import may_pass
from ..layer.envelope import Item, Stamper, group_key
from ..logs import LogThrottle, get_logger
from ..threads.tasks import Tasks, end_tasks
from .batches import Entry, Histories, Keep, Keeps, Link, Sending, append, first_batch, name_of

logger = get_logger(__name__)
_throttle = LogThrottle()

#: So many groups send in one turn of the event loop; other work comes between.
MAX_GROUPS = 128
#: Attempts to send one batch, where the layer fails and recovers repeatedly.
MAX_SENDS = 5
#: During an outage, messages over ``PUBLISH_MAX_AGE`` are looked for this often, seconds.
AGE_CHECK = 0.1


class Sender:
    """
    Each group has one batch on its way at most. What cannot be sent within ``PUBLISH_MAX_AGE`` is
    told to its own future or ``on_failed``; ``on_released`` gets what is no longer queued, and
    ``forward`` what was sent, where ``CHANNELS_GROUPS`` is set.
    """

    def __init__(
        self,
        tasks: Tasks,
        link: Callable[[], Link],
        on_failed: Callable[[str, list[Item], PublishError], None],
        on_released: Callable[[Sequence[Entry]], None],
        histories: Histories | None,
        forward: Callable[[str, Sequence[Item]], None],
    ) -> None:
        self._tasks = tasks
        self._link = link
        self._histories, self._forward = histories, forward
        self._on_failed = on_failed
        self._release = on_released
        self.stamper = Stamper()
        #: Group -> what has no number yet, the oldest first.
        self._waiting: dict[str, list[Entry]] = {}
        #: Those of them that have no batch on its way.
        self._ready: dict[str, None] = {}
        self._keeps = Keeps()
        self._on_the_way: dict[str, Sending] = {}
        #: Those of them that wait for the layer to be available again.
        self._to_repeat: dict[str, Sending] = {}
        #: Runs while anything waits for the layer to be available.
        self._outage: asyncio.Task[None] | None = None
        self._will_send = False
        #: Of those who wait until less is queued.
        self._progress: asyncio.Future[None] | None = None

    def put(self, group: str, entry: Entry, keep: Keep | None = None) -> None:
        """Send ``entry`` after those that wait for the same group."""
        waiting = self._waiting.get(group)
        if keep is not None or group in self._keeps.by_group:
            self._keeps.add(group, entry[0], keep, waiting)
        if waiting is not None:
            waiting.append(entry)
            return
        self._waiting[group] = [entry]
        if group not in self._on_the_way:
            self._make_ready(group)

    def _make_ready(self, group: str) -> None:
        self._ready[group] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._will_send:
            self._will_send = True
            # In an empty context, not in that of the connection that publishes first.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._send_ready, context=contextvars.Context())

    def _send_ready(self) -> None:
        """Send a batch of every group that may."""
        self._will_send = False
        if self._outage is not None:
            return
        if not self._ready:
            # Given up meanwhile: the hub may have ended, and would open another link.
            self._tell_progress()
            return
        if not (link := self._link()).is_available:
            self._wait_for_layer()
            return
        oldest = time.monotonic() - conf.PUBLISH_MAX_AGE
        for group in list(islice(self._ready, MAX_GROUPS)):
            del self._ready[group]
            waiting = self._waiting[group]
            if waiting[0][1] < oldest:
                self._drop_stale(group, waiting, oldest)
                if not waiting:
                    continue
            entries, rest = first_batch(waiting, self._keeps.keys, self._keeps.left_out)
            if rest:
                self._waiting[group] = rest
            else:
                del self._waiting[group]
            items = [entry[0] for entry in entries]
            batch = self.stamper.stamp(group_key(group), items)
            keep = self._keeps.take(group, items, not rest)
            self._post(link, Sending(group, batch, entries, keep))
        if self._ready:
            self._schedule()
        self._tell_progress()

    def _post(self, link: Link, sending: Sending) -> None:
        sending.sends += 1
        self._on_the_way[sending.group] = sending
        on_sent = partial(self._sent, sending)
        try:
            if sending.keep is None:
                link.post(sending.batch, on_sent)
            else:
                append(link, self._histories, sending.batch, sending.keep, on_sent)
        except Exception as error:
            self._sent(sending, error)

    def _sent(self, sending: Sending, answer: Position | Exception | None) -> None:
        group, entries = sending.group, sending.entries
        if self._on_the_way.get(group) is not sending:
            return  # given up
        if isinstance(answer, Exception):
            sending.error = answer
            if may_pass(answer) and sending.sends < MAX_SENDS:
                self._to_repeat[group] = sending
                self._wait_for_layer()
                return
            self._fail_sending(sending)
        else:
            for n, (_, _, done) in enumerate(entries, 1 - len(entries)):
                if done is not None and not done.done():
                    place = answer._replace(offset=answer.offset + n) if answer and n else answer
                    done.set_result(place)
            if conf.CHANNELS_GROUPS and not (answer and answer.repeated):
                self._forward(group, [item for item, _, _ in entries])
        del self._on_the_way[group]
        self._release(entries)
        if group in self._waiting:
            self._make_ready(group)
        else:
            self._tell_progress()

    # During an outage

    def _wait_for_layer(self) -> None:
        if self._outage is None:
            self._outage = self._tasks.start(self._until_available, "fws-publish-later")
        self._tell_progress()

    async def _until_available(self) -> None:
        """Wait until the layer is available or nothing is left, then go on sending."""
        while self._to_repeat or self._ready:
            is_available = await self._link().wait_available(time.monotonic() + AGE_CHECK)
            self._drop_old()
            if is_available:
                break
        self._outage = None
        to_repeat, self._to_repeat = self._to_repeat, {}
        for sending in to_repeat.values():
            self._post(self._link(), sending)
        self._send_ready()

    def _drop_old(self) -> None:
        """Fail what is over ``PUBLISH_MAX_AGE``."""
        oldest = time.monotonic() - conf.PUBLISH_MAX_AGE
        for group in tuple(self._ready):
            waiting = self._waiting[group]
            if waiting[0][1] < oldest:
                self._drop_stale(group, waiting, oldest)
        for group, sending in tuple(self._to_repeat.items()):
            if sending.entries[0][1] < oldest:
                del self._to_repeat[group], self._on_the_way[group]
                self._fail_sending(sending)
                self._release(sending.entries)
                if group in self._waiting:
                    self._ready[group] = None
        self._tell_progress()

    def _drop_stale(self, group: str, waiting: list[Entry], oldest: float) -> None:
        """Fail the entries of ``waiting`` that were queued before ``oldest``."""
        count = sum(1 for entry in waiting if entry[1] < oldest)
        stale = waiting[:count]
        del waiting[:count]
        self._keeps.drop(group, stale, not waiting)
        if not waiting:
            del self._waiting[group]
            self._ready.pop(group, None)
        self._fail(
            group,
            stale,
            f"{count} messages to {name_of(group)} waited over {conf.PUBLISH_MAX_AGE} s for the"
            " channel layer",
        )
        self._release(stale)

    # Failures

    def _fail_sending(self, sending: Sending) -> None:
        cause = sending.error
        why = "this process ended" if cause is None else describe(cause)
        count = len(sending.entries)
        words = f"the channel layer did not confirm {count} messages to {name_of(sending.group)}"
        self._fail(sending.group, sending.entries, f"{words}: {why}", cause)

    def _fail(
        self,
        group: str,
        entries: Sequence[Entry],
        words: str,
        cause: Exception | None = None,
    ) -> None:
        error = PublishError(words)
        error.__cause__ = cause
        for _, _, done in entries:
            if done is not None and not done.done():
                done.set_exception(error)
        without_future = [item for item, _, done in entries if done is None]
        try:
            if without_future:
                self._on_failed(group, without_future, error)
        except Exception:
            if _throttle.note("on_failed"):
                logger.exception("cannot report that a publish has failed")

    # Waiting

    @property
    def is_settled(self) -> bool:
        """Whether nothing is queued, except for the end of an outage."""
        is_sending = len(self._on_the_way) > len(self._to_repeat)
        return not is_sending and (self._outage is not None or not self._ready)

    async def settled(self) -> None:
        """Return when nothing is queued, except for the end of an outage."""
        while not self.is_settled:
            await self._next_progress()

    async def sent(self) -> None:
        """Return when nothing is queued and no send is in progress."""
        while self._waiting or self._on_the_way or self._outage is not None:
            await self._next_progress()

    async def _next_progress(self) -> None:
        self._progress = self._progress or asyncio.get_running_loop().create_future()
        await asyncio.wait([self._progress])

    def _tell_progress(self) -> None:
        if self._progress is not None:
            progress, self._progress = self._progress, None
            progress.set_result(None)

    async def give_up(self) -> None:
        """Fail what is queued, because the process or hub ends."""
        outage, self._outage = self._outage, None
        if outage is not None:
            await end_tasks([outage])
        on_the_way, self._on_the_way, self._to_repeat = self._on_the_way, {}, {}
        waiting, self._waiting, self._ready = self._waiting, {}, {}
        self._keeps = Keeps()
        for sending in on_the_way.values():
            self._fail_sending(sending)
            self._release(sending.entries)
        for group, entries in waiting.items():
            self._fail(
                group,
                entries,
                f"{len(entries)} messages to {name_of(group)} were not sent: this process ended"
                " while the channel layer was lost",
            )
            self._release(entries)
        self._tell_progress()
