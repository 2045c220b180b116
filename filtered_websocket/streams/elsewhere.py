"""
Commands to the streams of other processes, by control events.

::

    POST /emulation -> this process -- control event --> all; the one that has the stream
                          '<---- what came of it ----------'

Versions without streams take both events for answers that nobody waits for.
"""

import asyncio
import base64
import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..conf import conf
from ..hub.hub import Hub
from ..hub.registry import Answer, process_uid, told
from ..publish import any_hub, is_shared
from . import sessions

#: Too many commands wait for answers of other processes, or the channel layer is away.
BUSY = "busy"
#: So many, and so many bytes, wait at once; of one session no more than this.
MOST, MOST_BYTES, MOST_OF_ONE = 256, 16_777_216, 64
#: So many sessions are remembered whose process did not answer: they have ended.
MOST_ENDED = 1024
#: Keys of a control event: a command, and what came of it.
COMMAND, OUTCOME = "stream", "streamed"


class Waiting:
    """What waits for answers of other processes."""

    def __init__(self) -> None:
        self._size = 0
        self._sessions: Counter[str] = Counter()
        self._ended: dict[str, None] = {}

    def admits(self, session: str, size: int) -> bool:
        """Whether a command with so many bytes may wait, too."""
        return (
            self._sessions.total() < MOST
            and self._sessions[session] < MOST_OF_ONE
            and self._size + size <= MOST_BYTES
        )

    def note(self, session: str, size: int, count: int = 1) -> None:
        """A command waits from now on; with a ``count`` of -1, no more."""
        self._size += count * size
        self._sessions[session] += count
        self._sessions += Counter()  # those of which nothing waits

    def has_ended(self, session: str) -> bool:
        """Whether nobody has it any more."""
        return session in self._ended

    def end(self, session: str) -> None:
        """Nobody has it."""
        self._ended[session] = None
        if len(self._ended) > MOST_ENDED:
            del self._ended[next(iter(self._ended))]


waiting = Waiting()


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
    session: str, node: str, command: bytes | str, cookie: str, user: str | None
) -> str:
    """As :func:`.sessions.hand_over`, for a stream of another process; or ``BUSY``."""
    if not (is_shared() and sessions.is_genuine(session, node)) or waiting.has_ended(session):
        return sessions.UNKNOWN
    if not waiting.admits(session, len(command)):
        return BUSY
    event: dict[str, Any] = {"node": node, "session": session, "cookie": cookie}
    if isinstance(command, str):
        event["text"] = command
    else:
        event["bytes"] = base64.b64encode(command).decode()
    if user is not None:
        event["user"] = user
    waiting.note(session, len(command))
    try:
        hub = any_hub()
        asking = _ask(hub, event)
        if hub.loop is asyncio.get_running_loop():
            outcome = await asking
        else:
            elsewhere = asyncio.run_coroutine_threadsafe(asking, hub.loop)
            outcome = await asyncio.wrap_future(elsewhere)
    finally:
        waiting.note(session, len(command), -1)
    if outcome == sessions.UNKNOWN:
        waiting.end(session)
    return outcome


async def _ask(hub: Hub, event: dict[str, Any]) -> str:
    await hub.grants.receiving()
    nonce, outcome = secrets.token_hex(8), Outcome(hub.loop)
    asked: dict[str, Any] = hub.grants.counts_asked
    asked[nonce] = outcome
    try:
        hub.send_control({**_answer(nonce), COMMAND: event})
        async with asyncio.timeout(conf.LAYER_TIMEOUT):
            return await outcome.told
    except TimeoutError:
        return BUSY if hub.layer_is_lost else sessions.UNKNOWN
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
