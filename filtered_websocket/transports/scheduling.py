"""
What waits, and what has to: work for one connection, or for many at once, is split up.

To close a connection takes about 0.2 ms. Where one message takes a thousand slow readers
over their limit, closing them all at once would delay all other connections.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from ..codecs.frames import Frame
from ..logs import fields_of, get_logger

logger = get_logger(__name__)

#: A connection that has sent more than its limit, or has used its share of time, waits this
#: many iterations of the event loop: a message of another client takes about as many from
#: its socket through the layer to all members.
YIELD_ITERATIONS = 16
#: And no more than this many, however short they are.
MAX_ITERATIONS = 160
#: How long bytes and messages of one connection are handled before others are served, seconds.
TURN = 0.00015
#: Messages of one that nobody else waits for are handled longer: of a client that publishes,
#: more leave in one write to each member. But who comes next waits for the end of that, so it is
#: one part in so many of the time since anybody else came, and no more than this, seconds.
QUIET_PARTS, LONGEST_TURN = 200, 0.0005
#: Who has come within this time may come again: what somebody floods waits for them for ``REST``
#: at least after each turn. Their message is back from Redis by then, seconds.
LATELY, REST = TURN * QUIET_PARTS, 2 * TURN
#: So many bytes are parsed without a look at the clock.
SLICE = 4096
#: How many functions are called together, and the seconds until the next ones.
BATCH_SIZE, BATCH_INTERVAL = 4, 0.004

#: A frame, or None for the close frame; and the future of who awaits it.
Waiting = deque[tuple[Frame | None, "asyncio.Future[None] | None"]]
#: For all that have nothing to send: an empty deque takes 0.6 KiB. Never changed.
NONE_WAITING: Waiting = deque(maxlen=0)


async def serve_others() -> None:
    """Return when other connections have had their turn."""
    began = time.perf_counter()
    rest = REST if began - served.since < LATELY else 0.0
    for number in range(MAX_ITERATIONS):
        # Where nobody comes, the first ones are over before Redis has answered; a timer takes
        # 1 ms or more.
        if number >= YIELD_ITERATIONS and time.perf_counter() - began >= rest:
            return
        await asyncio.sleep(0)


class Served:
    """
    Who was served last in this process, and since when nobody else was: by that, a turn is long
    or short. All event loops of a process share one: its threads wait for one another, too.
    """

    __slots__ = ("last", "since")

    def __init__(self) -> None:
        #: The id of a connection; None is what came for none of them, from another process, say.
        self.last: str | None = None
        #: By ``time.perf_counter``.
        self.since = 0.0

    def turn_of(self, connection: str, now: float) -> float:
        """
        How long messages of ``connection``, which is served now, are handled at once, seconds:
        ``TURN`` when others were served within the last 30 ms, and never more than
        ``LONGEST_TURN``.
        """
        if self.last is not connection:
            self.last, self.since = connection, now
        return min(LONGEST_TURN, max(TURN, (now - self.since) / QUIET_PARTS))


#: The only one.
served = Served()


class Turns:
    """Work for one connection in many steps: after each of its turns the others are served."""

    __slots__ = ("_began", "_connection")

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self._began = time.perf_counter()

    @property
    def is_over(self) -> bool:
        """Whether others have their turn before the next step."""
        now = time.perf_counter()
        worked = now - self._began
        return worked >= TURN and worked >= served.turn_of(self._connection, now)

    async def next(self) -> None:
        """Return when the others have had their turn."""
        await serve_others()
        self._began = time.perf_counter()


Calls = deque[Callable[[], None]]
_waiting: "WeakKeyDictionary[asyncio.AbstractEventLoop, Calls]" = WeakKeyDictionary()


def call_in_batches(function: Callable[[], None]) -> None:
    """Call ``function()`` soon, in order, a few at a time. It must not raise."""
    loop = asyncio.get_running_loop()
    waiting = _waiting.setdefault(loop, deque())
    waiting.append(function)
    if len(waiting) == 1:
        loop.call_soon(_call_batch, loop, waiting)


def _call_batch(loop: asyncio.AbstractEventLoop, waiting: Calls) -> None:
    for _ in range(min(BATCH_SIZE, len(waiting))):
        waiting[0]()
        # Removed after the call: what it adds must not start a second batch.
        waiting.popleft()
    if waiting:
        loop.call_later(BATCH_INTERVAL, _call_batch, loop, waiting)


def told_of(on_end: object) -> dict[str, Any]:
    """``extra`` of a line about a connection, of which whoever is called at its end knows."""
    return fields_of(getattr(on_end, "__self__", None))


def settle(done: "asyncio.Future[None] | None") -> None:
    """Resolve ``done``, unless it is resolved or cancelled."""
    if done is not None and not done.done():
        done.set_result(None)


# Methods of uvicorn's protocol where the package reads its short frames: what is left to its
# own class is parsed in turns.


def is_between_frames(protocol: Any) -> bool:
    """Whether websockets' parser waits for the first byte of a frame."""
    step = protocol.conn.parser
    while step.gi_yieldfrom is not None:
        step = step.gi_yieldfrom
    is_between: bool = step.gi_code is protocol.waits_for_more
    return is_between


