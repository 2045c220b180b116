"""A database that is garbage, or locked: the fault is not the client's, and passes by itself."""

import asyncio
import contextlib
import os
import shutil
import sqlite3

import pytest
from websockets.exceptions import ConnectionClosed

from ..waiting import Watch, look_again, measure, until, within
from .processes import Daphne
from .sockets import connect
from .test_auth import SITE, who
from .visitors import Case


@pytest.fixture
def site(database, tmp_path):
    """A process with a database of its own, which tells clients the code."""
    path = tmp_path / "db.sqlite3"
    shutil.copy(database["DJANGO_DB"], path)
    env = {**database, **SITE, "DJANGO_DB": str(path), "TEST_FWS": '{"REFUSE_WITH": "close"}'}
    server = Daphne(env=env)
    server.database = path
    yield server
    server.stop()


async def code_of(opening):
    """How a handshake is refused."""
    async with opening as socket:
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    return caught.value.rcvd.code


def by_wrong_key(server):
    return connect(server.ws(), additional_headers={"Authorization": "Token fws_" + "a" * 43})


def is_open(path, server):
    """Whether the process holds that file."""
    folder = f"/proc/{server.pid}/fd"
    for descriptor in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"{folder}/{descriptor}") == str(path):
                return True
    return False


async def test_a_database_that_is_garbage_is_nobodys_fault_and_mended_without_a_restart(site):
    case = await Case.make(site)
    ways = case.by_header, case.by_session, case.by_subprotocol
    async with case.by_header(site) as old, connect(site.ws()) as anonymous:
        # Who has been answered may be here before the connection behind it is closed.
        await until(lambda: not is_open(site.database, site))
        aside = site.database.with_name("aside")
        os.replace(site.database, aside)
        site.database.write_bytes(b"garbage " * 4096)
        for way in ways:
            assert await code_of(way(site)) == 4500
        # Nor is a bad key known to be one.
        assert await code_of(by_wrong_key(site)) == 4500
        # Who is there stays; who offers nothing is asked nothing.
        assert await who(old) == [case.name, "of a test"]
        assert await who(anonymous) == ["AnonymousUser", None]
        async with connect(site.ws()) as new:
            assert await who(new) == ["AnonymousUser", None]
        os.replace(aside, site.database)
        for way in ways:
            async with way(site) as again:
                assert (await who(again))[0] == case.name
        assert await code_of(by_wrong_key(site)) == 4401
    await asyncio.to_thread(site.said, "file is not a database")
    assert case.key not in site.output


@pytest.mark.promise
async def test_a_database_that_is_locked_keeps_a_handshake_for_3_seconds_and_nobody_else(site):
    case = await Case.make(site)
    async with connect(site.ws()) as bystander:
        lock = sqlite3.connect(site.database, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
            waits = []
            async with within(5, least=2.5):
                refused = asyncio.ensure_future(code_of(case.by_header(site)))
                while not refused.done():
                    watch = Watch()
                    await who(bystander)
                    waits.append(watch.seconds)
                    await look_again(refused, 0.02)
                assert await refused == 4500
        finally:
            lock.close()
        # The bystander was answered meanwhile.
        assert len(waits) > 3
        measure("an answer while the database is locked, at most", max(waits), 0.5)
        async with case.by_header(site) as again:
            assert (await who(again))[0] == case.name
