"""
What a tee shows: of an event, what each filter got and made of it; payloads cut to size and
without secrets.
"""

import codecs
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..auth.keys import hide_secrets
from ..chains.current import About
from ..codecs.frames import BYTES, Encoded, dump_json, text_event
from ..connections.connection import Connection
from ..connections.handshake import Handshake
from ..connections.subscription import Subscription
from ..exceptions import Close, Drop, FilterError, NotAllowed
from ..hub.registry import hubs
from ..layer.envelope import EXCLUDE, Item
from ..logs import printable
from ..observe import WatchedChain, clock
from ..pipelines.route import name_of
from ..types import Call

#: So much more than is shown is looked through for secrets, bytes or characters.
MARGIN = 1024
#: Where a text was cut, its end may be a part of a secret that has lost its form.
_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.=:~+/"
#: Shorter values of cookies are no secrets, and occur anywhere.
SHORTEST_COOKIE = 8
#: Of a record that is too long, no more than this is shown of each payload, characters.
SHORT = 256
#: The longest words about an error.
MAX_WHY = 256


class Shown(NamedTuple):
    """How one tee shows payloads."""

    #: How much of one, in characters.
    size: int
    #: Whether at all.
    payloads: bool

    def payload(self, data: Any, secrets: Iterable[str] = ()) -> dict[str, Any]:
        """
        Kind and size of ``data``; with ``payloads`` also the text, without secrets and without
        ``secrets``.
        """
        limit = self.size + MARGIN if self.payloads else 0
        kind, size, text = _look(data, limit)
        if not self.payloads or text is None:
            return {"kind": kind, "size": size}
        was_cut = len(text) > self.size
        text = hide_secrets(text[:limit], secrets)
        if was_cut:
            text = text[: self.size + 1].rstrip(_WORD)
        shown = {"kind": kind, "size": size, "text": text[: self.size]}
        return {**shown, "cut": True} if was_cut else shown

    def end(
        self, error: BaseException | None, secrets: Iterable[str] = ()
    ) -> dict[str, Any] | None:
        """How an event ended that did not pass through; the words of an error are payload."""
        if error is None:
            return None
        cause = error.__cause__ if isinstance(error, FilterError) and error.__cause__ else error
        if isinstance(cause, Close):
            return {"how": "close", "code": cause.code, "why": self._words(cause.reason, secrets)}
        if isinstance(cause, NotAllowed):
            return {"how": "not allowed", "why": self._words(str(cause), secrets)}
        if isinstance(cause, Drop):
            return {"how": "drop", "why": self._words(str(cause), secrets)}
        return {
            "how": "error",
            "class": type(cause).__name__,
            "why": self._words(str(cause), secrets),
        }

    def _words(self, text: str, secrets: Iterable[str]) -> str:
        if not self.payloads:
            return ""
        return printable(hide_secrets(text[: MAX_WHY + MARGIN], secrets))[:MAX_WHY]


def secrets_of(instance: Any) -> tuple[str, ...]:
    """The values of a connection's cookies."""
    if not isinstance(instance, Connection):
        return ()
    headers = (value for name, value in instance.scope.get("headers", ()) if name == b"cookie")
    pairs = (pair.partition(b"=") for header in headers for pair in header.split(b";"))
    values = (value.strip().strip(b'"').decode("latin-1") for _, _, value in pairs)
    return tuple(value for value in values if len(value) >= SHORTEST_COOKIE)


def secrets_of_sender(key: str) -> tuple[str, ...]:
    """The same of the connection that published something, if it is one of this process."""
    found = (hub.connections.get(key) for hub in tuple(hubs.values()))
    return next((secrets_of(one) for one in found if one is not None), ())


def _look(data: Any, limit: int) -> tuple[str, int | None, str | None]:
    """Kind, size in bytes and the first ``limit`` characters of ``data``, and maybe more."""
    if data is None:
        return "none", 0, None
    if isinstance(data, Encoded):
        if data.kind == "b":
            return _bytes(data.payload, limit, text=False)
        _, size, text = _bytes(data.payload, limit, text=True)
        return "json" if data.kind == "j" else "text", size, text
    if isinstance(data, BYTES):
        return _bytes(data, limit, text_event.get())
    if isinstance(data, str):
        return "text", len(data.encode("utf-8", "surrogatepass")), printable_text(data[:limit])
    return _object(data, limit)


def _bytes(data: Any, limit: int, text: bool | None) -> tuple[str, int, str]:
    # A character has four bytes at most, and the last one may be cut.
    some = bytes(data[: 4 * limit])
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoded = decoder.decode(some, final=len(data) <= len(some))
    except UnicodeDecodeError:
        return "binary", len(data), printable(some)
    return "binary" if text is False else "text", len(data), printable_text(decoded[:limit])


