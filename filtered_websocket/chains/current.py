"""``current``: what is known about the group message whose chains run now."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple

from ..codecs.frames import Frame
from ..history.base import Position
from ..layer.envelope import EVENT, EXCLUDE


class About(NamedTuple):
    """What a group message has besides its data."""

    group: str
    sender: str
    meta: Mapping[str, Any]
    #: Its place in the history of the group, if that has one.
    position: Position | None = None

    def keep(self, frame: Frame) -> Frame:
        """``frame`` of this message, which is never left out where it has a position."""
        frame.is_kept = self.position is not None
        return frame


def nth(first: Position | None, number: int) -> Position | None:
    """The place of the ``number``-th message after the first, if they have any."""
    return None if first is None else Position(first.epoch, first.offset + number)


#: Of the group message whose group or send chain runs now; kept in threads.
about_event: ContextVar[About | None] = ContextVar("fws_about_event", default=None)


class Current:
    """
    The group message whose group or send chain runs now, in threads of its filters too.
    Everywhere else its attributes are None.
    """

    __slots__ = ()

    @property
    def group(self) -> str | None:
        """The name of the group."""
        about = about_event.get()
        return None if about is None else about.group

    @property
    def sender(self) -> str | None:
        """The id of the connection that published it; None if no connection did."""
        about = about_event.get()
        return None if about is None else about.sender or None

    @property
    def exclude(self) -> tuple[str, ...] | None:
        """The ids of the connections that do not get it."""
        about = about_event.get()
        return None if about is None else tuple(about.meta.get(EXCLUDE, ()))

    @property
    def event(self) -> str | None:
        """The name of its event, if it was published with one."""
        about = about_event.get()
        return None if about is None else about.meta.get(EVENT)

    @property
    def position(self) -> Position | None:
        """Its place in the history of the group; None where the group has none."""
        about = about_event.get()
        return None if about is None else about.position


current = Current()
