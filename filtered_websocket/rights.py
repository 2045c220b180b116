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
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from .auth import forget_known
from .close_codes import FILTER_ERROR, UNAUTHORIZED
from .conf import conf
from .connection import Connection
from .envelope import Batch, Sequence
from .judging import is_token, is_user, judge, password_hash, token_model
from .keys import digest_of
from .queries import run_query
from .types import Identity

logger = logging.getLogger(__name__)

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
        self._held: dict[Connection, list[Identity]] = {}
        #: ("token" | "user" | "session", id) -> who rests on it.
        self._resting: dict[tuple[str, str], set[Connection]] = {}
        self._timers: dict[Connection, asyncio.TimerHandle] = {}
        self._doubtful: dict[Connection, None] = {}
        self._used: set[int] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ended: dict[tuple[str, str], str] = {}
        self._stopping = False
        self._failing_since: float | None = None
        self._sequence = Sequence()
        #: How many events were heard: who was authenticated meanwhile is asked about again.
        self.heard = 0
        #: Censuses under way: nonce -> what was told so far.
        self.censuses: dict[str, Counter[str]] = {}

    # What a hub and its connections say

    async def listening(self) -> None:
        """Return when events of the house arrive here, or the layer is away."""
        await self._hub.hear_house()

    def hold(self, connection: Connection, identity: Identity, since: int) -> None:
        """
        ``connection`` rests on ``identity`` from now on; ``since`` is what :attr:`heard`
        was before the database was asked.
        """
        if identity.session_hash is None and is_user(identity.user):
            identity = replace(identity, session_hash=password_hash(identity.user))
        self._held.setdefault(connection, []).append(identity)
        for key in _keys(identity):
            self._resting.setdefault(key, set()).add(connection)
            if key in self._ended:
                connection.close(UNAUTHORIZED, self._ended[key])
        self._arm(connection)
        if is_token(identity.token):
            self._used.add(identity.token.pk)
            self._wake.set()
        if self.heard != since:
            self._doubt([connection])
        if self._task is None:
            self._stopping = False
            self._task = self._hub.loop.create_task(
                self._work(), name="fws-rights", context=contextvars.Context()
            )

    def let_go(self, connection: Connection, token: Any) -> None:
        """``connection`` rests no more on ``token``."""
        self._forget(connection, lambda identity: is_token(token) and identity.token == token)

    def leave(self, connection: Connection) -> None:
        """``connection`` has ended."""
        self._forget(connection, lambda identity: True)

    def _forget(self, connection: Connection, is_over: Callable[[Identity], bool]) -> None:
        identities = self._held.pop(connection, [])
        kept = [identity for identity in identities if not is_over(identity)]
        for identity in identities:
            for key in _keys(identity):
                resting = self._resting.get(key, set())
                resting.discard(connection)
                if not resting:
                    self._resting.pop(key, None)
        for identity in kept:
            self._held.setdefault(connection, []).append(identity)
            for key in _keys(identity):
                self._resting.setdefault(key, set()).add(connection)
        self._arm(connection)

    def sweep(self) -> None:
        """Ask about everybody: events may have been missed."""
        self._doubt(self._held)

    def count(self) -> dict[str, int]:
        """Token id -> connections of this hub that rest on it."""
        return {name: len(who) for (kind, name), who in self._resting.items() if kind == "token"}

    async def stop(self) -> None:
        """The hub ends: write what is known of tokens' use, and end the task."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopping = True
        self._wake.set()
        if not (await asyncio.wait([task], timeout=STOP_TIMEOUT))[0]:
            task.cancel()
            await asyncio.wait([task])

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
                event = json.loads(item.payload)
                self._handlers[event["is"]](self, event)
            except (ValueError, KeyError, TypeError, RecursionError):
                self._hub.counts["bad_envelope"] += 1

    def _changed(self, event: dict[str, Any]) -> None:
        kind, name = str(event["kind"]), str(event["id"])
        if kind == "token":
            forget_known()
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
            census.update({str(name): int(number) for name, number in event["tokens"].items()})

    _handlers: dict[str, Callable[["Rights", dict[str, Any]], None]] = {
        "changed": _changed,
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
        ends = [end for one in self._held.get(connection, ()) for end in _expiries(one)]
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

    async def _work(self) -> None:
        due = time.monotonic() + conf.RECHECK
        while not self._stopping:
            await self._woken(due - time.monotonic())
            if time.monotonic() >= due:
                due = time.monotonic() + conf.RECHECK
                self._doubtful.update(dict.fromkeys(self._held))
            await self._note_used()
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
            for identity in self._held.get(connection, ())
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
            held = self._held.get(connection, [])
            if flaw and identity in held:
                connection.close(UNAUTHORIZED, flaw)
            elif fresh is not identity and identity in held:
                held[held.index(identity)] = fresh
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

    async def _note_used(self) -> None:
        used, self._used = self._used, set()
        if not used:
            return
        error = await run_query(_try_to, token_model().objects.note_used, used)
        if error is not None:
            # Of no consequence for anybody who is connected.
            logger.warning("cannot write when tokens were used: %r", error)


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
