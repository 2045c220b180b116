"""
Access that ends while its handshake is on the way: a real daphne, Redis, SQLite.

A few of each; 400 with ``FWS_STRESS=full``.
"""

import asyncio
import os
import random

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..waiting import LEAST, limited
from .processes import Daphne
from .sockets import connect
from .test_auth import SITE, who
from .visitors import Case

TIMES = 400 if os.environ.get("FWS_STRESS") == "full" else 3
#: How much earlier or later than the handshake it ends, seconds at most.
SPREAD = 0.03


@pytest.fixture(scope="module")
def pair(database, valkey):
    """The process that is connected to, and the one that ends access."""
    env = {**database, **SITE, "REDIS_URL": valkey.url, "TEST_FWS": '{"RECHECK": 3600}'}
    servers = Daphne(env=env), Daphne(env=env)
    yield servers
    for server in servers:
        server.stop()


async def by_ticket(case, server):
    return connect(server.ws(f"/?ticket={await case.ticket()}"))


async def by_token(case, server):
    return case.by_header(server)


async def by_session(case, server):
    return case.by_session(server)


async def log_out(case):
    await case.visitor.post("/admin/logout/")


def does(action, of):
    async def end(case):
        await case.visitor.do(action, **{of: getattr(case, of)})

    return end


WAYS = {
    "logout": (by_session, log_out),
    "deactivation": (by_session, does("deactivate", "user")),
    "password": (by_session, does("change_password", "user")),
    "token": (by_token, does("revoke", "token")),
    "ticket": (by_ticket, does("delete_user", "user")),
}


async def is_open_afterwards(opening, ending, case):
    """Whether a user is still connected whose access ended during the handshake."""

    async def open_it():
        await asyncio.sleep(random.uniform(0, SPREAD))
        try:
            return await opening
        except InvalidStatus:
            return None

    async def end_it():
        await asyncio.sleep(random.uniform(0, SPREAD))
        await ending

    socket, _ = await asyncio.gather(open_it(), end_it())
    if socket is None:
        return False
    try:
        if (await who(socket))[0] == "AnonymousUser":
            return False
        # The end is promised within 2 seconds; RECHECK is an hour.
        async with limited(LEAST):
            await socket.recv()
    except ConnectionClosed:
        return False
    except TimeoutError:
        return True
    finally:
        await socket.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
async def test_no_connection_outlives_access_that_ends_during_its_handshake(pair, kind, is_first):
    server, other = pair
    way, end = WAYS[kind]
    there = await Case.make(other)
    kept = None if is_first else await there.by_header(server)
    if kept:
        await who(kept)
    stayed = 0
    for _ in range(TIMES):
        case = await Case.make(other)
        stayed += await is_open_afterwards(await way(case, server), end(case), case)
    print(f"\n{kind}, {'first' if is_first else 'later'}: {stayed} of {TIMES}", end=" ")
    assert stayed == 0
    if kept:
        assert (await who(kept))[0] == there.name
        await kept.close()
