"""What is published during a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ..codecs.frames import unpack
from ..layer.envelope import EXCLUDE, Item
from .items import captures


class Published(NamedTuple):
    """One captured publish: ``str`` for text and JSON, ``bytes`` for binary."""

    group: str
    message: str | bytes
    exclude: tuple[str, ...]


@contextmanager
def published() -> Iterator[list[Published]]:
    """
    A list of everything that is published meanwhile, by connections or other Django code.

    If nobody is connected it is only captured and not sent, as mail is in tests.
    """
    seen: list[Published] = []

    def capture(group: str, item: Item) -> None:
        message, _ = unpack(item.packed, None)
        seen.append(
            Published(
                group,
                bytes(message) if item.kind == "b" else message.decode(),
                tuple(item.meta.get(EXCLUDE, ())),
            )
        )

    captures.append(capture)
    try:
        yield seen
    finally:
        captures.remove(capture)
