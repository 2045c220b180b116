"""
The stand-alone server beside the package of 2014, with the same arguments.

Where a transcript differs, it is on purpose and the test says why.
"""

import asyncio
import fcntl
import os
import signal
import ssl
import subprocess
import sys

import pytest
from websockets.exceptions import ConnectionClosed

from ..waiting import limited, until
from .certificates import write_pair
from .fws import FILTERS, OURS, REDIS, Fws, clients
from .processes import ROOT, free_port


@pytest.fixture(scope="session")
def reference():
    """The command of ``filtered-websocket`` 0.4.1, in an environment of its own."""
    folder = ROOT / ".venv-2014"
    command = folder / "bin" / "fws_server"
    folder.mkdir(exist_ok=True)
    # Of test runs at the same time, one installs it.
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        if not command.exists():
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
            pip = [sys.executable, "-m", "pip", "--python", folder, "install", "--no-compile"]
            subprocess.run(
                [*pip, "--quiet", "--disable-pip-version-check", "filtered-websocket==0.4.1"],
                check=True,
            )
    finally:
        os.close(lock)
    return [str(command)]


async def both(reference, script, *arguments, **kwargs):
    """The transcripts of ``script`` against the reference and against ours."""
    transcripts = []
    for command in (reference, OURS):
        server = await asyncio.to_thread(Fws, command, *arguments, **kwargs)
        try:
            async with limited():
                transcripts.append(await script(server))
        finally:
            if command is reference:
                # Its subscriber's thread may hold up a gentle end for ever.
                server.signal(signal.SIGKILL)
            await asyncio.to_thread(server.stop)
    return transcripts


async def broadcast(server):
    """Who receives what; one message at a time, as the old server loses the others."""
    async with clients(3, server) as (ann, bob, cy):
        await ann.send("hello")
        heard = [await bob.recv(), await cy.recv()]
        await bob.send("grün")
        heard += [await ann.recv(), await cy.recv()]
        await ann.send(b"binary")  # text in 0.4, which knew nothing else
        last = await bob.recv()
        heard.append(last if isinstance(last, str) else last.decode())
    return heard


BROADCAST = ["hello", "hello", "grün", "grün", "binary"]


@pytest.mark.parametrize("arguments", [[], ["-f", FILTERS + "broadcast_messages"]])
async def test_broadcast(reference, arguments):
    theirs, ours = await both(reference, broadcast, *arguments)
    assert theirs == ours == BROADCAST


async def test_the_default_server_prints_what_is_said(reference):
    async def script(server):
        await broadcast(server)
        await asyncio.to_thread(server.said, "grün|gr..n|gr.*xc3.*n")
        return [line for line in server.output.splitlines() if "--MESSAGE--" in line]

    theirs, ours = await both(reference, script)
    # Python 3 made the old lines "bytearray(b'hello')"; the manual shows the text, as ours.
    assert theirs[:2] == ours[:2] == ["--MESSAGE--"] * 2


async def test_a_config_file(reference, tmp_path):
    # Strings only: the old one handed numbers to argparse, which fails on them.
    content = '# a comment\n{"port": "%d",\n# more\n"filters": ["' + FILTERS
    content += 'broadcast_messages"]}'
    config = (tmp_path / "config.json", content)
    theirs, ours = await both(reference, broadcast, config=config)
    assert theirs == ours == BROADCAST


async def test_by_token(reference):
    """The old one fails on its own answers (str on Python 3); its source says what it means."""

    async def script(server):
        heard = []
        async with clients(3, server) as (ann, bob, cy):
            try:
                for client, message in (
                    (ann, "no token yet"),
                    (ann, "token:abc"),
                    (bob, "token:abc"),
                    (cy, "token:xyz"),
                ):
                    await client.send(message)
                    heard.append(await client.recv())
                await ann.send("for abc")
                heard.append(await bob.recv())
                await bob.send("end")
                heard.append(await ann.recv())
                await cy.send("token:abc")
                heard.append(await cy.recv())
            except ConnectionClosed:
                heard.append("closed")
        return heard

    theirs, ours = await both(reference, script, "-f", FILTERS + "broadcast_messages_by_token")
    assert theirs == ["closed"]
    assert ours == [
        "Error: No token has been set",
        *["Successfully registered with broadcast group: abc"] * 2,
        "Successfully registered with broadcast group: xyz",
        "for abc",
        "end",
        "Successfully registered with broadcast group: abc",
    ]


async def members(server):
    """A 2014-style module from the current directory: users, storage, queue, disconnect."""
    heard = []
    async with clients(2, server) as (ann, bob):
        for client in (ann, bob):
            # To the old server the probe of its port was a client, which has left.
            await client.send("ready?")
            while await client.recv() != "ready":
                pass
        await ann.send("remember me")
        heard += [await ann.recv(), await ann.recv()]
        await bob.send("hello members")
        heard += [await bob.recv(), await ann.recv()]
        bob.transport.abort()
        heard.append(await ann.recv())
        await ann.send("forget me")
        heard.append(await ann.recv())
    return heard


EXPECTED = ["remember me", "remember m", "hello member", "hello members", "somebody left"]


@pytest.mark.parametrize("storage", ["default", "redis"])
async def test_a_2014_module_runs_unmodified(reference, valkey, storage):
    env, arguments = {}, []
    if storage == "redis":
        env = REDIS
        arguments = ["--redis_host", "127.0.0.1", "--redis_port", str(valkey.port)]
        arguments += ["--redis_key", f"k{free_port()}"]
    elif storage == "default":
        # The old default server gave its connections a plain defaultdict, which has no add().
        server = await asyncio.to_thread(Fws, OURS, "-f", "legacy_filters")
        try:
            assert await members(server) == [*EXPECTED, "forget m"]
        finally:
            await asyncio.to_thread(server.stop)
        return
    theirs, ours = await both(reference, members, *arguments, "-f", "legacy_filters", env=env)
    assert theirs == ours == [*EXPECTED, "forget m"]


async def test_redis_pubsub_reaches_every_client(reference, valkey):
    async def script(server):
        # The old server chokes on its own subscribe notices where a client is there
        # already, so the clients come later.
        client = valkey.client()
        await until(lambda: client.publish("global", "?!") and "?!" in server.output)
        async with clients(2, server) as (ann, bob):
            client.publish("global", "hello from the server!")
            heard = [[await socket.recv()] for socket in (ann, bob)]
            for socket, words in zip((ann, bob), heard, strict=True):
                while words[-1] == "?!":
                    words[:] = [await socket.recv()]
            return heard

    arguments = ["--redis_host", "127.0.0.1", "--redis_port", str(valkey.port)]
    arguments += ["-f", FILTERS + "stdout_pubsub", FILTERS + "broadcast_pubsub"]
    theirs, ours = await both(reference, script, *arguments, env=REDIS)
    assert theirs == ours == [["hello from the server!"]] * 2


async def test_tls(reference, tmp_path):
    key, certificate = write_pair(tmp_path)
    trusting = ssl.create_default_context(cafile=certificate)

    async def script(server):
        async with clients(2, server, trusting) as (ann, bob):
            await ann.send("secret")
            return await bob.recv()

    theirs, ours = await both(reference, script, "-key", key, "-cert", certificate)
    assert theirs == ours == "secret"
