"""
See what passes through a pipe, a connection or a group, live, in all processes, for a while.

::

    async with Tee(on_place("/", "broadcast_messages"), payloads=True) as tee:
        async for record in tee:
            ...

    Tee -- control event, again every 3 s --> every process: records of what it sees
     '<--------- a group of its own, of the layer ----------'

Bounded in time, messages and bytes. Processes that hear nothing of the viewer for 10 s stop, and
none waits for it: what comes faster than it reads is dropped and counted. Earlier versions of
this package do not take part.
"""

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple, Self

from ..api.listener import Listener
from ..conf import conf
from ..layer.envelope import CONTROL, Batch, group_key
from ..publishing.items import control_item
from ..threads.tasks import end_tasks

#: How often a viewer renews its tee, seconds: a process ends one after ``taps.LEASE``.
RENEW = 3.0
#: A viewer that is slow has room for so many records.
ROOM = 1000
#: The most that a viewer may ask for: seconds, messages, characters of a payload, bytes.
MOST_SECONDS, MOST_MESSAGES, MOST_SIZE, MOST_TOTAL = 600.0, 10_000, 16_384, 16_777_216
KINDS = ("place", "connection", "group")
#: Records about what passes: these are counted.
SEEN = ("chain", "publish", "frame")


class Subject(NamedTuple):
    """What a tee is on."""

    kind: str
    name: str
    part: str = ""


def on_place(route: str, part: str = "") -> Subject:
    """
    A filter or a chain of a route, both as ``manage.py filters`` prints them. Without ``part``
    the whole pipe: all chains, publishes, and group messages.
    """
    return Subject("place", route, part)


def on_route(route: str) -> Subject:
    """The whole pipe of a route."""
    return on_place(route)


def on_connection(connection_id: str) -> Subject:
    """The frames of a connection, and the chains that run for it."""
    return Subject("connection", connection_id)


def on_group(group: str) -> Subject:
    """What is published to a group, and what becomes of it in each process."""
    return Subject("group", group)


class Spec(NamedTuple):
    """What a viewer wants, as it crosses the layer."""

    subject: Subject
    #: Seconds that are left.
    left: float
    messages: int
    size: int
    total: int
    payloads: bool
    skip: tuple[str, ...] = ()

    @classmethod
    def read(cls, event: dict[str, Any]) -> Self:
        """What another process has sent; ValueError, KeyError or TypeError for anything else."""
        kind, name, part = event["on"]
        if kind not in KINDS or not (isinstance(name, str) and isinstance(part, str)):
            raise ValueError(f"a tee on {event['on']!r:.80}")
        return cls(
            Subject(kind, name, part),
            float(_within("seconds", event["left"], MOST_SECONDS)),
            int(_within("messages", event["messages"], MOST_MESSAGES)),
            int(_within("size", event["size"], MOST_SIZE)),
            int(_within("total", event["total"], MOST_TOTAL)),
            event["payloads"] is True,
            tuple(map(str, event["skip"])),
        )

    def event(self) -> dict[str, Any]:
        fields = {**self._asdict(), "on": list(self.subject), "skip": list(self.skip)}
        del fields["subject"]
        return fields


def _within(name: str, value: Any, most: float) -> float:
    if not 0 <= value <= most:
        raise ValueError(f"{name}: {value!r:.80} is not between 0 and {most:g}")
    number: float = value
    return number


def results_key(key: str) -> str:
    """The name on the layer of the group of a tee's records, to which no name of a site leads."""
    return f"{conf.NAMESPACE}.tee.{key}"


class Tee:
    """
    ``async with``, then ``async for``: the records, which are dicts without secrets; see
    ``docs/shell.md``. The iteration ends when ``seconds`` are over, when ``messages`` have come,
    and by :meth:`close`.

    Without ``payloads`` no process tells more of them than kind and size: pass True for whoever
    may see them. At most ``size`` characters of each are shown, and ``total`` bytes of records by
    each process. Records about the connections in ``skip`` are left out, as that of the viewer.

    ValueError for a bound above its limit. ``async with`` raises TimeoutError where the layer
    does not answer.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        seconds: float = 60.0,
        messages: int = 1000,
        size: int = 2048,
        total: int = 1_048_576,
        payloads: bool = False,
        skip: Iterable[str] = (),
    ) -> None:
        spec = Spec(subject, seconds, messages, size, total, payloads, tuple(skip))
        self._spec = Spec.read(spec.event())
        self._key = secrets.token_hex(16)
        self._until = 0.0
        self._left = messages
        self._records: deque[dict[str, Any]] = deque()
        self._change = asyncio.Event()
        self._is_over = False
        self._listener = Listener(self._receive, self._lost, self._back)
        self._renewing: asyncio.Task[None] | None = None
        #: Records that were not shown: of a viewer or a process that was too slow for them.
        self.dropped = 0
        #: The names of the processes that take part.
        self.processes: set[str] = set()
        #: How many places, connections or groups they have found.
        self.found = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await self._listener.__aenter__()
        try:
            if not await self._listener.join(results_key(self._key)):
                raise TimeoutError(self._listener.problem)
            self._until = loop.time() + self._spec.left
            self._renewing = loop.create_task(self._renew(), name="fws-tee")
        except BaseException:
            await self._listener.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
        assert self._renewing is not None
        await end_tasks([self._renewing])
        try:
            # A process that is not told ends it by itself.
            await self._send(None)
        finally:
            await self._listener.__aexit__(kind, error, traceback)

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        while (left := self._until - loop.time()) > 0:
            await self._send(self._spec._replace(left=left).event())
            await asyncio.sleep(min(RENEW, left))
        self.close()

    async def _send(self, wanted: dict[str, Any] | None) -> None:
        # Earlier versions take it for an answer that nobody waits for.
        event = {"is": "count", "nonce": self._key, "tokens": {}, "tee": wanted}
        sent = self._listener.send(group_key(CONTROL), control_item(event))
        await asyncio.wait([sent])
        sent.exception()  # the next one comes soon

    def close(self) -> None:
        """End the iteration, after the records that have come."""
        self._is_over = True
        self._change.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while not self._records:
            if self._is_over:
                raise StopAsyncIteration
            self._change.clear()
            await self._change.wait()
        return self._records.popleft()

    # What comes

    def _receive(self, batch: Batch) -> None:
        if batch.key != results_key(self._key):
            return
        records = [json.loads(item.payload) for item in batch.items]
        # A chain is told when it has ended, after what it has published.
        for record in sorted(records, key=lambda record: float(record["at"])):
            if self._note(record):
                self._put(record)

    def _note(self, record: dict[str, Any]) -> bool:
        """Whether to show it."""
        if record["is"] == "begin":
            self.processes.add(record["process"])
            self.found += record["found"]
        if record["is"] == "lost":
            self.dropped += record["dropped"]
        if record["is"] not in SEEN:
            return True
        self._left -= 1
        if self._left <= 0:
            self.close()
        return self._left >= 0

    def _put(self, record: dict[str, Any]) -> None:
        if len(self._records) >= ROOM:
            self.dropped += 1
            return
        self._records.append(record)
        self._change.set()

    def _lost(self, error: BaseException) -> None:
        self._put({"is": "outage", "at": time.time(), "lost": True})

    def _back(self, seconds: float) -> None:
        self._put({"is": "outage", "at": time.time(), "lost": False})
