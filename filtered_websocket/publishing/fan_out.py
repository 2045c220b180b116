"""
Sends one message to many members of a group: encoded once, written to each socket.

Writing never raises, never waits and never removes a member: see ``transports``.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..codecs.frames import Bundle, Frame, to_frame
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
    if len(items) == 1:
        [item] = items
        frame = Frame(item.payload, item.kind != "b", is_kept)
        write(members, frame, item.meta.get(EXCLUDE, ()))
        return
    for run in runs_of(items):
        _write_run(members, run, is_kept)


def _write_run(members: Members, items: Sequence[Item], is_kept: bool) -> None:
    contents = [(item.payload, item.kind != "b") for item in items]
    exclude = [item.meta.get(EXCLUDE, ()) for item in items]
    if len(contents) == 1:
        write(members, Frame(*contents[0], is_kept), exclude[0])
        return
    some = frozenset().union(*exclude)
    write(members, Bundle(contents, is_kept), some)
    for key in some & members.keys():
        pairs = zip(contents, exclude, strict=True)
        rest = [content for content, left_out in pairs if key not in left_out]
        if rest:
            write_all((members[key],), Bundle(rest, is_kept), NOBODY)


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
