"""
daphne's periodic checks of all connections, done for a few connections at a time.

Every second daphne checks all connections for applications that have ended, every two
seconds for timeouts and pings. Done all at once, with 10 000 connections, this blocks the
event loop for 10 to 40 ms, and for half a second where all have to be pinged. Here each
connection is checked as often, by daphne's own code.
"""

import asyncio
import sys
from math import ceil
from typing import Any

#: daphne's periodic methods: their interval in seconds, and how many connections are checked
#: together here. A ping takes 40 microseconds.
PERIODIC_METHODS = {"application_checker": (1.0, 100), "timeout_checker": (2.0, 20)}


def spread_checks(server: Any) -> None:
    """Have ``server`` check a few connections at a time, unless it overrides the checks."""
    known = getattr(sys.modules.get("daphne.server"), "Server", None)
    if known is None or not isinstance(getattr(server, "connections", None), dict):
        return
    for name in PERIODIC_METHODS:
        own = getattr(type(server), name, None)
        if name not in vars(server) and own is not None and own is getattr(known, name, None):
            # One more whole check is scheduled already; it will schedule this one.
            setattr(server, name, SpreadMethod(server, name))


class SpreadMethod:
    """Replaces one of these methods; calls it for a few connections each time."""

    def __init__(self, server: Any, name: str) -> None:
        self._server = server
        self._name = name
        self._method = getattr(type(server), name)
        self._seconds, self._batch_size = PERIODIC_METHODS[name]
        self._all: list[Any] = []
        self._step = self._steps = 0

    def __call__(self) -> None:
        self._step += 1
        if self._step >= self._steps:
            self._all = list(self._server.connections)
            self._step, self._steps = 0, max(1, ceil(len(self._all) / self._batch_size))
        # Scheduled first, in case that a check raises.
        asyncio.get_running_loop().call_later(self._seconds / self._steps, self)
        # Every n-th one: connections that were opened together are due for a ping together.
        self._check(self._all[self._step :: self._steps])

    def _check(self, some: list[Any]) -> None:
        connections = self._server.connections
        few = {protocol: connections[protocol] for protocol in some if protocol in connections}
        before = tuple(few)
        try:
            self._method(_PartialServer(self._server, few, self._name))
        finally:
            for protocol in before:
                if protocol not in few:
                    connections.pop(protocol, None)


class _PartialServer:
    """A server with a few of its connections, whose method is not scheduled again."""

    def __init__(self, server: Any, few: dict[Any, Any], name: str) -> None:
        self._server = server
        self.connections = few
        setattr(self, name, _do_nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)


def _do_nothing() -> None:
    """daphne schedules this instead of its next check of all connections."""
