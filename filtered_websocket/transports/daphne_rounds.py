"""
daphne's rounds past its connections, a few at a time.

Every second it looks at all of them for applications that have ended, every two seconds
for timeouts and pings, in one go: with 10 000 connections whatever arrives then waits for 10
to 40 ms, and for half a second where all are to be pinged. Here each connection is looked
at as often, by daphne's own code.
"""

import asyncio
import sys
from math import ceil
from typing import Any

#: Methods of daphne's server that go round: how many seconds later each asks to be called
#: again, and how many connections it shall look at together. A ping takes 40 microseconds.
ROUNDS = {"application_checker": (1.0, 100), "timeout_checker": (2.0, 20)}


def spread_rounds(server: Any) -> None:
    """Have ``server`` look at a few connections at a time, if it is as daphne makes it."""
    known = getattr(sys.modules.get("daphne.server"), "Server", None)
    if known is None or not isinstance(getattr(server, "connections", None), dict):
        return
    for name in ROUNDS:
        own = getattr(type(server), name, None)
        if name not in vars(server) and own is not None and own is getattr(known, name, None):
            # The next round is due already, and the last in one go: it asks for this one.
            setattr(server, name, Rounds(server, name))


class Rounds:
    """Takes the place of one of these methods, and calls it for a few connections each time."""

    def __init__(self, server: Any, name: str) -> None:
        self._server = server
        self._name = name
        self._method = getattr(type(server), name)
        self._seconds, self._few = ROUNDS[name]
        self._all: list[Any] = []
        self._step = self._steps = 0

    def __call__(self) -> None:
        self._step += 1
        if self._step >= self._steps:
            self._all = list(self._server.connections)
            self._step, self._steps = 0, max(1, ceil(len(self._all) / self._few))
        # First, in case that a look raises.
        asyncio.get_running_loop().call_later(self._seconds / self._steps, self)
        # Not neighbours: those that came together are to be pinged together.
        self._look(self._all[self._step :: self._steps])

    def _look(self, some: list[Any]) -> None:
        connections = self._server.connections
        few = {protocol: connections[protocol] for protocol in some if protocol in connections}
        before = tuple(few)
        try:
            self._method(_Part(self._server, few, self._name))
        finally:
            for protocol in before:
                if protocol not in few:
                    connections.pop(protocol, None)


class _Part:
    """A server with a few of its connections, and nothing to be called later."""

    def __init__(self, server: Any, few: dict[Any, Any], name: str) -> None:
        self._server = server
        self.connections = few
        setattr(self, name, _nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


def _nothing() -> None:
    """What daphne has called later in the place of a whole round."""
