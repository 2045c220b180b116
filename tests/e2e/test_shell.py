"""The commands of a shell, in real pipes, beside two processes that serve."""

import asyncio
import contextlib
import json
import shlex
import signal
import subprocess
import sys

import pytest

from ..waiting import LIMIT
from .processes import ROOT, Process, Valkey
from .sockets import connect
from .test_publishers import publish
from .test_serving import hears

MANAGE = f"{shlex.quote(sys.executable)} manage.py"


SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.e2e.shell_settings"}


@pytest.fixture
def env(database, valkey):
    return {**database, **SETTINGS, "REDIS_URL": valkey.url}


class Bash:
    """A line of a shell; its status is that of the last of its programs that failed."""

    def __init__(self, line, env):
        self._process = subprocess.Popen(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=ROOT,
            env={**env, "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self):
        """The next line of standard error."""
        return self._process.stderr.readline()

    def ended(self):
        """Status, standard output, and the rest of standard error."""
        out, errors = self._process.communicate(timeout=LIMIT)
        return self._process.returncode, out, errors


async def test_lines_of_a_pipe_reach_the_clients_of_every_process(two_servers, env):
    one, other = two_servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob:
        run = Bash(f"printf 'a\\n\\377\\nb' | {MANAGE} publish default", env)
        assert await asyncio.to_thread(run.ended) == (
            1,
            "",
            "publish: line 2: not UTF-8: \\xff\nCommandError: 1 lines were not published\n",
        )
        for client in (ann, bob):
            assert await hears(client, 2) == ["a", "b"]


async def test_a_listener_ends_quietly_as_soon_as_nobody_reads(two_servers, env):
    run = Bash(f"{MANAGE} listen default | head -n 1", env)
    assert await asyncio.to_thread(run.said) == "listen: listening to 'default'\n"
    async with connect(two_servers[0].ws()) as ann:
        await ann.send("the only one")
        # No other message comes.
        assert await asyncio.to_thread(run.ended) == (0, "the only one\n", "")


async def test_ctrl_c_ends_them_quietly_and_a_tee_shows_all_processes(two_servers, env):
    commands = [("tee", "/"), ("listen", "default")]
    running = [Process([sys.executable, "manage.py", *one], env=env) for one in commands]
    watching, listener = running
    one, other = two_servers
    try:
        async with connect(one.ws()) as ann, connect(other.ws()) as bob:
            await asyncio.to_thread(listener.said, "listening to 'default'")
            for process in two_servers:
                await asyncio.to_thread(watching.said, f"watching in .*_{process.pid}$")
            await ann.send(" hi ")
            assert await hears(bob, 1) == ["hi"]
            assert await asyncio.to_thread(listener.said, "^hi$")
            tidy = await asyncio.to_thread(
                watching.said, r'  (\w+)  .*  message     tidy: " hi " -> "hi"'
            )
            for process, members in ((one, 0), (other, 1)):
                line = rf"  {tidy[1]}  .*\"hi\" of 'default' to {members} in .*_{process.pid}$"
                await asyncio.to_thread(watching.said, line)
            for process in running:
                process.signal(signal.SIGINT)
                assert await asyncio.to_thread(process.wait) == 130
                assert "Traceback" not in process.output
    finally:
        for process in running:
            process.stop()


@contextlib.asynccontextmanager
async def tee(env, *arguments):
    """One that watches in a process."""
    running = Process([sys.executable, "manage.py", "tee", *arguments], env=env)
    try:
        await asyncio.to_thread(running.said, "watching in")
        yield running
    finally:
        running.stop()


async def test_frames_of_a_watched_connection_are_shown_and_arrive_in_order(two_servers, env):
    async with connect(two_servers[0].ws()) as ann, connect(two_servers[1].ws()) as bob:
        async with tee(env, "/message", "--json") as whole:
            await bob.send("who am I")
            assert await hears(ann, 1) == ["who am I"]
            told = await asyncio.to_thread(whole.said, r'"connection": "([-0-9a-f]{36})"')
        async with tee(env, "--connection", told[1]) as frames:
            texts = [f"{number}" for number in range(50)]
            for text in texts:
                await ann.send(text)
            assert await hears(bob, 50) == texts
            await bob.send("back")
            assert await hears(ann, 1) == ["back"]
            for way, text in (("out", "0"), ("out", "49"), ("in", "back")):
                await asyncio.to_thread(frames.said, f'  {way} +"{text}"$')
        # Straight to the socket again.
        for text in texts:
            await ann.send(text)
        assert await hears(bob, 50) == texts


async def test_the_status_has_the_connections_of_all_processes(two_servers, env):
    one, other = two_servers
    async with connect(one.ws()) as ann, connect(other.ws()) as bob, connect(other.ws()):
        await ann.send("hi")
        assert await hears(bob, 1) == ["hi"]
        status = Process([sys.executable, "manage.py", "fws_status", "--json"], env=env)
        assert await asyncio.to_thread(status.wait) == 0
        told = json.loads(status.output)
        assert told["connections"] == 3
        processes = {
            node["name"].rpartition("_")[2]: node["num_clients"] for node in told["processes"]
        }
        assert processes == {str(one.pid): 1, str(other.pid): 2}


async def test_a_listener_goes_on_after_an_outage(database):
    server = Valkey()
    env = {**database, **SETTINGS, "REDIS_URL": server.url}
    running = Process([sys.executable, "manage.py", "listen", "g"], env=env)
    try:
        await asyncio.to_thread(running.said, "listening")
        server = await asyncio.to_thread(server.restart)
        await asyncio.to_thread(running.said, r"listen: lost the channel layer \(Redis\): ")
        await asyncio.to_thread(running.said, r"listen: the channel layer \(Redis\) is back")
        await publish("publish('after', 'g')", env)
        await asyncio.to_thread(running.said, "^after$")
        running.signal(signal.SIGINT)
        assert await asyncio.to_thread(running.wait) == 130
    finally:
        running.stop()
        server.stop()


def test_a_command_without_a_redis_is_one_line(database):
    process = Process([sys.executable, "manage.py", "tee", "/"], env=database)
    assert process.wait() == 1
    assert process.output == (
        "CommandError: the channel layer 'default' is in memory, and leads to no other process:"
        " configure channels_redis.pubsub in CHANNEL_LAYERS"
    )
