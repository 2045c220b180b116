"""A batch: messages to one group that are sent together, from their queue to the layer."""

import asyncio
from collections.abc import Sequence

from ..layer.envelope import CONTROL, Batch, Item

#: Most messages, and about the most bytes, of one batch.
MAX_BATCH = 256
MAX_BATCH_BYTES = 262_144

#: A queued message, when it was queued (monotonic clock), and the future of its publisher.
Entry = tuple[Item, float, "asyncio.Future[None] | None"]


class Sending:
    """A batch that the layer has not confirmed yet."""

    __slots__ = ("batch", "entries", "error", "group", "sends")

    def __init__(self, group: str, batch: Batch, entries: Sequence[Entry]) -> None:
        self.group = group
        self.batch = batch
        self.entries = entries
        #: Attempts so far, and the error of the last one.
        self.sends = 0
        self.error: Exception | None = None


def first_batch(waiting: list[Entry]) -> tuple[list[Entry], list[Entry]]:
    """What of ``waiting`` is sent together, and the rest."""
    if len(waiting) == 1:
        return waiting, []
    size = 0
    for count, entry in enumerate(waiting):
        if count == MAX_BATCH or size >= MAX_BATCH_BYTES:
            return waiting[:count], waiting[count:]
        size += len(entry[0].payload)
    return waiting, []


def name_of(group: str) -> str:
    """A group as an error message calls it."""
    return "the control group" if group == CONTROL else f"{group!r:.80}"
