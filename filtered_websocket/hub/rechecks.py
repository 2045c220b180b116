"""
Asks the database whether connections are still allowed: some at once, all of them every
``RECHECK`` seconds; one query for many connections of the same tenant, ``CHUNK`` at a time.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias

from ..auth.dependencies import expiries
from ..auth.validity import CHUNK, PASSWORD_CHANGED, RENEWED, find_invalid, token_model
from ..close_codes import FILTER_ERROR, SESSION_RENEWED, UNAUTHORIZED
from ..conf import conf
from ..connections.connection import Connection
from ..logs import get_logger
from ..threads.database import run_query
from ..threads.tasks import Tasks, end_tasks
from ..types import Identity

logger = get_logger(__name__)

#: A connection's access depends on its handshake, on a token that it used since, and on when the
#: site has ordered that it ends.
Slot = Literal["handshake", "used", "ordered", "protocol", "signed_in"]
#: Connections, and what their access depends on.
Held: TypeAlias = list[tuple[Connection, Identity]]

#: Pause before the database is asked again, after it failed, seconds.
ASK_AGAIN = 1.0
#: How many times RECHECK a connection lives while the database cannot be asked.
GRACE = 10
#: How long after a password has changed its sessions' connections are closed, seconds. By
#: then Django has saved the session that stays valid, and the browser has its new key.
PASSWORD_GRACE = 1.0
#: The longest timer, seconds; a later expiry is looked at again then.
MAX_TIMER = 86_400.0
#: How long the end of a hub waits for the database, seconds.
STOP_TIMEOUT = 2.0


class Rechecks:
    """
    One task, from :meth:`start` to :meth:`stop`; belongs to the hub's event loop.

    ``held`` is what each connection's access depends on, kept by the caller.
    ``on_valid(connection, slot, identity)`` gets an identity as the database has it now.
    """

    def __init__(
        self,
        tasks: Tasks,
        loop: asyncio.AbstractEventLoop,
        held: Mapping[Connection, Mapping[Slot, Identity]],
        on_valid: Callable[[Connection, Slot, Identity], None],
    ) -> None:
        self._tasks = tasks
        self._loop = loop
        self._held = held
        self._on_valid = on_valid
        self._pending: dict[Connection, None] = {}
        #: Tenant -> a context of it, and the tokens that were used.
        self._used: dict[Hashable, tuple[contextvars.Context, set[int]]] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()
        #: Tenant -> since when its database cannot be asked.
        self._failing_since: dict[Hashable, float] = {}
        #: Connections whose user has another password -> when they are closed for it.
        self._closing_at: dict[Connection, float] = {}

    def start(self) -> None:
        """Start the task, unless it runs."""
        if self._task is None:
            self._stopping = asyncio.Event()
            self._task = self._tasks.start(partial(self._run, self._stopping), "fws-rechecks")

    def add(self, connections: Iterable[Connection]) -> None:
        """Re-check these connections soon, all in one query."""
        self._pending.update(dict.fromkeys(connections))
        self._wake.set()

    def note_used(self, connection: Connection, token_id: int) -> None:
        """Write soon that ``connection`` used this token now."""
        _, ids = self._used.setdefault(connection.tenant, (connection.context, set()))
        ids.add(token_id)
        self._wake.set()

    async def stop(self) -> None:
        """Do the re-checks that wait, write when tokens were used, and end the task."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping.set()
        self._wake.set()
        pending = {task, *self._writing}
        _, pending = await asyncio.wait(pending, timeout=STOP_TIMEOUT)
        await end_tasks(pending)

    async def _run(self, stopping: asyncio.Event) -> None:
        due = time.monotonic() + conf.RECHECK
        while not stopping.is_set():
            await self._wait(due - time.monotonic())
            if time.monotonic() >= due:
                due = time.monotonic() + conf.RECHECK
                self._pending.update(dict.fromkeys(self._held))
            self._write_used()
            if not await self._check():
                await self._wait(ASK_AGAIN)
                self._wake.set()

    async def _wait(self, seconds: float) -> None:
        """Wait until there is something to do, or for ``seconds``."""
        timer = self._loop.call_later(max(0.0, seconds), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    async def _check(self) -> bool:
        """Close connections whose access has ended. False where the database did not answer."""
        tenants: dict[Hashable, Held] = {}
        for connection in self._pending:
            for identity in self._held.get(connection, {}).values():
                tenants.setdefault(connection.tenant, []).append((connection, identity))
        self._pending.clear()
        return all(await asyncio.gather(*map(self._check_tenant, tenants, tenants.values())))

    async def _check_tenant(self, tenant: Hashable, checked: Held) -> bool:
        """Some at a time: others are served between them."""
        for start in range(0, len(checked), CHUNK):
            error = await self._check_some(checked[start : start + CHUNK])
            if error is not None:
                self._retry(tenant, error, [connection for connection, _ in checked[start:]])
                return False
            self._failing_since.pop(tenant, None)
        return True

    async def _check_some(self, checked: Held) -> Exception | None:
        """What the database answered instead, or None."""
        identities = [identity for _, identity in checked]
        context = checked[0][0].context
        answers: Any
        try:
            answers = await run_query(_try_to, find_invalid, identities, context=context)
        except Exception as error:
            # No thread can be started, for example.
            answers = error
        if isinstance(answers, Exception):
            return answers
        for (connection, identity), (flaw, fresh) in zip(checked, answers, strict=True):
            held = self._held.get(connection, {})
            for slot in [name for name, one in held.items() if one is identity]:
                if not flaw:
                    if identity.session_key:  # not what else the connection depends on
                        self._closing_at.pop(connection, None)
                    self._on_valid(connection, slot, fresh)
                elif not identity.session_key or flaw not in (PASSWORD_CHANGED, RENEWED):
                    connection.close(UNAUTHORIZED, flaw)
                elif self._has_waited(connection):
                    del self._closing_at[connection]
                    code = SESSION_RENEWED if flaw == RENEWED else UNAUTHORIZED
                    connection.close(code, flaw)
        return None

    def _has_waited(self, connection: Connection) -> bool:
        """Whether ``PASSWORD_GRACE`` is over; else the connection is re-checked then."""
        now = self._loop.time()
        due = self._closing_at.setdefault(connection, now + PASSWORD_GRACE)
        if now < due:
            self._loop.call_at(due, self._check_again, connection)
        return now >= due

    def _check_again(self, connection: Connection) -> None:
        if connection in self._held:
            self.add([connection])
        else:
            self._closing_at.pop(connection, None)

    def _retry(self, tenant: Hashable, error: Exception, connections: list[Connection]) -> None:
        """After a failed query: try again later, or close them if it has failed for too long."""
        now = time.monotonic()
        if tenant not in self._failing_since:
            self._failing_since[tenant] = now
            logger.error("cannot ask the database which connections may stay open: %r", error)
        if now - self._failing_since[tenant] > GRACE * conf.RECHECK:
            for connection in connections:
                connection.close(FILTER_ERROR, "cannot check whether it may stay open")
        else:
            self._pending.update(dict.fromkeys(connections))

    def _write_used(self) -> None:
        """In a task of its own: a locked row must not delay re-checks."""
        if self._used and not self._writing:
            used, self._used = self._used, {}
            task = self._loop.create_task(
                self._write(used), name="fws-used", context=contextvars.Context()
            )
            self._writing.add(task)
            task.add_done_callback(self._written)

    async def _write(self, used: dict[Hashable, tuple[contextvars.Context, set[int]]]) -> None:
        write = token_model().objects.note_used
        for context, ids in used.values():
            error = await run_query(_try_to, write, ids, context=context)
            if error is not None:
                # It is for display only.
                logger.warning("cannot write when tokens were used: %r", error)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if self._used:
            self._wake.set()


class Deadlines:
    """Closes connections whose access expires: one timer each, for the earliest moment."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timers: dict[Connection, asyncio.TimerHandle] = {}

    def set(self, connection: Connection, held: Mapping[Slot, Identity]) -> None:
        """What its access depends on now; nothing when it has ended."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()
        ends = [end for one in held.values() for end in expiries(one)]
        connection.deadline = None
        if ends:
            left = min(ends) - time.time()
            connection.deadline = self._loop.time() + left
            self._timers[connection] = self._loop.call_later(
                min(max(left, 0.0), MAX_TIMER), self._due, connection, held
            )

    def _due(self, connection: Connection, held: Mapping[Slot, Identity]) -> None:
        if connection.is_expired(self._loop.time()):
            connection.close(UNAUTHORIZED, "expired")
        else:
            self.set(connection, held)


def _try_to(call: Callable[[Any], Any], argument: Any) -> Any:
    """What ``call`` returns, or the exception that it raises: the database may be away."""
    try:
        return call(argument)
    except Exception as error:
        return error
