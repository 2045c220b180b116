"""
The hubs of this process by event loop, which of them have connections now, and what each has.
"""

import asyncio
import fnmatch
import os
import re
import secrets
import socket
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from asgiref.sync import SyncToAsync

from .. import __version__
from ..conf import conf
from ..connections.connection import Connection
from ..groups import channel_name
from ..pipelines.route import known_routes
from ..threads.tasks import runs_a_loop

if TYPE_CHECKING:
    from .hub import Hub

#: About the most bytes of names in one answer about groups.
MAX_PART = 16_384

#: Event loop -> its hub, which may not have begun.
hubs: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Hub]" = weakref.WeakKeyDictionary()
#: Hubs with connections, for publishers on other threads; replaced, never changed.
_active: "tuple[Hub, ...]" = ()
_lock = threading.Lock()

#: Answers a question: called with the hub, the value, and what sends a part of the answer, at
#: once or later.
Asked = Callable[["Hub", Any, Callable[[dict[str, Any]], None]], None]
#: Key of a question to all processes -> what answers it. Filled by parts above the hub.
asked: dict[str, Asked] = {}
#: Key of what all processes are told -> what handles the event. Earlier versions take it for an
#: answer that nobody waits for.
told: "dict[str, Callable[[Hub, dict[str, Any]], None]]" = {}
#: Called where a hub may have missed what it was told. Filled by parts above the hub.
missed: "list[Callable[[Hub], None]]" = []

#: Whether a server has called this package's application in this process.
_serves = False


def announce(hub: "Hub") -> None:
    """``hub`` has connections from now on."""
    global _active
    with _lock:
        _active = (*_active, hub)


def withdraw(hub: "Hub") -> None:
    """``hub`` ends: :func:`active_hub` does not return it any more."""
    global _active
    with _lock:
        _active = tuple(other for other in _active if other is not hub)
    # A hub refers to its loop: the entry of the weak dict would never be removed.
    hubs.pop(hub.loop, None)


def active_hub() -> "Hub | None":
    """A hub that has connections, preferably that of the running loop. Any thread."""
    active = _active
    try:
        mine = hubs.get(asyncio.get_running_loop())
    except RuntimeError:
        mine = None
    if mine in active:
        return mine
    return active[-1] if active else None


def active_hubs() -> "tuple[Hub, ...]":
    """All hubs that have connections. Any thread."""
    return _active


def note_serving() -> None:
    """A server calls this package's application: nobody may be connected yet."""
    global _serves
    _serves = True


def may_serve() -> bool:
    """
    Whether this process is likely to answer WebSockets, though nobody is connected now.

    Behind a router of the site's own, HTTP does not come through this package: a process
    with WebSocket routes that publishes under an event loop is taken for one that serves.
    """
    # asgiref's note, in a thread, of the loop that waits for it.
    notes = getattr(SyncToAsync, "threadlocal", None)
    loop = getattr(notes, "main_event_loop", None)
    # The note stays when that loop has ended.
    is_under_a_loop = runs_a_loop() or (loop is not None and loop.is_running())
    return _serves or (is_under_a_loop and bool(known_routes()))


#: Of an answer that has not come from another process.
NOTHING: Mapping[str, Any] = {}


class Answer(NamedTuple):
    """What a process has told who asked all of them."""

    #: Token id -> connections that depend on it.
    tokens: dict[str, int]
    #: Group -> connections in it.
    groups: dict[str, int]
    #: The process itself; empty where that was not asked.
    node: dict[str, Any]
    #: All that it has told.
    event: Mapping[str, Any] = NOTHING

    @property
    def process(self) -> str:
        """The name of the process; empty where it has not said so."""
        return str(self.event.get("process") or self.node.get("name", ""))

    @classmethod
    def read(cls, event: dict[str, Any]) -> Self:
        """The answer in a control event. KeyError, TypeError and the like if there is none."""
        tokens, groups = (
            {str(name): int(number) for name, number in counts.items()}
            for counts in (event["tokens"], event.get("groups", {}))
        )
        return cls(tokens, groups, dict(event.get("node", {})), event)


class Host(Protocol):
    """The part of a hub that is used here."""

    connections: dict[str, Connection]

    def send_control(self, event: dict[str, Any]) -> None: ...


class Inventory:
    """Answers who asks all processes what they have."""

    def __init__(self, hub: Host) -> None:
        self._hub: Any = hub
        self._began = time.monotonic()

    def answer(self, question: dict[str, Any], tokens: Callable[[], dict[str, int]]) -> None:
        """Answer by control events; ``tokens`` counts the connections of each token."""
        for key in asked.keys() & question.keys():
            asked[key](self._hub, question[key], partial(self._send, question["nonce"]))
            return
        for answer in self.answers(question, tokens()):
            self._hub.send_control(answer)

    def _send(self, nonce: str, part: dict[str, Any]) -> None:
        self._hub.send_control({"is": "count", "nonce": nonce, "tokens": {}, **part})

    def hear(self, event: dict[str, Any]) -> None:
        """What all processes are told."""
        for key in told.keys() & event.keys():
            told[key](self._hub, event)

    def missed(self) -> None:
        """It may not have heard all of it."""
        for look in missed:
            look(self._hub)

    def answers(self, question: dict[str, Any], tokens: dict[str, int]) -> Iterator[dict[str, Any]]:
        """Control events that answer, one after the other: names may be too many for one."""
        answer = {"is": "count", "nonce": question["nonce"]}
        if "groups" in question:
            for groups in self._parts(question["groups"]):
                yield {**answer, "tokens": {}, "groups": groups}
        node = {"node": self._node()} if question.get("node") else {}
        yield {**answer, "tokens": tokens, **node}

    def _members(self) -> Counter[str]:
        joined = [connection.joined for connection in self._hub.connections.values()]
        return Counter(name for names in joined for name in names)

    def _parts(self, pattern: str) -> Iterator[dict[str, int]]:
        matches = re.compile(fnmatch.translate(pattern)).match
        part: dict[str, int] = {}
        size, most = 0, min(MAX_PART, conf.MAX_MESSAGE_SIZE // 2)
        for name, count in self._members().items():
            if not matches(channel_name(name)) or not _is_text(name):
                continue
            length = len(name.encode())
            if part and size + length > most:
                yield part
                part, size = {}, 0
            part[name] = count
            size += length
        yield part

    def _node(self) -> dict[str, Any]:
        members = self._members()
        connections = self._hub.connections.values()
        return {
            **self.identity(),
            "num_clients": len(connections),
            "num_users": len({one.user_id for one in connections} - {None}),
            "num_subs": members.total(),
            "num_channels": len(members),
        }

    def identity(self) -> dict[str, Any]:
        """What tells this process from others."""
        return {
            "uid": process_uid(),
            "name": process_name(),
            "version": __version__,
            "uptime": int(time.monotonic() - self._began),
        }


#: The number of this process, and its id; another one after a fork.
_process = 0, ""


def process_uid() -> str:
    """The id of this process, which no other one has, of whatever host."""
    global _process
    if _process[0] != os.getpid():
        _process = os.getpid(), secrets.token_hex(8)
    return _process[1]


def process_name() -> str:
    """What this process is called where all are asked."""
    return f"{socket.gethostname()}_{os.getpid()}"


def _is_text(name: str) -> bool:
    """Whether JSON can have it: a group's name may have half of a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _forget() -> None:
    """After a fork: the hubs and their event loops belong to the parent process."""
    global _active, _serves
    _active = ()
    _serves = False
    hubs.clear()


# Windows has no fork.
getattr(os, "register_at_fork", lambda **hooks: None)(after_in_child=_forget)
