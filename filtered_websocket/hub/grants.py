"""
On what the connections of one hub rest, and their end when that ends.

::

    an event of the house ──┐
    an expiry that is due ──┼── the database is asked about those ── 4401 for who lost it
    every RECHECK seconds ──┘   (one question for many)

Events of the house travel over the layer like messages, in a group that no site can name.
One that is lost delays an end until the next RECHECK, and no longer.
"""

import asyncio
import contextvars
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, Protocol

from ..auth.keys import digest_of
from ..auth.validity import (
    is_read_from_a_replica,
    is_token,
    is_user,
    judge,
    password_hash,
    token_model,
)
from ..close_codes import FILTER_ERROR, UNAUTHORIZED
from ..conf import conf
from ..connections.connection import Connection
from ..layer.envelope import Batch, Sequence
from ..logs import get_logger
from ..threads.database import run_query
from ..types import Identity

logger = get_logger(__name__)

#: A connection may rest on two things: its handshake, and a token that it used since.
Slot = Literal["handshake", "used"]

#: Pause before the database is asked again, after it failed, seconds.
ASK_AGAIN = 1.0
#: How many times RECHECK a connection lives while the database cannot be asked.
GRACE = 10
#: How many sessions are remembered that have just ended.
MAX_ENDED = 1024
#: How long the end of a hub waits for the database, seconds.
STOP_TIMEOUT = 2.0
#: The longest timer, seconds; a later expiry is looked at again then.
MAX_TIMER = 86_400.0


class House(Protocol):
    """The part of a hub that the rights of its connections use."""

    loop: asyncio.AbstractEventLoop
    counts: Counter[str]

    async def hear_house(self) -> None: ...
    def tell_house(self, event: dict[str, Any]) -> None: ...


