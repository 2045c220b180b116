"""
Questions that are asked of the database at the same moment, in one call for all.

::

    ask(one) ─┐
    ask(two) ─┼─ a batch ── answer([one, two, three]) in a thread ── an answer for each
    ask(three)┘

While a call runs, the next batch grows, and as long as others come: one of sixteen handshakes that
are looked up together costs a seventh of one that is looked up alone.
"""

import asyncio
import contextvars
from collections.abc import Callable, Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from .database import QueryTimer, start_query

#: How long a question waits at most for others to come, or for the call of others to end, seconds;
#: then its batch is asked beside it.
HOLD = 0.02
#: Turns of the event loop without another question, after which none is waited for: about as many
#: as a handshake takes from its socket to its question.
QUIET_TURNS = 2

#: A question, and the future of its answer: done where nobody waits for it any more.
Question = tuple[Any, "asyncio.Future[Any]"]


class Batches:
    """
    ``answer`` is called in a thread with up to ``most`` questions, and returns as many
    answers; an exception among them is raised where that answer is awaited.
    """

    def __init__(
        self, answer: Callable[[Sequence[Question]], Sequence[Any]], most: int, seconds: float
    ) -> None:
        self._answer = answer
        self._most = most
        self._seconds = seconds
        #: Loop -> what tells questions apart -> those of that kind, while there are any.
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Line]]
        self._lines = WeakKeyDictionary()

    def ask(self, question: Any, kind: Hashable) -> "asyncio.Future[Any]":
        """
        The future of an answer; TimeoutError in it where a :class:`QueryTimer` of
        ``seconds`` expires before.

        Only questions of the same ``kind`` are asked together: in the context of the first.
        """
        loop = asyncio.get_running_loop()
        lines = self._lines.get(loop)
        if lines is None:
            self._drop_closed_loops()
            lines = self._lines[loop] = {}
        line = lines.get(kind)
        if line is None:
            line = lines[kind] = _Line(loop, lambda: lines.pop(kind))
        batch = line.next
        if batch is None:
            batch = _Batch(loop, self._answer, self._seconds)
            line.begin(batch)
        future: asyncio.Future[Any] = loop.create_future()
        batch.questions.append((question, future))
        if len(batch.questions) >= self._most:
            line.start(batch)
        return future

    def _drop_closed_loops(self) -> None:
        """Those that ended while questions waited: what waits refers to its loop."""
        for reference in self._lines.keyrefs():
            loop = reference()
            if loop is not None and loop.is_closed():
                self._lines.pop(loop, None)


class _Line:
    """The batches of one loop and kind, one after another."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ended: Callable[[], object]) -> None:
        self._loop = loop
        self._on_end = ended
        #: The one that questions are added to.
        self.next: _Batch | None = None
        self._running = 0

    def begin(self, batch: "_Batch") -> None:
        self.next = batch
        if self._running:
            self._loop.call_later(HOLD, self.start, batch)
        else:
            self._loop.call_soon(self._grow, batch, 1, QUIET_TURNS)

    def _grow(self, batch: "_Batch", size: int, left: int) -> None:
        """Start ``batch`` when no more is added to it; it had ``size`` questions before."""
        if self.next is not batch:
            return  # started meanwhile
        now = len(batch.questions)
        if now > size and self._loop.time() < batch.hold_until:
            left = QUIET_TURNS
        if left:
            self._loop.call_soon(self._grow, batch, now, left - 1)
        else:
            self.start(batch)

    def start(self, batch: "_Batch") -> None:
        """Nothing more is added to ``batch``; does nothing if it has been started."""
        if self.next is batch:
            self.next = None
            self._running += 1
            batch.start(self._ended)

    def _ended(self) -> None:
        self._running -= 1
        if self._running:
            return
        if self.next is not None:
            self._grow(self.next, len(self.next.questions), QUIET_TURNS)
        else:
            self._on_end()


class _Batch:
    """Questions that are asked together."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        answer: Callable[[Sequence[Question]], Sequence[Any]],
        seconds: float,
    ) -> None:
        self.questions: list[Question] = []
        self.hold_until = loop.time() + HOLD
        self._answer = answer
        self._context = contextvars.copy_context()
        self._timer = QueryTimer(seconds, self._expire)
        self._asked: asyncio.Future[Any] | None = None

    def start(self, ended: Callable[[], object]) -> None:
        """Ask; ``ended`` is called when there are answers, or none will come."""

        def done(asked: "asyncio.Future[Any]") -> None:
            # Cancelled if it has expired before a thread began with it.
            if not asked.cancelled():
                error = asked.exception()
                self._set(asked.result() if error is None else [error] * len(self.questions))
            ended()

        try:
            self._asked = start_query(self._answer, self.questions, context=self._context)
        except RuntimeError as error:
            # No thread can be started.
            self._set([error] * len(self.questions))
            ended()
        else:
            self._asked.add_done_callback(done)

    def _expire(self) -> None:
        self._set([TimeoutError()] * len(self.questions))
        if self._asked is not None:
            self._asked.cancel()

    def _set(self, answers: Sequence[Any]) -> None:
        self._timer.cancel()
        for (_, future), answer in zip(self.questions, answers, strict=True):
            if future.done():
                continue  # cancelled by who waited, or expired
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
