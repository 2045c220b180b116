"""
Sends one message to many members of a group: encoded once, written to each socket.

Writing never raises, never waits and never removes a member: see ``transports``.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..codecs.frames import Bundle, Frame, Joined, to_frame
from ..conf import conf
from ..layer.envelope import EXCLUDE, Item
from ..transports import AsgiTransport, write_all
from ..types import Codec

#: Id of a connection -> its transport. Not the connection, which a message to thousands would
#: have to be looked up in.
Members = dict[str, AsgiTransport]
#: No transport is left out.
NOBODY: frozenset[AsgiTransport] = frozenset()
#: What has a payload.
Piece = TypeVar("Piece", Item, Frame)
#: About the most bytes of messages that are written at once.
MAX_RUN = 65_536


def make_frame(
    message: Any, codec: Codec | None, meta: Mapping[str, Any], text: bool | None
) -> Frame:
    """
    The frame that every member gets.

    :exc:`ValueError` for one over ``MAX_MESSAGE_SIZE``: sending it could make the server
    end the connection of every member.
    """
    frame = to_frame(message, codec, meta, text)
    if frame.longest > MAX_RUN and frame.longest > conf.MAX_MESSAGE_SIZE:
        raise ValueError(
            f"a message to a group has grown to {frame.longest} bytes:"
            f" MAX_MESSAGE_SIZE is {conf.MAX_MESSAGE_SIZE}"
        )
    return frame


def write(members: Members, frame: Frame | Bundle, exclude: Collection[str]) -> None:
    """Write one frame to all members but those whose ids are in ``exclude``."""
    write_all(members.values(), frame, {members[key] for key in exclude if key in members})


def write_items(members: Members, items: Sequence[Item], is_kept: bool = False) -> None:
    """
    Write messages for which there is neither a group chain nor a codec: one write per
    member, not one per message. ``is_kept`` is that of :class:`Frame`.
    """

    def make(run: Sequence[Item]) -> Frame | Bundle:
        if len(run) == 1:
            return Frame(run[0].payload, run[0].kind != "b", is_kept)
        return Bundle([(item.payload, item.kind != "b") for item in run], is_kept)

    if len(items) == 1:
        write(members, make(items), items[0].meta.get(EXCLUDE, ()))
        return
    for run in runs_of(items):
        _write_run(members, run, run, make)


def write_frames(members: Members, frames: Sequence[Frame], items: Sequence[Item]) -> None:
    """The same of messages that are encoded already: the frame of each of the items."""
    if len(frames) == 1:
        write(members, frames[0], items[0].meta.get(EXCLUDE, ()))
        return
    left = iter(items)
    for run in runs_of(frames):
        _write_run(members, run, [next(left) for _ in run], _joined)


def _joined(frames: Sequence[Frame]) -> Frame | Bundle:
    return frames[0] if len(frames) == 1 else Joined(frames)


def _write_run(
    members: Members,
    pieces: Sequence[Piece],
    items: Sequence[Item],
    make: Callable[[Sequence[Piece]], Frame | Bundle],
) -> None:
    """Write to each member, at once, those of the pieces whose items do not leave it out."""
    exclude = [item.meta.get(EXCLUDE, ()) for item in items]
    some = frozenset().union(*exclude)
    write(members, make(pieces), some)
    for key in some & members.keys():
        pairs = zip(pieces, exclude, strict=True)
        rest = [piece for piece, left_out in pairs if key not in left_out]
        if rest:
            write_all((members[key],), make(rest), NOBODY)


def runs_of(items: Iterable[Piece]) -> Iterator[list[Piece]]:
    """``items`` in order, in lists of about ``MAX_RUN`` bytes, each written at once."""
    run: list[Piece] = []
    size = 0
    for item in items:
        if run and size + len(item.payload) > MAX_RUN:
            yield run
            run, size = [], 0
        run.append(item)
        size += len(item.payload)
    if run:
        yield run
