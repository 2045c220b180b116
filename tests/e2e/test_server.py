"""
The stand-alone server beside the package of 2014, with the same arguments.

Where a transcript differs, it is on purpose and the test says why.
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ..waiting import limited, until
from .certificates import write_pair
from .processes import ROOT, Process, Valkey, free_port
from .test_serving import hears

LEGACY = ROOT / "tests" / "e2e" / "legacy"
FILTERS = "filtered_websocket.filters."
REDIS = {"STORAGE_OBJECT_MODULE": "filtered_websocket.storage_objects.redis"}


@pytest.fixture(scope="session")
def reference():
    """The command of ``filtered-websocket`` 0.4.1, in an environment of its own."""
    folder = ROOT / ".venv-2014"
    command = folder / "bin" / "fws_server"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        subprocess.run(
            [*pip, "--disable-pip-version-check", "filtered-websocket==0.4.1"], check=True
        )
    return [str(command)]


OURS = [sys.executable, "-m", "filtered_websocket.server"]


class Fws(Process):
    """A server of either kind."""

    def __init__(self, command, *arguments, env=None, cwd=LEGACY, config=None):
        self.port = free_port()
        if config is not None:
            path, content = config
            path.write_text(content % self.port)
            where = ["-c", str(path)]
        else:
            where = ["-p", str(self.port)]
        inherited = {"DJANGO_SETTINGS_MODULE": "", "PYTHONPATH": ""}
        if command == OURS:
            inherited["PYTHONPATH"] = str(ROOT)
        super().__init__([*command, *where, *arguments], env=inherited | (env or {}), cwd=cwd)
        self.listens_on(self.port)

    def ws(self):
        return f"ws://127.0.0.1:{self.port}/"


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


@contextlib.asynccontextmanager
async def clients(count, server, ssl=None):
    """
    Clients that leave without a close frame: the old server takes one for a message, and
    never answers it.
    """
    url = server.ws() if ssl is None else server.ws().replace("ws://", "wss://")
    sockets = [await connect(url, ssl=ssl, close_timeout=0) for _ in range(count)]
    try:
        yield sockets
    finally:
        for socket in sockets:
            socket.transport.abort()


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


@pytest.mark.parametrize("server", ["daphne", "uvicorn"])
async def test_tls_1_1_is_refused(tmp_path, server):
    key, certificate = write_pair(tmp_path)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(certificate)
    old.set_ciphers("ALL:@SECLEVEL=0")
    new = ssl.create_default_context(cafile=certificate)
    process = await asyncio.to_thread(
        Fws, OURS, "-key", key, "-cert", certificate, "--server", server
    )
    try:
        url = process.ws().replace("ws://", "wss://")
        async with connect(url, ssl=new) as ann:
            assert ann.transport.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, OSError)):
            await connect(url, ssl=old).__aenter__()
    finally:
        await asyncio.to_thread(process.stop)


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_end_that_is_asked_for_closes_every_client_and_is_status_0(kind, number):
    server = await asyncio.to_thread(Fws, OURS, "--server", kind, "--host", "127.0.0.1")
    try:
        sockets = [await connect(server.ws()).__aenter__() for _ in range(20)]
        server.signal(number)
        for socket in sockets:
            with pytest.raises(ConnectionClosed) as caught:
                await hears(socket, 1)
            assert caught.value.rcvd.code == 4200
        assert await asyncio.to_thread(server.wait) == 0
    finally:
        await asyncio.to_thread(server.stop)
    assert "Traceback" not in server.output


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("filters", ["Block", "Stubborn"])
async def test_what_hangs_does_not_keep_the_process(kind, filters):
    """A thread that is busy, a coroutine that will not be cancelled: a second signal ends both."""
    arguments = ["-f", f"busy_filters.{filters}", "--server", kind]
    server = await asyncio.to_thread(Fws, OURS, *arguments)
    async with clients(1, server) as (ann,):
        await ann.send("x")
        await asyncio.to_thread(server.said, "BUSY")
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed):
            await hears(ann, 1)
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 10) == 0
    assert "Traceback" not in server.output


async def test_the_end_has_a_deadline():
    server = await asyncio.to_thread(Fws, OURS, "-f", "busy_filters.Block")
    async with clients(1, server) as (ann,):
        await ann.send("x")
        await asyncio.to_thread(server.said, "BUSY")
        started = time.monotonic()
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 20) == 0
    assert time.monotonic() - started < 15


BAD_STARTS = {
    "settings that do not exist": {"DJANGO_SETTINGS_MODULE": "nosuch.settings"},
    "settings that raise": {"DJANGO_SETTINGS_MODULE": "tests.raising_module"},
    "a storage object that exits": {"STORAGE_OBJECT_MODULE": "tests.exiting_module"},
    "a storage object of another kind": {"STORAGE_OBJECT_MODULE": "."},
    "a storage object that can do nothing": {
        "STORAGE_OBJECT_MODULE": "tests.e2e.legacy.odd_storage"
    },
    "a layer that does not exist": {"DJANGO_SETTINGS_MODULE": "tests.e2e.bad_layer_settings"},
}


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_start_that_fails_is_one_line(name, kind):
    done = subprocess.run(
        [*OURS, "-p", str(free_port()), "--server", kind],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "", **BAD_STARTS[name]},
        cwd=ROOT,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("fws_server: error: ") and done.stderr.count("\n") == 1


async def test_start_up_says_where_and_what(tmp_path):
    server = await asyncio.to_thread(Fws, OURS, "-f", "legacy_filters")
    try:
        await asyncio.to_thread(server.said, rf"on ws://localhost:{server.port}/$")
        await asyncio.to_thread(server.said, r"message    \| remember \| tell_members \| pop_and")
        await asyncio.to_thread(server.said, "storage: default; channel layer: none; daphne")
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
def test_a_port_in_use_is_one_line(server, kind):
    done = subprocess.run(
        [*OURS, "-p", str(server.port), "--host", "127.0.0.1", "--server", kind],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": ""},
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"fws_server: error: cannot listen on 127.0.0.1:{server.port}: Address already in use\n"
    )


async def test_publishers_reach_clients_of_two_servers_once_each(valkey):
    arguments = ["--redis_url", valkey.url, "-f", FILTERS + "broadcast_pubsub"]
    arguments += [FILTERS + "broadcast_messages", "--redis_channels", "global", "news.*"]
    servers = [await asyncio.to_thread(Fws, OURS, *arguments, env=REDIS) for _ in range(2)]
    try:
        async with connect(servers[0].ws()) as ann, connect(servers[1].ws()) as bob:
            client = valkey.client()
            await until(lambda: client.publish("global", "ready") >= 2)
            for channel, message in (("global", "one"), ("news.x", "two"), ("global", "end")):
                client.publish(channel, message)
            for socket in (ann, bob):
                heard = [await socket.recv()]
                while heard[-1] != "end":
                    heard += await hears(socket, 1)
                assert [word for word in heard if word != "ready"] == ["one", "two", "end"]
            # Group messages cross the same Redis.
            await ann.send("to the other process")
            assert await hears(bob, 1) == ["to the other process"]
    finally:
        for server in servers:
            await asyncio.to_thread(server.stop)


async def test_redis_stopped_and_started_under_load_resumes_within_5_seconds(capsys):
    redis = await asyncio.to_thread(Valkey)
    arguments = ["--redis_url", redis.url, "-f", FILTERS + "broadcast_pubsub"]
    arguments += [FILTERS + "broadcast_messages"]
    servers = [await asyncio.to_thread(Fws, OURS, *arguments, env=REDIS) for _ in range(2)]
    try:
        sockets = [await connect(servers[n % 2].ws()).__aenter__() for n in range(20)]
        heard = [asyncio.Event() for _ in sockets]
        before = [asyncio.Event() for _ in sockets]

        async def listen(number, socket):
            async for message in socket:
                if message == "before":
                    before[number].set()
                if message == "after":
                    heard[number].set()

        async def talk(socket):
            for n in range(1_000_000):
                await socket.send(f"load {n}")
                await asyncio.sleep(0.002)

        listening = [asyncio.create_task(listen(*pair)) for pair in enumerate(sockets)]
        talking = [asyncio.create_task(talk(socket)) for socket in sockets[:4]]
        client = redis.client()
        await until(lambda: client.publish("global", "before") == 2)
        await until(lambda: all(event.is_set() for event in before))
        redis = await asyncio.to_thread(redis.restart)
        back, client = time.monotonic(), redis.client()

        def resumed():
            client.publish("global", "after")
            return all(event.is_set() for event in heard)

        await until(resumed)
        took = time.monotonic() - back
        with capsys.disabled():
            print(f"\npub/sub resumed {took:.2f} s after Redis was back, 20 clients, 2 processes")
        assert took < 5
        for task in (*talking, *listening):
            assert not task.done(), "a connection ended"
            task.cancel()
        await asyncio.gather(*talking, *listening, return_exceptions=True)
        assert all("Traceback" not in server.output for server in servers)
        for socket in sockets:
            await socket.close()
    finally:
        for server in servers:
            await asyncio.to_thread(server.stop)
        await asyncio.to_thread(redis.stop)


async def test_with_a_site_its_settings_are_used_and_arguments_win(database):
    server = await asyncio.to_thread(
        Fws, OURS, "-f", FILTERS + "broadcast_messages", env=database, cwd=ROOT
    )
    try:
        await asyncio.to_thread(server.said, r"message    \| broadcast_messages$")
        await asyncio.to_thread(server.said, "channel layer: the site's")
    finally:
        await asyncio.to_thread(server.stop)
    env = database | {"DJANGO_SETTINGS_MODULE": "tests.e2e.storage_settings"}
    server = await asyncio.to_thread(Fws, OURS, env=env, cwd=ROOT)
    try:
        await asyncio.to_thread(server.said, "storage: redis; channel layer: Redis")
    finally:
        await asyncio.to_thread(server.stop)
    server = await asyncio.to_thread(Fws, OURS, env=database, cwd=ROOT)
    try:
        await asyncio.to_thread(server.said, r"message    \| tidy \| broadcast_messages")
    finally:
        await asyncio.to_thread(server.stop)


def test_the_config_of_a_2014_example_is_understood(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"port": 9000, "flags": ["redis"], "redis_port": 1, "filters": []}))
    done = subprocess.run(
        [*OURS, "-c", str(path), "--version"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0
