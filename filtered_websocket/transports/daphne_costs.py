"""
What daphne and autobahn spend on every connection, made cheaper: their own code does it, in
smaller parts or later.

Every second daphne checks all connections for applications that have ended, every two
seconds for timeouts and pings. Done all at once, with 10 000 connections, this blocks the
event loop for 10 to 40 ms, and for half a second where all have to be pinged. Here each
connection is checked as often, a few at a time.

For a line at debug, autobahn formats all options of a connection with ``pprint.pformat``,
also where that line is off. That takes 0.2 ms, two fifths of what a handshake costs daphne.
Here they are formatted when the line is logged, and so hardly ever. For lines at debug it also
puts the name of a method into colours, some five times in a handshake, of 5 microseconds each.
Here that is done once for each method.
"""

import asyncio
import functools
import inspect
import pprint
import sys
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

#: daphne's periodic methods: their interval in seconds, and how many connections are checked
#: together here. A ping takes 40 microseconds.
PERIODIC_METHODS = {"application_checker": (1.0, 100), "timeout_checker": (2.0, 20)}

MODULE = "autobahn.websocket.protocol"
#: Gives ``pformat`` a list, for a line of the log.
USER = "WebSocketProtocol._connectionMade"
#: May give it a dict, which is formatted at once.
OTHERS = {"Timings.__str__", "WebSocketClientProtocol.startHandshake"}
#: Where methods are named in colours, and the function that does it.
NAMING_MODULES = (MODULE, "autobahn.twisted.websocket")
NAME = "hltype"


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


class Later:
    """A list that is formatted when its text is asked for."""

    __slots__ = ("_value",)

    def __init__(self, value: list[Any]) -> None:
        self._value = value

    def __str__(self) -> str:
        return pprint.pformat(self._value)

    __repr__ = __str__


def pformat_later(value: Any) -> Any:
    """``pprint.pformat``; for a list, an object that has the same text."""
    return Later(value) if type(value) is list else pprint.pformat(value)


class Names:
    """What ``name(method)`` returns, found once for each function."""

    def __init__(self, name: Callable[[Any], str]) -> None:
        self._name = name
        self._of_function = functools.lru_cache(256)(name)

    def __call__(self, named: Any) -> str:
        function = getattr(named, "__func__", None)
        # Anything else need not have a hash.
        return self._name(named) if function is None else self._of_function(function)


def cut_costs_of_logging() -> None:
    """Have autobahn spend less on lines that are not logged."""
    format_options_later()
    name_once()


@functools.cache
def name_once() -> None:
    """Have autobahn name each method in colours once, with the same text as before."""
    name = getattr(sys.modules.get("autobahn.util"), NAME, None)
    if name is None:
        return
    once = Names(name)
    for module in map(sys.modules.get, NAMING_MODULES):
        if getattr(module, NAME, None) is name:
            setattr(module, NAME, once)


@functools.cache
def format_options_later() -> bool:
    """
    Have autobahn format the options of its connections only for a line that is logged.
    Returns whether this release does it as expected; of any other nothing is changed.
    """
    module: Any = sys.modules.get(MODULE)
    if module is None or getattr(module, "pformat", None) is not pprint.pformat:
        return False
    users = set(_users_of_pformat(module))
    if USER not in users or users - {USER} - OTHERS:
        return False
    module.pformat = pformat_later
    return True


def _users_of_pformat(module: Any) -> Iterator[str]:
    """Names of the functions and methods of a module that use ``pformat``."""
    for found in vars(module).values():
        if getattr(found, "__module__", None) != MODULE:
            continue
        for function in vars(found).values() if inspect.isclass(found) else [found]:
            code = getattr(function, "__code__", None)
            if code is not None and "pformat" in code.co_names:
                yield function.__qualname__
