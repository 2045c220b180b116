"""What contenders need that ``pip`` does not bring, and which versions of it are here."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NODE_MODULES = HERE / "node_modules"
BUN = NODE_MODULES / "bun" / "bin" / "bun.exe"
#: The environment of version 0.4.1, which has the same name as this package.
LEGACY = ROOT / ".venv-bench-2014" / "bin"
#: This package as it was, and what of it: "make bench" takes it from the history of the
#: repository.
BEFORE = "3bd077b"
BEFORE_FOLDER = ROOT / ".venv-bench-before"

ADAPTER = ("socket.io", "@socket.io/redis-adapter", "redis")
EMITTER = ("@socket.io/redis-emitter",)
#: The adapter that knows what a connection has missed.
STREAMS = ("@socket.io/redis-streams-adapter",)

#: Why a contender cannot run here, or None.
Need = Callable[[], str | None]


def needs_npm(*packages: str) -> str | None:
    absent = [name for name in packages if not (NODE_MODULES / name).exists()]
    return f"npm has not installed {', '.join(absent)}" if absent else None


def needs_node(*packages: str) -> Need:
    def missing() -> str | None:
        if shutil.which("node") is None:
            return "node is not installed"
        return needs_npm(*packages)

    return missing


def needs_bun() -> str | None:
    return needs_npm("bun")


def needs_legacy() -> str | None:
    if not (LEGACY / "fws_server").exists():
        return "filtered-websocket 0.4.1 is not installed"
    return None


def needs_before() -> str | None:
    if not (BEFORE_FOLDER / "filtered_websocket").exists():
        return f"commit {BEFORE} is not in the history of this repository"
    return None


def answer(*command: str) -> str:
    """What a program prints; nothing if it fails."""
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip() if asked.returncode == 0 else ""


def peer_versions() -> dict[str, str]:
    """Versions of what runs outside of this Python environment."""
    found = {}
    if shutil.which("node") is not None:
        found["node"] = answer("node", "--version").removeprefix("v")
    for name in ("ws", *ADAPTER, *EMITTER, *STREAMS, "bun"):
        package = NODE_MODULES / name / "package.json"
        if package.exists():
            found[f"{name} (npm)"] = json.loads(package.read_text())["version"]
    if needs_legacy() is None:
        names = "filtered-websocket", "twisted"
        code = f"from importlib.metadata import version as v; print(*map(v, {names}))"
        # -I: not what is installed, under the same name, from the current directory.
        versions = answer(str(LEGACY / "python"), "-I", "-c", code).split()
        if versions:
            found["filtered-websocket (2014)"], found["its Twisted"] = versions
    return found