class Rights:
    """
    Connections by what they rest on, and one task that asks whether it still holds.

    Belongs to the hub's event loop. The task lives from the first connection that rests
    on anything until :meth:`stop`.
    """

    def __init__(self, hub: House) -> None:
        self._hub = hub
        #: By slot: what the handshake showed, and the token that was used since.
        self._held: dict[Connection, dict[Slot, Identity]] = {}
        #: ("token" | "user" | "session", id) -> who rests on it.
        self._resting: dict[tuple[str, str], set[Connection]] = {}
        self._timers: dict[Connection, asyncio.TimerHandle] = {}
        self._doubtful: dict[Connection, None] = {}
        self._used: set[int] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ended: dict[tuple[str, str], str] = {}
        self._stopping = asyncio.Event()
        self._writing: set[asyncio.Task[None]] = set()
        self._failing_since: float | None = None
        self._sequence = Sequence()
        #: How many events were heard: who was authenticated meanwhile is asked about again.
        self.heard = 0
        #: Censuses under way: nonce -> the answers so far.
        self.censuses: dict[str, list[dict[str, int]]] = {}

    # What a hub and its connections say

    async def listening(self) -> None:
        """Return when events of the house arrive here, or the layer is away."""
        await self._hub.hear_house()

    def hold(
        self, connection: Connection, identity: Identity, since: int, slot: Slot = "handshake"
    ) -> None:
        """
        ``connection`` rests on ``identity`` from now on, in the place of what it had in that
        slot; ``since`` is what :attr:`heard` was before the database was asked.

        TypeError for an ``expires_at`` that is no datetime.
        """
        if is_user(identity.user):
            known = identity.session_hash or password_hash(identity.user)
            active = identity.user.is_active
            identity = replace(identity, session_hash=known, was_active=active)
        held = self._held.get(connection, {}) | {slot: identity}
        self._set(connection, held)
        if is_token(identity.token):
            self._used.add(identity.token.pk)
            self._wake.set()
        for key in _keys(identity):
            if key in self._ended:
                connection.close(UNAUTHORIZED, self._ended[key])
        is_stale = is_user(identity.user) and is_read_from_a_replica(identity.user)
        if self.heard != since or is_stale:
            self._doubt([connection])
        if self._task is None:
            self._stopping = asyncio.Event()
            self._task = self._hub.loop.create_task(
                self._work(self._stopping), name="fws-rights", context=contextvars.Context()
            )

    def let_go(self, connection: Connection, slot: Slot) -> None:
        """``connection`` rests no more on what it had in that slot."""
        held = self._held.get(connection, {})
        self._set(connection, {name: one for name, one in held.items() if name != slot})

    def leave(self, connection: Connection) -> None:
        """``connection`` has ended."""
        self._set(connection, {})

    def _set(self, connection: Connection, held: dict[Slot, Identity]) -> None:
        before = {key for one in self._held.pop(connection, {}).values() for key in _keys(one)}
        after = {key for one in held.values() for key in _keys(one)}
        for key in before - after:
            resting = self._resting[key]
            resting.discard(connection)
            if not resting:
                del self._resting[key]
        for key in after - before:
            self._resting.setdefault(key, set()).add(connection)
        if held:
            self._held[connection] = held
        self._arm(connection)

    def sweep(self) -> None:
        """Ask about everybody: events may have been missed."""
        self._doubt(self._held)

    def count(self) -> dict[str, int]:
        """Token id -> connections of this hub that rest on it."""
        return {name: len(who) for (kind, name), who in self._resting.items() if kind == "token"}

    async def stop(self) -> None:
        """Ask what is in doubt, write what is known of tokens' use, and end the task."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping.set()
        self._wake.set()
        pending = {task, *self._writing}
        _, pending = await asyncio.wait(pending, timeout=STOP_TIMEOUT)
        for each in pending:
            each.cancel()
        if pending:
            await asyncio.wait(pending)

    # Events of the house

    def hear(self, batch: Batch) -> None:
        """What any process says; what is none of ours is counted."""
        missed = self._sequence.note(batch)
        if missed is None:
            return
        if missed:
            self.sweep()
        for item in batch.items:
            self.heard += 1
            try:
                self._handle(json.loads(item.payload))
            except (ValueError, KeyError, TypeError, RecursionError):
                self._hub.counts["bad_envelope"] += 1

    def obey(self, event: dict[str, Any]) -> None:
        """What this process says is done here at once, wherever the layer is."""
        self.heard += 1
        if event["is"] not in ("ask", "count"):
            self._handle(event)

    def _handle(self, event: dict[str, Any]) -> None:
        self._handlers[event["is"]](self, event)

    def _changed(self, event: dict[str, Any]) -> None:
        kind, name = str(event["kind"]), str(event["id"])
        self._doubt(self._resting.get((kind, name), ()))

    def _close(self, event: dict[str, Any]) -> None:
        key = str(event["kind"]), str(event["id"])
        code, reason = int(event["code"]), str(event["reason"])
        for connection in tuple(self._resting.get(key, ())):
            connection.close(code, reason)
        if event["kind"] == "session":
            # Told a moment before its row is gone: who comes in between comes too late.
            self._ended[key] = reason
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]

    def _tell_count(self, event: dict[str, Any]) -> None:
        self._hub.tell_house({"is": "count", "nonce": event["nonce"], "tokens": self.count()})

    def _note_count(self, event: dict[str, Any]) -> None:
        census = self.censuses.get(event["nonce"])
        if census is not None:
            census.append({str(name): int(number) for name, number in event["tokens"].items()})

    _handlers: dict[str, Callable[["Rights", dict[str, Any]], None]] = {
        "changed": _changed,
        "sweep": lambda self, event: self.sweep(),
        "close": _close,
        "ask": _tell_count,
        "count": _note_count,
    }

    # Expiry

    def _arm(self, connection: Connection) -> None:
        """One timer for the first end that is known beforehand."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()
        held = self._held.get(connection, {}).values()
        ends = [end for one in held for end in _expiries(one)]
        connection.deadline = None
        if ends:
            loop = self._hub.loop
            left = min(ends) - time.time()
            connection.deadline = loop.time() + left
            self._timers[connection] = loop.call_later(
                min(max(left, 0.0), MAX_TIMER), self._due, connection
            )

    def _due(self, connection: Connection) -> None:
        if connection.is_expired(self._hub.loop.time()):
            connection.close(UNAUTHORIZED, "expired")
        else:
            self._arm(connection)

    # Asking

    def _doubt(self, connections: Iterable[Connection]) -> None:
        self._doubtful.update(dict.fromkeys(connections))
        self._wake.set()

    async def _work(self, stopping: asyncio.Event) -> None:
        due = time.monotonic() + conf.RECHECK
        while not stopping.is_set():
            await self._woken(due - time.monotonic())
            if time.monotonic() >= due:
                due = time.monotonic() + conf.RECHECK
                self._doubtful.update(dict.fromkeys(self._held))
            self._note_used()
            if not await self._ask():
                await self._woken(ASK_AGAIN)
                self._wake.set()

    async def _woken(self, seconds: float) -> None:
        """Return when there is something to do, or after ``seconds``."""
        timer = self._hub.loop.call_later(max(0.0, seconds), self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()

    async def _ask(self) -> bool:
        """Close whose rights have ended; False where the database did not answer."""
        asked = [
            (connection, identity)
            for connection in self._doubtful
            for identity in self._held.get(connection, {}).values()
        ]
        self._doubtful.clear()
        if not asked:
            return True
        verdicts = await run_query(_try_to, judge, [identity for _, identity in asked])
        if isinstance(verdicts, Exception):
            self._endure(verdicts, [connection for connection, _ in asked])
            return False
        self._failing_since = None
        for (connection, identity), (flaw, fresh) in zip(asked, verdicts, strict=True):
            held = self._held.get(connection, {})
            for slot in [name for name, one in held.items() if one is identity]:
                if flaw:
                    connection.close(UNAUTHORIZED, flaw)
                else:
                    held[slot] = fresh
                    self._arm(connection)
        return True

    def _endure(self, error: Exception, connections: list[Connection]) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            logger.error("cannot ask the database who may stay: %r", error)
        if now - self._failing_since > GRACE * conf.RECHECK:
            for connection in connections:
                connection.close(FILTER_ERROR, "cannot find out whether it may stay")
        else:
            self._doubtful.update(dict.fromkeys(connections))

    def _note_used(self) -> None:
        """In a task of its own: a lock on a row of tokens must not hold up who has to go."""
        if self._used and not self._writing:
            used, self._used = self._used, set()
            task = self._hub.loop.create_task(
                self._write_used(used), name="fws-used", context=contextvars.Context()
            )
            self._writing.add(task)
            task.add_done_callback(self._written)

    async def _write_used(self, used: set[int]) -> None:
        error = await run_query(_try_to, token_model().objects.note_used, used)
        if error is not None:
            # Of no consequence for anybody who is connected.
            logger.warning("cannot write when tokens were used: %r", error)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing.discard(task)
        if self._used:
            self._wake.set()


def _try_to(call: Callable[[Any], Any], argument: Any) -> Any:
    """What ``call`` returns, or the exception that it raises: the database may be away."""
    try:
        return call(argument)
    except Exception as error:
        return error


def _keys(identity: Identity) -> list[tuple[str, str]]:
    keys = []
    if is_user(identity.user):
        keys.append(("user", str(identity.user.pk)))
    if is_token(identity.token):
        keys.append(("token", str(identity.token.pk)))
    if identity.session_key:
        # A digest, also here: events that name a session cross the layer.
        keys.append(("session", digest_of(identity.session_key)))
    return keys


def _expiries(identity: Identity) -> list[float]:
    """Seconds since the epoch."""
    ends = [identity.expires_at]
    if is_token(identity.token):
        ends.append(identity.token.expires_at)
    return [end.timestamp() for end in ends if end is not None]
