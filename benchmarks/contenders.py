"""The contenders: how each is started, what it can do, and why it may be missing."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .needs import (
    ADAPTER,
    BEFORE,
    BEFORE_FOLDER,
    BUN,
    EMITTER,
    HERE,
    LEGACY,
    ROOT,
    STREAMS,
    Need,
    needs_before,
    needs_bun,
    needs_legacy,
    needs_node,
)
from .wire import RecoveringWire, SocketIOWire, Wire

#: Bytes of every message.
PAYLOAD = b"x" * 128
RAW = Wire(PAYLOAD)
SOCKETIO = SocketIOWire(PAYLOAD)
RECOVERING = RecoveringWire(PAYLOAD)

#: The compilers of Node and Bun are not done any sooner.
COMPILED = 1.0
#: Paths that a contender serves.
GROUPS = frozenset({"fan", "self", "echo"})

Command = Callable[[int], list[str]]


@dataclass(frozen=True)
class Contender:
    name: str
    #: Its name in tables.
    title: str
    #: Its command line, for a port; PORT is in its environment too.
    command: Command
    #: The layer of the Django site, or "redis" where it only needs the address.
    layer: str = "memory"
    wire: Wire = RAW
    kinds: frozenset[str] = GROUPS
    #: Why it cannot run here, or None.
    missing: Need = lambda: None
    #: Messages that are on their way at once; None: as many as the scenario says.
    in_flight: int | None = None
    #: How long it is warmed up, as a part of what is measured.
    warm_up: float = 0.25
    #: The only group it has, if it has no named groups.
    one_group: bool = False
    #: The command line of another process that publishes to so many groups of it.
    publisher: Command | None = None
    #: Whether that can be told to publish to all of them in one go.
    publishes_all: bool = False
    #: Whether it takes part only where it is named.
    is_apart: bool = False
    #: Where both are started.
    folder: Path = ROOT

    @property
    def yardstick(self) -> bool:
        """Not a peer: shows what could be gained, or what was."""
        return self.name == "limit" or self.name.startswith(("bare-", "before-"))

    @property
    def former(self) -> bool:
        """This package as it was."""
        return self.name.startswith("before-")

    @property
    def redis(self) -> bool:
        return self.layer != "memory"

    @property
    def ours(self) -> bool:
        return self.name.startswith("ours-")


def daphne(application: str) -> Command:
    def command(port: int) -> list[str]:
        # The same listen queue as the others; 50 is only Twisted's default.
        endpoint = f"tcp:port={port}:interface=127.0.0.1:backlog=1024"
        module = f"benchmarks.servers.{application}:application"
        # Who comes with thousands of others is not refused after five seconds, either.
        patient = ("--websocket_connect_timeout", "30")
        return [sys.executable, "-m", "daphne", "-v", "0", *patient, "-e", endpoint, module]

    return command


def uvicorn(application: str) -> Command:
    def command(port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "uvicorn", f"benchmarks.servers.{application}:application"),
            *("--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop"),
            *("--ws", "websockets-sansio", "--ws-per-message-deflate", "false"),
            *("--log-level", "warning", "--no-access-log"),
        ]

    return command


def module(name: str) -> Command:
    return lambda port: [sys.executable, "-m", f"benchmarks.servers.{name}"]


def publisher(library: str) -> Command:
    def command(groups: int) -> list[str]:
        return [sys.executable, "-m", "benchmarks.servers.publisher", library, str(groups)]

    return command


def node(script: str) -> Command:
    return lambda port: ["node", str(HERE / "servers" / script)]


def bun(port: int) -> list[str]:
    return [str(BUN), "run", str(HERE / "servers" / "bun.js")]


def legacy(port: int) -> list[str]:
    filters = "filtered_websocket.filters.broadcast_messages"
    return [str(LEGACY / "fws_server"), "-p", str(port), "-f", filters]


def ours(server: str, layer: str = "memory", former: bool = False) -> Contender:
    """This package on a server, as it is or as it was."""
    redis = layer != "memory"
    return Contender(
        f"{'before' if former else 'ours'}-{server}{'-redis' if redis else ''}",
        f"ours{f' as of {BEFORE}' if former else ''}, {server}{', Redis' if redis else ''}",
        {"daphne": daphne, "uvicorn": uvicorn}[server]("before" if former else "ours"),
        layer,
        publisher=publisher("ours") if redis else None,
        publishes_all=redis,
        missing=needs_before if former else lambda: None,
        folder=BEFORE_FOLDER if former else ROOT,
    )


CONTENDERS = (
    ours("daphne"),
    ours("daphne", "pubsub"),
    ours("uvicorn"),
    ours("uvicorn", "pubsub"),
    ours("daphne", "pubsub", former=True),
    ours("uvicorn", "pubsub", former=True),
    Contender(
        "channels-pubsub",
        "stock Channels, daphne, channels_redis.pubsub",
        daphne("stock_channels"),
        "pubsub",
        publisher=publisher("stock"),
        publishes_all=True,
    ),
    Contender(
        "channels-core",
        "stock Channels, daphne, channels_redis.core",
        daphne("stock_channels"),
        "core",
    ),
    Contender(
        "socketio-python",
        "python-socketio, uvicorn, Redis",
        uvicorn("socketio_python"),
        "redis",
        wire=SOCKETIO,
        publisher=publisher("socketio"),
    ),
    Contender("websockets", "`websockets.broadcast`, uvloop", module("websockets_broadcast")),
    Contender(
        "node-ws",
        "Node `ws`",
        node("node_ws.js"),
        missing=needs_node("ws"),
        warm_up=COMPILED,
    ),
    Contender(
        "node-socketio",
        "socket.io (Node), Redis",
        node("node_socketio.js"),
        "redis",
        wire=SOCKETIO,
        missing=needs_node(*ADAPTER, *EMITTER),
        warm_up=COMPILED,
        publisher=lambda groups: [*node("publisher.js")(groups), str(groups)],
    ),
    Contender(
        "node-socketio-recovery",
        "socket.io (Node), Redis streams, connection state recovery",
        node("node_socketio_recovery.js"),
        "redis",
        wire=RECOVERING,
        missing=needs_node(*ADAPTER, *STREAMS),
        warm_up=COMPILED,
        is_apart=True,
    ),
    Contender("bun", "Bun, `server.publish`", bun, missing=needs_bun, warm_up=COMPILED),
    Contender(
        "legacy",
        "filtered-websocket 0.4.1 (2014)",
        legacy,
        kinds=frozenset({"fan"}),
        missing=needs_legacy,
        # It loses frames that arrive together.
        in_flight=1,
        one_group=True,
    ),
    Contender("limit", "the limit: uvloop transport, frame built before", module("limit")),
    Contender("bare-daphne", "bare ASGI echo, daphne", daphne("bare"), kinds=frozenset({"echo"})),
    Contender(
        "bare-uvicorn", "bare ASGI echo, uvicorn", uvicorn("bare"), kinds=frozenset({"echo"})
    ),
    Contender(
        "bare-middleware",
        "bare ASGI echo, sessions and origin, daphne",
        daphne("bare_middleware"),
        kinds=frozenset({"echo"}),
    ),
)
BY_NAME = {contender.name: contender for contender in CONTENDERS}
