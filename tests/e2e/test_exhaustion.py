"""A process without free file descriptors, and one whose output nobody reads, go on serving."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import WebSocketException

from ..waiting import Watch, limited, measure, within
from .fws import LEGACY, OURS, Fws
from .processes import ROOT, Process, free_port
from .sockets import connect
from .test_hostile_frames import resident
from .test_serving import hears

pytestmark = pytest.mark.promise
FEW = 60
MB = 2**20


class WithFewFiles(Fws):
    """Our own server, which may open 60 files."""

    def __init__(self):
        super().__init__(
            ["sh", "-c", f'ulimit -n {FEW}; exec "$0" "$@"', *OURS], env={"PYTHONPATH": str(ROOT)}
        )


@pytest.fixture
def cramped():
    server = WithFewFiles()
    yield server
    server.stop()


def cpu(server):
    """CPU seconds of a process."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def waits(server):
    """Return once a process does nothing for a moment: one that spins never does."""
    used = -1.0
    async with limited():
        while (now := cpu(server)) > used:
            used = now
            await asyncio.sleep(0.2)  # a look later; no other process is told of it


async def test_who_is_there_is_served_when_there_are_no_more_files(cramped):
    async def attempt(stack):
        with contextlib.suppress(OSError, WebSocketException, TimeoutError):
            return await stack.enter_async_context(connect(cramped.ws()))

    async with contextlib.AsyncExitStack() as stack:
        ann, bob = await attempt(stack), await attempt(stack)
        async with contextlib.AsyncExitStack() as crowd:
            others = [await attempt(crowd) for _ in range(2 * FEW)]
            welcome = [one for one in others if one is not None]
            assert 20 < len(welcome) < FEW
            await ann.send("still here")
            assert await hears(bob, 1) == ["still here"]
            await waits(cramped)
        # Their places are free again, as soon as the server has seen them go.
        async with limited():
            while (again := await attempt(stack)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await again.send("me too")
        assert (await hears(bob, 1))[0] == "me too"
    assert "Traceback" not in cramped.output


async def unread(command, **kwargs):
    """A child whose output nobody reads."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return await asyncio.to_thread(partial(subprocess.Popen, command, **pipes, **kwargs))


async def test_output_that_nobody_reads_stops_nobody():
    """By default every message is printed; the pipe takes 64 KiB, and then print() would wait."""
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": ""}
    server = await unread([*OURS, "-p", str(port)], cwd=LEGACY, env=env)
    try:
        await asyncio.to_thread(Process.listens_on, Polled(server), port)
        url = f"ws://127.0.0.1:{port}/"
        async with connect(url) as ann, connect(url) as bob:
            await ann.send("x")
            await hears(bob, 1)
            before, waits = resident(server), []
            # Three times of what may wait is printed.
            for _ in range(3000):
                watch = Watch()
                await ann.send("x" * 1024)
                await hears(bob, 1)
                waits.append(watch.seconds)
            measure("1 KiB while nobody reads the output, p99", sorted(waits)[-30], 0.1)
            assert resident(server) - before < 16 * MB
        async with within(10):
            server.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0
    finally:
        server.kill()
        out, err = await asyncio.to_thread(server.communicate)
    assert out.startswith(b"--MESSAGE--\n") and b"Traceback" not in err


async def test_what_was_lost_is_said_when_somebody_reads_again():
    program = (
        "import sys; from filtered_websocket.server.output import buffered_output\n"
        "with buffered_output():\n"
        "    for _ in range(3000): print('x' * 1023)\n"
        "    print('all printed', file=sys.stderr)\n"
    )
    child = await unread([sys.executable, "-c", program], cwd=ROOT)
    assert await asyncio.to_thread(child.stderr.readline) == b"all printed\n"
    out, err = await asyncio.to_thread(child.communicate)
    said = int(err.split()[1])
    assert out.count(b"\n") + said == 3000
    assert err.endswith(b"lines for standard output: it was read too slowly\n")


class Polled:
    """A child that :meth:`Process.listens_on` can ask."""

    output = ""

    def __init__(self, process):
        self._process = process
