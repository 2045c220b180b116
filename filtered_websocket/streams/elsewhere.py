"""
Commands to the streams of other processes, by control events.

::

    POST /emulation -> this process -- control event --> all; the one that has the stream
                          '<---- what came of it ----------'

Versions without streams take both events for answers that nobody waits for.
"""

import asyncio
import base64
import os
import secrets
from collections import Counter
from collections.abc import Mapping
from threading import Lock
from typing import Any

from ..conf import conf
from ..hub.hub import Hub
from ..hub.registry import Answer, process_uid, told
from ..publish import any_hub, is_shared
from . import sessions

#: Too many commands wait for answers of other processes, one does not answer, or the channel layer
#: is away: another try may help.
BUSY = "busy"
#: So many, and so many bytes, wait at once; of one session, or one address, no more than this.
MOST, MOST_BYTES, MOST_OF_ONE = 256, 16_777_216, 32
#: So many sessions are remembered that have ended, and so many processes that did not answer.
MOST_ENDED, MOST_SILENT = 1024, 256
#: A process that did not answer is asked once in so many seconds; silent for longer, it has ended.
PAUSE, SILENT = 2.0, 30.0
#: Keys of a control event: a command, and what came of it.
COMMAND, OUTCOME = "stream", "streamed"


class Waiting:
    """What waits for answers of other processes. Any thread: each event loop has commands."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Nothing waits, and nothing is known."""
        self._lock = Lock()
        self._size = 0
        #: Sessions and addresses. An address is no session's id, which is longer.
        self._counts: Counter[str] = Counter()
        self._count = 0
        self._ended: dict[str, None] = {}
        #: Process -> since when it does not answer, and when it may be asked again.
        self._silent: dict[str, tuple[float, float]] = {}

    def take(self, session: str, address: str, size: int) -> bool:
        """A command with so many bytes waits from now on; False if it may not."""
        with self._lock:
            if (
                self._count >= MOST
                or self._size + size > MOST_BYTES
                or max(self._counts[session], self._counts[address]) >= MOST_OF_ONE
            ):
                self._drop(session, address)
                return False
            self._note(session, address, size, 1)
            return True

    def give_back(self, session: str, address: str, size: int) -> None:
        """It waits no more."""
        with self._lock:
            self._note(session, address, size, -1)
            self._drop(session, address)

    def _note(self, session: str, address: str, size: int, count: int) -> None:
        self._count += count
        self._size += count * size
        self._counts[session] += count
        if address:  # a Unix socket has none
            self._counts[address] += count

    def _drop(self, *keys: str) -> None:
        for key in keys:
            if not self._counts[key]:
                del self._counts[key]

    def has_ended(self, session: str) -> bool:
        """Whether its process has said that it has ended."""
        return session in self._ended

    def end(self, session: str) -> None:
        """Its process has said so."""
        with self._lock:
            self._ended[session] = None
            if len(self._ended) > MOST_ENDED:
                del self._ended[next(iter(self._ended))]

    def problem(self, node: str, now: float) -> str | None:
        """Why a process is not asked: what came of the command; None if it is."""
        with self._lock:
            since, again = self._silent.get(node, (now, now))
            if now < again:
                return sessions.UNKNOWN if now - since > SILENT else BUSY
            if node in self._silent:  # by one command; others do not wait for the same
                self._silent[node] = since, now + PAUSE
            return None

    def no_answer(self, node: str, now: float) -> str:
        """A process did not answer: what came of the command."""
        with self._lock:
            since, _ = self._silent.get(node, (now, now))
            self._silent[node] = since, now + PAUSE
            if len(self._silent) > MOST_SILENT:
                del self._silent[next(iter(self._silent))]
            return sessions.UNKNOWN if now - since > SILENT else BUSY

    def answers(self, node: str) -> None:
        """A process has answered."""
        with self._lock:
            self._silent.pop(node, None)


waiting = Waiting()
# After a fork it is the parent's. Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=waiting.clear)


class Outcome:
    """Is told what came of one command."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.told: asyncio.Future[str] = loop.create_future()

    def append(self, answer: Answer) -> None:
        """As a list of answers."""
        outcome = answer.event.get(OUTCOME)
        if not self.told.done() and isinstance(outcome, str):
            self.told.set_result(outcome)


async def hand_over(
    session: str,
    node: str,
    command: bytes | str,
    cookie: str,
    user: str | None,
    address: str = "",
) -> str:
    """
    As :func:`.sessions.hand_over`, for a stream of another process; or ``BUSY``. ``address`` is
    that of the client.
    """
    if not (is_shared() and sessions.is_genuine(session, node)) or waiting.has_ended(session):
        return sessions.UNKNOWN
    if not waiting.take(session, address, len(command)):
        return BUSY
    try:
        if problem := waiting.problem(node, asyncio.get_running_loop().time()):
            return problem
        return await _asked(session, node, command, cookie, user)
    finally:
        waiting.give_back(session, address, len(command))


async def _asked(
    session: str, node: str, command: bytes | str, cookie: str, user: str | None
) -> str:
    event: dict[str, Any] = {"node": node, "session": session, "cookie": cookie}
    if isinstance(command, str):
        event["text"] = command
    else:
        event["bytes"] = base64.b64encode(command).decode()
    if user is not None:
        event["user"] = user
    hub = any_hub()
    asking = _ask(hub, event)
    if hub.loop is asyncio.get_running_loop():
        outcome = await asking
    else:
        outcome = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asking, hub.loop))
    if outcome is None:
        return waiting.no_answer(node, asyncio.get_running_loop().time())
    if outcome != BUSY:
        waiting.answers(node)
    if outcome == sessions.UNKNOWN:
        waiting.end(session)
    return outcome


async def _ask(hub: Hub, event: dict[str, Any]) -> str | None:
    """What came of it; None if the process does not answer."""
    await hub.grants.receiving()
    nonce, outcome = secrets.token_hex(8), Outcome(hub.loop)
    asked: dict[str, Any] = hub.grants.counts_asked
    asked[nonce] = outcome
    try:
        hub.send_control({**_answer(nonce), COMMAND: event})
        await asyncio.wait([outcome.told], timeout=conf.LAYER_TIMEOUT)
        if outcome.told.done():
            return outcome.told.result()
        return BUSY if hub.layer_is_lost else None
    finally:
        del asked[nonce]


def _answer(nonce: str) -> dict[str, Any]:
    """What earlier versions take these events for."""
    return {"is": "count", "nonce": nonce, "tokens": {}}


def receive(hub: Hub, event: dict[str, Any]) -> None:
    """Another process has a command for a stream. ValueError and the like for what none sends."""
    asked: Mapping[str, Any] = event[COMMAND]
    if asked["node"] != process_uid():
        return
    stream = sessions.find(asked["session"])
    if stream is not None and stream.loop is not hub.loop:
        return  # another event loop of this process has it
    outcome = sessions.UNKNOWN
    if stream is not None:
        command: Any = asked.get("text")
        if command is None:
            command = base64.b64decode(asked["bytes"], validate=True)
        outcome = sessions.hand_over(stream, command, str(asked["cookie"]), asked.get("user"))
    hub.send_control({**_answer(str(event["nonce"])), OUTCOME: outcome})


told[COMMAND] = receive
