"""
The listening sockets of daphne and uvicorn, which a process that ends closes at once.

Else it would answer clients that return too early with a refusal, and they would wait for
longer before they try again. Here the system refuses them, a proxy passes them on, and the
next process can open the port. Where the server cannot be found, it refuses them.
"""

import sys
from collections.abc import Iterable
from typing import Any

from ..logs import get_logger

logger = get_logger(__name__)


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
    """``stopListening`` of each port of the reactor that is daphne's."""
    # Looked up, not imported: importing the reactor installs one.
    reactor = sys.modules.get("twisted.internet.reactor")
    known = getattr(sys.modules.get("daphne.http_protocol"), "HTTPFactory", None)
    if reactor is None or known is None:
        return []
    readers: list[Any] = getattr(reactor, "getReaders", list)()
    ports = [port for port in readers if isinstance(_factory(port), known)]
    return [port.stopListening for port in ports if hasattr(port, "stopListening")]


def _factory(port: Any) -> Any:
    """What makes the protocols of ``port``, without Twisted's wrappers for TLS and PROXY."""
    factory: Any = getattr(port, "factory", None)
    while hasattr(factory, "wrappedFactory"):
        factory = factory.wrappedFactory
    return factory


def _uvicorn_stops(handlers: Iterable[Any]) -> list[Any]:
    """``close`` of each listening server of the ``uvicorn.Server`` that has the handlers."""
    known = getattr(sys.modules.get("uvicorn.server"), "Server", None)
    if known is None:
        return []
    owners = [getattr(handler, "__self__", None) for handler in handlers]
    servers = [owner for owner in owners if isinstance(owner, known)]
    # Set at its start. To close one twice does no harm.
    listening = [one for server in servers for one in getattr(server, "servers", ())]
    return [one.close for one in listening if hasattr(one, "close")]
