"""What is published: a message encoded for the channel layer."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from ..codecs.frames import pack
from ..conf import conf
from ..exceptions import PublishError
from ..layer.envelope import EXCLUDE, INFO, Item

#: Called with group and item of every publish, while a test captures them.
captures: list[Callable[[str, Item], None]] = []

_ids = itertools.count(1)


def new_item(
    message: Any,
    *,
    sender: str = "",
    exclude: Iterable[str] = (),
    text: bool | None = None,
    info: str = "",
) -> Item:
    """
    ``message`` encoded for the layer; ``text`` says whether bytes are sent as text, ``info``
    who published, for protocols.

    Raises :exc:`PublishError` if it cannot be encoded, or is over ``MAX_MESSAGE_SIZE`` then.
    """
    try:
        kind, payload = pack(message, text)
    except (TypeError, ValueError, RecursionError) as error:
        raise PublishError(f"cannot publish this message: {error}") from error
    if len(payload) > conf.MAX_MESSAGE_SIZE:
        raise PublishError(
            f"cannot publish {len(payload)} bytes: MAX_MESSAGE_SIZE is {conf.MAX_MESSAGE_SIZE}"
        )
    left_out = list(exclude)
    meta: dict[str, Any] = {EXCLUDE: left_out} if left_out else {}
    if info:
        meta[INFO] = info
    return Item(next(_ids), kind, sender, payload, meta)
