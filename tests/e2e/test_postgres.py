"""
PostgreSQL, where most sites are: how many connections it has, and what a restart does.

Sockets are many; their handshakes and re-checks share a few database connections,
whatever a site has chosen to keep of them.
"""

import asyncio
import contextlib
import json
import os

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..waiting import limited, until
from .postgres import USER, PgBouncer, Postgres
from .processes import Daphne, Uvicorn, run_python
from .sockets import connect
from .test_auth import who

#: How many are logged in; make stress has as many as the promise says.
SOCKETS = 400 if os.environ.get("FWS_STRESS") == "full" else 60
#: The most database connections that they may need together.
MOST = 12
#: How many connect at the same moment.
TOGETHER = 20

#: How a site keeps its database connections: what DATABASES has beside the address.
WAYS = {
    "persistent": {"CONN_MAX_AGE": None},
    "none": {"CONN_MAX_AGE": 0},
    "pool": {"CONN_MAX_AGE": 0, "OPTIONS": {"pool": {"min_size": 1, "max_size": 8}}},
    "pgbouncer": {"CONN_MAX_AGE": 0, "DISABLE_SERVER_SIDE_CURSORS": True},
}
SERVERS = {"daphne": Daphne, "uvicorn": Uvicorn}

MAKE_USERS = """
import sys
import django
django.setup()
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
for number in range(int(sys.argv[1])):
    user = User.objects.create_user(f"user{number}", password="x", is_staff=True)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    print(session.session_key)
"""


def environment(port, database, **chosen):
    address = {"HOST": "127.0.0.1", "PORT": port, "USER": USER, "NAME": database}
    return {
        "DATABASE": json.dumps({**address, **chosen}),
        "DJANGO_SETTINGS_MODULE": "tests.e2e.postgres_settings",
        "TEST_FWS": '{"RECHECK": 1}',
    }


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def site(postgres):
    """A migrated database with users; the keys of their sessions."""
    postgres.ask("CREATE DATABASE site")
    env = environment(postgres.port, "site")
    run_python(env, "manage.py", "migrate", "-v", "0")
    return run_python(env, "-c", MAKE_USERS, str(SOCKETS)).split()


async def log_in(server, stack, sessions):
    """Sockets with these sessions, as many at once as ``TOGETHER``."""
    sockets = []
    for start in range(0, len(sessions), TOGETHER):
        opening = [
            connect(server.ws(), additional_headers={"Cookie": f"sessionid={key}"}, open_timeout=60)
            for key in sessions[start : start + TOGETHER]
        ]
        sockets += await asyncio.gather(*map(stack.enter_async_context, opening))
    return sockets


async def answers_first(server, session):
    """
    Wait until one user is let in. The first query of a process imports the driver and opens
    the pool, and on a busy machine that may take longer than a handshake may wait.
    """
    async with limited():
        while True:
            with contextlib.suppress(InvalidStatus):
                async with contextlib.AsyncExitStack() as stack:
                    return await log_in(server, stack, [session])


async def is_closed_by_a_recheck(socket, postgres, name):
    """Deactivate a user behind Django's back: nothing but a re-check can find that."""
    query = f"UPDATE auth_user SET is_active = false WHERE username = '{name}'"
    await asyncio.to_thread(postgres.ask, query, "site")
    async with limited():
        with pytest.raises(ConnectionClosed) as caught:
            while True:
                await socket.recv()
    assert caught.value.rcvd.code == 4401
    await asyncio.to_thread(postgres.ask, query.replace("false", "true"), "site")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SERVERS)
async def test_many_logged_in_sockets_need_a_few_database_connections(postgres, site, kind, way):
    with contextlib.ExitStack() as ending:
        port = postgres.port
        if way == "pgbouncer":
            bouncer = PgBouncer(postgres)
            ending.callback(bouncer.stop)
            port = bouncer.port
        env = environment(port, "site", **WAYS[way])
        server = await asyncio.to_thread(SERVERS[kind], env=env)
        ending.callback(server.stop)
        connections = postgres.connections_to("site")
        await answers_first(server, site[0])
        async with contextlib.AsyncExitStack() as stack:
            sockets = await log_in(server, stack, site)
            names = [await who(socket) for socket in sockets]
            assert [name for name, _ in names] == [f"user{n}" for n in range(SOCKETS)]
            # Whoever else is asked about with it, in at least two rounds.
            await is_closed_by_a_recheck(sockets[0], postgres, "user0")
            await is_closed_by_a_recheck(sockets[1], postgres, "user1")
            assert (await who(sockets[-1]))[0] == f"user{SOCKETS - 1}"
        most = connections.most
        print(f"\n  {kind}, {way}: {SOCKETS} sockets, {most} database connections at most")
        assert 0 < most <= MOST
    await until(lambda: connections.now == 0)


@pytest.mark.parametrize("way", ["persistent", "pool"])
async def test_a_postgresql_that_restarts_drops_nobody(postgres, site, way):
    env = environment(postgres.port, "site", **WAYS[way])
    server = await asyncio.to_thread(Daphne, env=env)
    try:
        await answers_first(server, site[0])
        async with contextlib.AsyncExitStack() as stack:
            sockets = await log_in(server, stack, site[:20])
            await asyncio.to_thread(postgres.end)
            # Re-checks fail meanwhile, which is said once.
            await asyncio.to_thread(server.said, "cannot ask the database", 60)
            for number, socket in enumerate(sockets):
                assert (await who(socket))[0] == f"user{number}"
            await asyncio.to_thread(postgres.start)
            await is_closed_by_a_recheck(sockets[0], postgres, "user0")
            [again] = await log_in(server, stack, site[:1])
            assert (await who(again))[0] == "user0"
            for number, socket in enumerate(sockets[1:], 1):
                assert (await who(socket))[0] == f"user{number}"
    finally:
        server.stop()


def test_tokens_tickets_admin_and_migrations_work_there_too(postgres):
    """The tests of what this package keeps in a database, with this one."""
    address = {"HOST": "127.0.0.1", "PORT": postgres.port, "USER": USER, "NAME": "tests"}
    out = run_python(
        {"TEST_DATABASE": json.dumps(address)},
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-cov"),
        *("tests/test_models.py", "tests/auth/test_tickets.py", "tests/management"),
        *("tests/test_admin.py", "tests/auth/test_validity.py"),
        *("tests/test_models_pusher.py", "tests/test_admin_pusher.py"),
    )
    assert " passed" in out and " skipped" not in out
    run_python(
        {**environment(postgres.port, "postgres")},
        *("manage.py", "makemigrations", "--check", "--dry-run"),
    )
