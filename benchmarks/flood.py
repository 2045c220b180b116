"""
A client that sends as fast as it is read, and reads nothing, in a process of its own.

It gives way to every other process: what is measured beside it is how a server shares out its
time, and Redis and the other clients, which run on the same core, must not wait for it.
"""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

#: Bytes of one call of the system.
BATCH = 65_536
#: It ends within so many seconds when it is told to.
LIMIT = 60.0


class Flood:
    """Sends ``frame`` over and over through ``connection``, which it alone uses from now on."""

    def __init__(self, connection: socket.socket, frame: bytes) -> None:
        fd = connection.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(frame)
        self._process.stdin.close()
        # From here on it may be told to end.
        self._process.stdout.readline()

    def end(self) -> int:
        """End it. Returns how many whole frames have been sent."""
        assert self._process.stdout is not None
        self._process.terminate()
        with self._process.stdout as output:
            sent = int(output.read())
        self._process.wait(LIMIT)
        return sent


def send_until_interrupted(connection: socket.socket, frame: bytes) -> int:
    """How many whole frames were sent until this process was told to end, or the socket ended."""
    frames = memoryview(frame * max(1, BATCH // len(frame)))
    at = sent = 0
    with suppress(KeyboardInterrupt, ConnectionError):
        print("ready", flush=True)
        while True:
            count = connection.send(frames[at:])
            sent += count
            at = (at + count) % len(frames)
    return sent // len(frame)


def give_way() -> None:
    """Run only while no other process wants to, of whatever session."""
    os.nice(19)
    with suppress(OSError):
        # sched(7): a nice value counts within a session only, where the system groups by those.
        Path("/proc/self/autogroup").write_text("19")
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


if __name__ == "__main__":
    give_way()
    # Not SIGINT, which whoever is started in the background ignores.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        connection.setblocking(True)
        print(send_until_interrupted(connection, sys.stdin.buffer.read()))