def _object(data: Any, limit: int) -> tuple[str, int | None, str | None]:
    if not limit:
        return "object", None, None
    if isinstance(data, Handshake):
        query = f"?{data.query_string}" if data.query_string else ""
        offered = f"  subprotocols: {', '.join(data.subprotocols)}" if data.subprotocols else ""
        return "handshake", None, printable(f"{data.path}{query}{offered}")
    if isinstance(data, Call):
        data = {"method": data.method, "data": data.data}
    elif isinstance(data, Subscription):
        names = "group", "captured", "data", "info", "reply"
        data = {name: getattr(data, name) for name in names}
    try:
        text = dump_json(data)
        return "json", len(text.encode("utf-8", "surrogatepass")), printable_text(text)
    except Exception:
        return "object", None, _name_of(data)


def _name_of(data: Any) -> str:
    """The repr of an object of a site, which may do anything."""
    try:
        return printable(repr(data))
    except Exception:
        return f"<{type(data).__name__}>"


def printable_text(text: str) -> str:
    """``text`` with line ends and tabs, and without other characters that control a terminal."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else printable(char) for char in text
    )


def count_members(view: Any, about: About) -> int:
    """How many connections of one pipeline get a group message here."""
    members = view.host.groups.members(view, about.group)
    return len(members) - sum(key in members for key in set(about.meta.get(EXCLUDE, ())))


def record(what: str, trail: str, **fields: Any) -> dict[str, Any]:
    return {"is": what, "id": trail, "at": round(time.time(), 6), **fields}


def delivery(view: Any, group: str, item: Item, trail: str, shown: Shown) -> dict[str, Any]:
    """A group message to the members here, by a pipeline without a group chain."""
    payload = shown.payload(Encoded(*item.packed), secrets_of_sender(item.sender))
    return record(
        "chain",
        trail,
        route=name_of(view.pipeline),
        chain="group",
        connection=None,
        sender=item.sender or None,
        group=group,
        stages=[],
        out=payload,
        seconds=0.0,
        end=None,
        members=count_members(view, About(group, item.sender, item.meta)),
        **{"in": payload},
    )


class Run:
    """One event of a chain, and what is shown of its filters with these numbers."""

    def __init__(
        self, shown: Shown, chain: WatchedChain, pipeline: Any, numbers: frozenset[int]
    ) -> None:
        self._shown, self._chain, self._pipeline = shown, chain, pipeline
        self._numbers = numbers
        self._stages: list[dict[str, Any]] = []
        self._number = 0
        self._secrets: tuple[str, ...] = ()

    def begin(self, instance: Any, data: Any, about: About | None, trail: str) -> None:
        name = self._chain.name
        self._instance, self._about = instance, about
        self._secrets = secrets_of(instance)
        if about is not None:
            self._secrets += secrets_of_sender(about.sender)
        self._last = self._show(data)
        self._record = record(
            "chain",
            trail,
            route=name_of(self._pipeline),
            chain=name,
            connection=None if name in ("group", "consumer") else getattr(instance, "id", None),
            sender=None if about is None else about.sender or None,
            group=None if about is None else about.group,
            **{"in": self._last},
        )
        self._began = clock()

    def _show(self, data: Any) -> dict[str, Any]:
        # At once: a later filter may change it in place.
        return self._shown.payload(data, self._secrets)

    def stage(self, path: str, data: Any, seconds: float, error: BaseException | None) -> None:
        number, before = self._number, self._last
        self._number += 1
        if error is None:
            self._last = self._show(data)
        if number in self._numbers:
            self._stages.append(
                {
                    "filter": self._pipeline.labels_of(self._chain)[number],
                    "path": path,
                    "in": before,
                    "out": None if error is not None else self._last,
                    "seconds": round(seconds, 9),
                    "end": self._shown.end(error, self._secrets),
                }
            )

    def end(self, error: BaseException | None) -> dict[str, Any]:
        """The record."""
        seconds, about = clock() - self._began, self._about
        self._record |= {
            "stages": self._stages,
            "out": None if error is not None else self._last,
            "seconds": round(seconds, 9),
            "end": self._shown.end(error, self._secrets),
        }
        if self._chain.name == "group" and about is not None:
            members = 0 if error is not None else count_members(self._instance, about)
            self._record["members"] = members
        return self._record


def shortened(made: dict[str, Any]) -> dict[str, Any]:
    """A record that is too long: with less of each payload."""
    short: dict[str, Any] = {}
    for key, value in made.items():
        if isinstance(value, dict):
            value = _short_payload(value)
        elif key == "stages":
            value = [shortened(stage) for stage in value]
        short[key] = value
    return short


def _short_payload(shown: dict[str, Any]) -> dict[str, Any]:
    text = shown.get("text")
    if text is None or len(text) <= SHORT:
        return shown
    return {**shown, "text": text[:SHORT], "cut": True}