def _parse(protocol: Any, data: bytes) -> bool:
    """Have uvicorn's own class parse ``data``. Returns False where all that follows is ignored."""
    base: Any = type(protocol).__base__
    try:
        base.data_received(protocol, data)
    except Exception as error:
        # As asyncio does where a read fails: a wrong text and a close frame that come together
        # are too much for uvicorn. Else the connection would never be read again, or ended.
        told = told_of(protocol.on_end)
        logger.warning(
            "closed a connection: uvicorn cannot parse what it received (%r)", error, extra=told
        )
        protocol.transport.abort()
        return False
    failed: bool = protocol.conn.parser_exc is not None
    return not failed


def parse_in_turns(protocol: Any, data: bytes) -> bool:
    """
    Have uvicorn's own class parse ``data`` for ``TURN`` seconds, and the rest later: the
    socket is not read meanwhile. Returns whether all is parsed.
    """
    began = time.perf_counter()
    for at in range(0, max(1, len(data)), SLICE):
        if at and time.perf_counter() - began >= TURN:
            protocol.unparsed = data[at:]
            if not protocol.read_paused:
                protocol.transport.pause_reading()
            # Else it would be resumed as soon as the queue is empty.
            protocol.read_paused = False
            asyncio.get_running_loop().call_soon(_parse_on, protocol, YIELD_ITERATIONS)
            return False
        if not _parse(protocol, data[at : at + SLICE]):
            break
    protocol.unparsed = b""
    return True


def _parse_on(protocol: Any, iterations: int) -> None:
    """Parse more, ``iterations`` of the event loop later: others come first."""
    if iterations:
        asyncio.get_running_loop().call_soon(_parse_on, protocol, iterations - 1)
    elif protocol.transport.is_closing():
        pass  # ``parse_rest`` will; and under TLS it may raise to pause or to resume
    elif protocol.unparsed and parse_in_turns(protocol, protocol.unparsed):
        # It is resumed when the last message was taken. After our close frame nobody takes
        # messages, and the client's answer has to be read.
        protocol.read_paused = not (protocol.close_sent or protocol.queue.empty())
        if not protocol.read_paused:
            protocol.transport.resume_reading()


def parse_rest(protocol: Any, error: Exception | None) -> None:
    """``connection_lost``: what came before the end is not lost."""
    base: Any = type(protocol).__base__
    protocol.read_paused = True  # there is nothing to pause any more
    kept, size = protocol.conn.reader.buffer, 0
    while not protocol.unparsed and size != len(kept):
        # Short frames, a number of them each time.
        size = len(kept)
        protocol.data_received(b"")
    unparsed, protocol.unparsed = protocol.unparsed, b""
    if unparsed:
        _parse(protocol, unparsed)
    base.connection_lost(protocol, error)


def untranslated(code: int, reason: str) -> tuple[int, str]:
    """The close that clients are sent whose protocol has no codes of its own."""
    return code, reason


def nothing(*args: object) -> None:
    """What is called where nobody wants to know."""
