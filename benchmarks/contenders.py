"""The contenders: how each is started, what it can do, and why it may be missing."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .wire import SocketIOWire, Wire

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NODE_MODULES = HERE / "node_modules"
#: The environment of version 0.4.1, which has the same name as this package.
LEGACY = ROOT / ".venv-bench-2014" / "bin"

#: Bytes of every message.
PAYLOAD = b"x" * 128
RAW = Wire(PAYLOAD)
SOCKETIO = SocketIOWire(PAYLOAD)

#: Paths that a contender serves.
GROUPS = frozenset({"fan", "self", "echo"})

Command = Callable[[int], list[str]]
Need = Callable[[], str | None]


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
    #: The only group it has, if it has no named groups.
    one_group: bool = False

    @property
    def yardstick(self) -> bool:
        """Not a product, but a limit: shows how much could be gained."""
        return self.name == "limit" or self.name.startswith("bare-")

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
        return [sys.executable, "-m", "daphne", "-v", "0", "-e", endpoint, module]

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


def node(script: str) -> Command:
    return lambda port: ["node", str(HERE / "servers" / script)]


def legacy(port: int) -> list[str]:
    filters = "filtered_websocket.filters.broadcast_messages"
    return [str(LEGACY / "fws_server"), "-p", str(port), "-f", filters]


def needs_node(*packages: str) -> Need:
    def missing() -> str | None:
        if shutil.which("node") is None:
            return "node is not installed"
        absent = [name for name in packages if not (NODE_MODULES / name).exists()]
        if absent:
            return f"npm has not installed {', '.join(absent)}"
        return None

    return missing


def needs_legacy() -> str | None:
    if not (LEGACY / "fws_server").exists():
        return "filtered-websocket 0.4.1 is not installed"
    return None


ADAPTER = ("socket.io", "@socket.io/redis-adapter", "redis")

CONTENDERS = (
    Contender("ours-daphne", "ours, daphne", daphne("ours")),
    Contender("ours-daphne-redis", "ours, daphne, Redis", daphne("ours"), "pubsub"),
    Contender("ours-uvicorn", "ours, uvicorn", uvicorn("ours")),
    Contender("ours-uvicorn-redis", "ours, uvicorn, Redis", uvicorn("ours"), "pubsub"),
    Contender(
        "channels-pubsub",
        "stock Channels, daphne, channels_redis.pubsub",
        daphne("stock_channels"),
        "pubsub",
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
    ),
    Contender("websockets", "`websockets.broadcast`, uvloop", module("websockets_broadcast")),
    Contender("node-ws", "Node `ws`", node("node_ws.js"), missing=needs_node("ws")),
    Contender(
        "node-socketio",
        "socket.io (Node), Redis",
        node("node_socketio.js"),
        "redis",
        wire=SOCKETIO,
        missing=needs_node(*ADAPTER),
    ),
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


def peer_versions() -> dict[str, str]:
    """Versions of what runs outside of this Python environment."""
    found = {}
    if shutil.which("node") is not None:
        node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
        found["node"] = node.stdout.strip().removeprefix("v")
        for name in ("ws", *ADAPTER):
            package = NODE_MODULES / name / "package.json"
            if package.exists():
                found[f"{name} (npm)"] = json.loads(package.read_text())["version"]
    if needs_legacy() is None:
        names = "filtered-websocket", "twisted"
        code = f"from importlib.metadata import version as v; print(*map(v, {names}))"
        # -I: not what is installed, under the same name, from the current directory.
        asked = subprocess.run(
            [str(LEGACY / "python"), "-I", "-c", code], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            found["filtered-websocket (2014)"], found["its Twisted"] = asked.stdout.split()
    return found
