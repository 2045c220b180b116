"""
Links the hubs of one process, where no channel layer leads to others: without one, and with
Channels' in-memory layer.

A batch is handed to each hub that has joined its group. The in-memory layer itself looks
through all groups of the process at every send, and does not wake another event loop.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from .envelope import Batch

#: Group key -> the links of the hubs that have joined it; replaced, never changed.
_joined: "dict[str, tuple[ProcessLink, ...]]" = {}
_lock = threading.Lock()


def hand_over(batch: Batch) -> None:
    """Hand ``batch`` to the hubs that have joined its group. Any thread."""
    for link in _joined.get(batch.key, ()):
        link.take_soon(batch)


class ProcessLink:
    """
    Each hub gets the batches of a group in the order in which one hub sends them; none is
    lost or repeated. Belongs to the event loop that makes it.
    """

    #: Batches need not be checked for repetitions and losses.
    is_lossless = True
    is_available = True

    def __init__(self, on_batch: Callable[[Batch], None]) -> None:
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._keys: set[str] = set()

    def start(self) -> None:
        """It receives what it has joined."""

    def want(self, key: str) -> None:
        """Join a group, at once."""
        self._keys.add(key)
        with _lock:
            links = _joined.get(key, ())
            if self not in links:
                _joined[key] = (*links, self)

    def unwant(self, key: str) -> None:
        """Leave a group, at once."""
        self._keys.discard(key)
        with _lock:
            links = tuple(link for link in _joined.get(key, ()) if link is not self)
            if links:
                _joined[key] = links
            else:
                _joined.pop(key, None)

    def is_joined(self, key: str) -> bool:
        return key in self._keys

    async def wait_joined(self, key: str) -> bool:
        return key in self._keys

    def post(self, batch: Batch, on_sent: Callable[[Exception | None], object]) -> None:
        """Hand ``batch`` to the hubs; ``on_sent(None)`` before it returns."""
        for link in _joined.get(batch.key, ()):
            if link is self:
                self._on_batch(batch)
            else:
                link.take_soon(batch)
        on_sent(None)

    def take_soon(self, batch: Batch) -> None:
        """Receive ``batch`` in the next turn of the event loop. Any thread."""
        try:
            context = contextvars.Context()
            self._loop.call_soon_threadsafe(self._receive, batch, context=context)
        except RuntimeError:
            # Its event loop was closed, and its hub did not stop.
            self._leave_all()

    def _receive(self, batch: Batch) -> None:
        if batch.key in self._keys:
            self._on_batch(batch)

    async def send(self, batch: Batch) -> None:
        """:meth:`post`."""
        self.post(batch, lambda error: None)

    async def send_envelope(self, key: str, envelope: dict[str, Any]) -> None:
        """Nobody calls it: what is no batch goes from hub to hub by other ways."""

    async def wait_available(self, deadline: float) -> bool:
        return True

    def note_lost(self, error: Exception) -> None:
        """There is no outage inside a process."""

    async def round_trip(self) -> bool:
        return True

    async def stop(self) -> None:
        """Leave all groups."""
        self._leave_all()

    def _leave_all(self) -> None:
        for key in tuple(self._keys):
            self.unwant(key)
