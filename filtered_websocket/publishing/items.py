"""What is published: a message encoded for the channel layer; and what tests capture of it."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..codecs.frames import Encoded, dump_json, pack, unpack
from ..conf import conf
from ..exceptions import PublishError
from ..layer.envelope import EVENT, EXCLUDE, INFO, Item

#: Called with group and item of every publish, while a test captures them.
captures: list[Callable[[str, Item], None]] = []
#: ``meta`` key: the id of what a tee has seen it come from; only while one is on.
TRAIL = "w"
#: Called with the ``meta`` of each new message, to put something there. Empty at rest.
carriers: list[Callable[[dict[str, Any]], None]] = []
#: Called with group and item of what a hub publishes, on its event loop. Empty at rest.
on_publish: list[Callable[[str, Item], None]] = []

_ids = itertools.count(1)

#: The longest name of an event, in characters.
MAX_EVENT = 200
#: How names begin that clients of Pusher take for those of the protocol, or of other clients.
NOT_OF_SITES = ("pusher:", "pusher_internal:", "client-")


def new_item(
    message: Any,
    *,
    sender: str = "",
    exclude: Iterable[str] = (),
    text: bool | None = None,
    meta: Mapping[str, Any] | None = None,
) -> Item:
    """
    ``message`` encoded for the layer; ``text`` says whether bytes are sent as text, ``meta``
    what protocols tell of it besides.

    Raises :exc:`PublishError` if it cannot be encoded, or is over ``MAX_MESSAGE_SIZE`` then.
    """
    try:
        kind, payload = pack(message, text)
    except (TypeError, ValueError, RecursionError) as error:
        raise PublishError(f"cannot publish this message: {error}") from error
    _check_size(payload)
    left_out = list(exclude)
    about: dict[str, Any] = {EXCLUDE: left_out} if left_out else {}
    if meta:
        about |= meta
    for carry in carriers:
        carry(about)
    return Item(next(_ids), kind, sender, payload, about)


def with_event(event: str, meta: Mapping[str, Any] | None = None) -> Mapping[str, Any] | None:
    """``meta`` with the name of an event, if there is one. PublishError for what is no name."""
    if event == "":
        return meta
    if not isinstance(event, str) or len(event) > MAX_EVENT or event.startswith(NOT_OF_SITES):
        words = ", ".join(map(repr, NOT_OF_SITES))
        raise PublishError(
            f"event is a text of up to {MAX_EVENT} characters that does not begin with {words},"
            f" not {event!r:.80}"
        )
    return {**(meta or {}), EVENT: event}


def encoded_item(message: Encoded, sender: str, info: str) -> Item:
    """:func:`new_item` of what is encoded already, for all members."""
    kind, payload = message
    _check_size(payload)
    meta: dict[str, Any] = {INFO: info} if info else {}
    for carry in carriers:
        carry(meta)
    return Item(next(_ids), kind, sender, payload, meta)


def control_item(event: Mapping[str, Any]) -> Item:
    """
    A control event encoded for the layer, of any length: ``MAX_MESSAGE_SIZE`` is that of what
    clients are sent. TypeError or ValueError if it cannot be encoded.
    """
    return Item(next(_ids), "j", "", dump_json(event).encode(), {})


def _check_size(payload: bytes) -> None:
    if len(payload) > conf.MAX_MESSAGE_SIZE:
        raise PublishError(
            f"cannot publish {len(payload)} bytes: MAX_MESSAGE_SIZE is {conf.MAX_MESSAGE_SIZE}"
        )


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
