"""
Asks group rules with ``recheck=True`` again, every ``RECHECK`` seconds: whether who is
subscribed may still be.

Questions are asked together: one query for the users of a batch whose permissions are asked,
one thread and database connection for a batch of functions that block.
"""

import asyncio
import contextvars
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..conf import conf
from ..exceptions import NotAllowed
from ..logs import fields_of, get_logger
from ..threads.tasks import end_tasks
from .asking import RULE_TIMEOUT, Asking, Held, try_to
from .permissions import ask

logger = get_logger(__name__)

#: How many rules are asked in one batch, and how many batches at the same time.
BATCH, AT_ONCE = 100, 4
#: How long one round may take, seconds.
TIME_LIMIT = 60.0
#: How many times in a row a rule may fail before the subscription ends.
GRACE = 10


class Host(Protocol):
    """The part of a hub that is used here."""

    loop: asyncio.AbstractEventLoop
    connections: Mapping[str, Any]


class RuleRechecks:
    """Belongs to the hub's event loop."""

    def __init__(self, hub: Any) -> None:
        self._hub: Host = hub
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        #: Connection id and group -> how often the rule has failed in a row.
        self._failures: dict[tuple[str, str], int] = {}
        #: The same -> where it is asked, and has not answered in time.
        self._hanging: dict[tuple[str, str], Asking] = {}

    def start(self) -> None:
        """There is a subscription to be asked about, in ``RECHECK`` seconds."""
        if self._timer is None and self._task is None:
            self._timer = self._hub.loop.call_later(
                conf.RECHECK, self.begin, context=contextvars.Context()
            )

    def begin(self) -> None:
        """Ask about all subscriptions, unless that is being done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = list(self._held())
        if self._task is None and held:
            context = contextvars.Context()
            steps = self._run(held)
            self._task = self._hub.loop.create_task(steps, name="fws-rules", context=context)

    async def stop(self) -> None:
        """End what runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            await end_tasks([self._task])

    def _held(self) -> Iterator[Held]:
        for connection in tuple(self._hub.connections.values()):
            for subscription in tuple(connection.subscriptions.values()):
                if subscription.is_rechecked:
                    yield Held(connection, subscription)

    async def _run(self, held: list[Held]) -> None:
        try:
            async with asyncio.timeout(TIME_LIMIT):
                await self._ask(held)
        except TimeoutError:
            logger.error(
                "group rules have not answered within %g s whether %d subscriptions may stay;"
                " they are asked again",
                TIME_LIMIT,
                len(held),
            )
        finally:
            self._task = None
        there = self._hub.connections
        self._failures = {key: n for key, n in self._failures.items() if key[0] in there}
        self._hanging = {key: one for key, one in self._hanging.items() if key[0] in there}
        self.go_on()

    def go_on(self) -> None:
        """:meth:`start`, if there is such a subscription."""
        if any(True for _ in self._held()):
            self.start()

    async def _ask(self, held: list[Held]) -> None:
        turns = asyncio.Semaphore(AT_ONCE)

        async def in_turn(batch: list[Held], answer: Any) -> None:
            async with turns:
                await answer(batch)

        kinds: dict[Any, list[Held]] = {}
        for one in held:
            kinds.setdefault((one.kind, one.connection.tenant), []).append(one)
        async with asyncio.TaskGroup() as group:
            for (kind, _), members in kinds.items():
                answer = self._ask_in_thread if kind else self._ask_here
                for batch in _batches(members):
                    group.create_task(in_turn(batch, answer))

    async def _ask_here(self, batch: list[Held]) -> None:
        waiting = []
        for one in batch:
            answer = try_to(ask, *one.question)
            if inspect.isawaitable(answer):
                waiting.append(self._note_later(one, answer))
            else:
                self._note(one, answer)
        # The others are served meanwhile.
        await asyncio.gather(asyncio.sleep(0), *waiting)

    async def _note_later(self, one: Held, answer: Any) -> None:
        """Each as soon as it is known: one that hangs must not keep the others."""
        task = _wait(one.connection, answer)
        try:
            await asyncio.wait({task}, timeout=RULE_TIMEOUT)
        finally:
            task.cancel()
        if not task.done():
            self._note(one, one.too_late())
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._note(one, task.result() if error is None else error)

    async def _ask_in_thread(self, batch: list[Held]) -> None:
        batch = [one for one in batch if not self._still_hangs(one)]
        while batch:
            asking = Asking(batch)
            try:
                await asking.wait()
            finally:
                # What is known also where the time for this round is over.
                results = asking.results()
                for one, answer in zip(batch, results, strict=False):
                    self._note(one, answer)
            self._hanging |= {one.key: asking for one in asking.hanging}
            batch = batch[len(results) :]

    def _still_hangs(self, one: Held) -> bool:
        """Whether its thread has not returned yet: it is not given another one."""
        asking = self._hanging.get(one.key)
        if asking is None or not asking.is_running:
            return False
        self._note(one, one.too_late())
        return True

    def _note(self, one: Held, answer: bool | BaseException) -> None:
        connection, group, key = one.connection, one.subscription.group, one.key
        if not one.is_live:
            return
        if isinstance(answer, BaseException) and not isinstance(answer, NotAllowed):
            self._failures[key] = self._failures.get(key, 0) + 1
            connection.rule_failed(answer)
            if self._failures[key] < GRACE:
                return
        else:
            self._failures.pop(key, None)
        if answer is not True:
            id, told = connection.id, fields_of(connection)
            logger.info("connection %s may no longer be in group %r", id, group, extra=told)
            connection.leave(group)


def _wait(connection: Any, answer: Any) -> "asyncio.Task[bool]":
    async def steps() -> bool:
        allowed: bool = await answer
        return allowed

    return asyncio.create_task(steps(), context=connection.context.copy())


def _batches(members: Sequence[Held]) -> Iterable[list[Held]]:
    rest = iter(members)
    while batch := list(itertools.islice(rest, BATCH)):
        yield batch
