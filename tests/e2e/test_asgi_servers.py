"""
Other servers than daphne and uvicorn, with two processes, as docs/deployment.md starts them.

The table of that page says what each does; granian and uvicorn with workers are tried at
full size (``make stress``).
"""

import asyncio
import contextlib
import signal
import sys

import pytest
from websockets.exceptions import ConnectionClosed

from ..snippets import ROOT, named
from ..waiting import MEASURED, limited
from .processes import Process, free_port
from .sockets import connect
from .test_drain import end_of
from .test_limits import with_settings
from .test_serving import hears

#: Program -> its arguments, of the page.
COMMANDS = {
    line.split()[1]: line.split()[2:]
    for line in named("docs/deployment.md")["servers"].splitlines()
}
#: Whether one command starts several processes, and whether SIGHUP replaces them.
SERVERS = {"gunicorn": (2, True), "hypercorn": (1, False)}
if MEASURED:
    SERVERS |= {"granian": (2, True), "uvicorn": (2, True)}
CLIENTS = 12


class Server(Process):
    def __init__(self, program, env, settings="tests.e2e.site_settings"):
        self.port = free_port()
        arguments = [part.replace("9001", str(self.port)) for part in COMMANDS[program]]
        arguments = [part.replace("mysite", "fws_project") for part in arguments]
        site = {"DJANGO_SETTINGS_MODULE": settings}
        # For gunicorn's worker. Tests fork where the path is the usual one.
        path = {"PYTHONPATH": f"{ROOT}:{ROOT / 'deploy'}"} if program == "gunicorn" else {}
        super().__init__([sys.executable, "-m", program, *arguments], env=env | site | path)
        self.listens_on(self.port)

    @property
    def processes(self):
        """How many have had a connection."""
        return self.output.count("frames leave by")


@contextlib.asynccontextmanager
async def crowd(server, processes):
    """``CLIENTS`` clients and more, until every process has one."""
    async with contextlib.AsyncExitStack() as stack, limited():
        sockets = []
        before = server.processes
        while len(sockets) < CLIENTS or server.processes < before + processes:
            url = f"ws://127.0.0.1:{server.port}/"
            sockets.append(await stack.enter_async_context(connect(url)))
        yield sockets


async def hear_each_other(sockets):
    await sockets[0].send("heard")
    for socket in sockets[1:]:
        assert await hears(socket, 1) == ["heard"]


async def all_are_told(sockets):
    async with limited():
        ends = await asyncio.gather(*map(end_of, sockets))
    assert set(ends) == {(4200, "the server ends")}


@pytest.mark.parametrize("program", SERVERS)
async def test_it_delivers_limits_reloads_and_drains(database, valkey, program):
    processes, reloads = SERVERS[program]
    env = with_settings({**database, "REDIS_URL": valkey.url}, DRAIN_WINDOW=0)
    server = await asyncio.to_thread(Server, program, env)
    try:
        async with crowd(server, processes) as sockets:
            await hear_each_other(sockets)
            await sockets[0].send("x" * 262_145)
            with pytest.raises(ConnectionClosed) as caught:
                await sockets[0].recv()
            assert caught.value.rcvd.code == 4413
            if reloads:
                server.signal(signal.SIGHUP)
                await all_are_told(sockets[1:])
        if reloads:
            async with crowd(server, processes) as sockets:
                await hear_each_other(sockets)
                server.signal(signal.SIGTERM)
                await all_are_told(sockets)
        else:
            async with crowd(server, 0) as sockets:
                server.signal(signal.SIGTERM)
                await all_are_told(sockets)
        assert await asyncio.to_thread(server.wait) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.output
    finally:
        await asyncio.to_thread(server.stop)
