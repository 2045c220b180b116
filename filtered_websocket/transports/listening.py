"""
The listening sockets of daphne and uvicorn: how many clients are accepted at a time, and how
a process that ends closes them at once, and ends without a pause.

Twisted accepts 100 clients in one turn of the event loop, and 20 more in each further turn for
as long as there are so many. When thousands reconnect, a turn soon takes half a second, and a
handshake takes ten: daphne ends it unanswered, the client comes again, and most of the work is
done for nobody. Here few are accepted in a turn. The others wait in the system's queue, in
order and for nothing, and those that are accepted are answered soon.

A process that ends would answer clients that return too early with a refusal, and they would
wait for longer before they try again. Here the system refuses them, a proxy passes them on,
and the next process can open the port. Where the server cannot be found, it refuses them.

uvicorn looks ten times a second whether it shall end, and then pauses for as long, whatever is
left. Here it sees at once that it shall end, and where nothing is left it ends: each moment
that nobody listens may keep clients away for two, as they ask again later and later.
"""

import asyncio
import inspect
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

from ..logs import get_logger

logger = get_logger(__name__)

#: How many clients each port of daphne accepts in one turn of the event loop.
ACCEPTS_PER_TURN = 20
#: In how many turns of the event loop a pause of uvicorn is looked for: it takes one to wake up,
#: and one to be told that a connection has ended.
END_TURNS = 10

#: The event loops whose ports are limited.
_limited: "weakref.WeakSet[asyncio.AbstractEventLoop]" = weakref.WeakSet()


def limit_accepts() -> None:
    """
    Have daphne's ports accept ``ACCEPTS_PER_TURN`` clients in a turn of the event loop, which
    is the running one. Does nothing from the second call on, or where they differ.
    """
    loop = asyncio.get_running_loop()
    if loop in _limited:
        return
    _limited.add(loop)
    for port in _daphne_ports():
        if type(getattr(port, "numberAccepts", None)) is int and hasattr(port, "doRead"):
            port.doRead = FewAccepts(port, port.doRead)


class FewAccepts:
    """``doRead`` of one of Twisted's ports, which has found that clients wait."""

    def __init__(self, port: Any, accept: Callable[[], object]) -> None:
        self._port = port
        self._accept = accept

    def __call__(self) -> object:
        # Twisted sets it anew in every turn.
        self._port.numberAccepts = min(self._port.numberAccepts, ACCEPTS_PER_TURN)
        return self._accept()


def stop_listening(handlers: Iterable[Any]) -> None:
    """
    Accept no new connections in this process; those that are open stay. ``handlers`` are
    the server's signal handlers. On the event loop of the server.
    """
    for stop in (*_daphne_stops(), *_uvicorn_stops(handlers)):
        try:
            stop()
        except Exception as error:
            logger.warning("cannot close a listening socket: %r", error)


def _daphne_stops() -> list[Any]:
    """``stopListening`` of each port that is daphne's."""
    return [port.stopListening for port in _daphne_ports() if hasattr(port, "stopListening")]


def _daphne_ports() -> list[Any]:
    """The ports of the reactor that are daphne's."""
    # Looked up, not imported: importing the reactor installs one.
    reactor = sys.modules.get("twisted.internet.reactor")
    known = getattr(sys.modules.get("daphne.http_protocol"), "HTTPFactory", None)
    if reactor is None or known is None:
        return []
    readers: list[Any] = getattr(reactor, "getReaders", list)()
    return [port for port in readers if isinstance(_factory(port), known)]


def _factory(port: Any) -> Any:
    """What makes the protocols of ``port``, without Twisted's wrappers for TLS and PROXY."""
    factory: Any = getattr(port, "factory", None)
    while hasattr(factory, "wrappedFactory"):
        factory = factory.wrappedFactory
    return factory


def _uvicorn_stops(handlers: Iterable[Any]) -> list[Any]:
    """``close`` of each listening server of the ``uvicorn.Server`` that has the handlers."""
    # Set at its start. To close one twice does no harm.
    listening = [one for server in _uvicorns(handlers) for one in getattr(server, "servers", ())]
    return [one.close for one in listening if hasattr(one, "close")]


def _uvicorns(handlers: Iterable[Any]) -> list[Any]:
    """Each ``uvicorn.Server`` that has one of the signal handlers."""
    known = getattr(sys.modules.get("uvicorn.server"), "Server", None)
    if known is None:
        return []
    owners = [getattr(handler, "__self__", None) for handler in handlers]
    return [owner for owner in owners if isinstance(owner, known)]


def end_pauses(handler: Any) -> None:
    """
    Have the ``uvicorn.Server`` that has the signal ``handler``, and has been told to end, see
    that at once, and end without a pause where no connection is left. On its event loop.
    """
    for server in _uvicorns([handler]):
        asyncio.get_running_loop().call_soon(_end_pause, server, END_TURNS)


def _end_pause(server: Any, turns: int) -> None:
    if not turns:
        return
    asyncio.get_running_loop().call_soon(_end_pause, server, turns - 1)
    method, pause = _pause_of(server)
    state = getattr(server, "server_state", None)
    # Without these attributes it pauses, as it does where something is left.
    is_left = getattr(state, "connections", True) or getattr(state, "tasks", True)
    may_end = method == "main_loop" or (method == "shutdown" and not is_left)
    if pause is not None and may_end and not pause.done():
        # asyncio.sleep then removes its timer.
        pause.set_result(None)


def _pause_of(server: Any) -> "tuple[str, asyncio.Future[None] | None]":
    """The method of ``server`` that is in ``asyncio.sleep``, and the future that ends it."""
    for task in asyncio.all_tasks():
        method, step = "", cast(Any, task.get_coro())
        while inspect.iscoroutine(step) and step.cr_frame is not None:
            names = step.cr_frame.f_locals
            if method and step.cr_code is getattr(asyncio.sleep, "__code__", None):
                return method, names.get("future")
            method = step.cr_code.co_name if names.get("self") is server else ""
            step = step.cr_await
    return "", None
