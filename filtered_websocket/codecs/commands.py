"""
The commands of one frame of the Centrifuge protocol, which are all decoded before any of them
is handled::

    first_of   up to AT_ONCE
    all_of     where there may be more: other connections have their turn between
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

from .centrifuge import Format
from .schema import messages

#: So many commands of a frame are decoded without a look at the clock.
AT_ONCE = 64
#: So many commands of a frame are kept when they are decoded, as they take many times the bytes of
#: the frame. Where there are more, each is decoded again when it is handled.
MOST_DECODED = 1024
#: The fields of a command that hold a request; ``id`` is the only other one.
REQUESTS = tuple(name for name in messages()["Command"] if name != "id")

Commands = Iterator[dict[str, Any]]


class Turns(Protocol):
    """Tells when other connections have their turn: ``scheduling.Turns`` of transports."""

    @property
    def is_over(self) -> bool: ...

    async def next(self) -> None: ...


def first_of(form: Format, payload: bytes, text: bool) -> tuple[list[dict[str, Any]], Commands]:
    """The first commands of a frame, ``AT_ONCE`` at most, and the rest. Raises :exc:`.BadFrame`."""
    rest = form.decode(payload, text)
    return [*islice(rest, AT_ONCE)], rest


async def all_of(
    form: Format,
    payload: bytes,
    text: bool,
    first: list[dict[str, Any]],
    rest: Commands,
    turns: Turns,
) -> Iterable[dict[str, Any]]:
    """All commands of a frame whose first ``AT_ONCE`` are known. Raises :exc:`.BadFrame`."""
    count = AT_ONCE
    for count, command in enumerate(rest, AT_ONCE + 1):
        if count <= MOST_DECODED:
            first.append(command)
        if turns.is_over:
            await turns.next()
    return first if count <= MOST_DECODED else form.decode(payload, text)


def requests_of(command: dict[str, Any]) -> list[str]:
    """The names of its requests, of which there should be one."""
    return [name for name in REQUESTS if name in command]
