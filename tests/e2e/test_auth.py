"""Who may connect, and for how long: two processes, a real Redis, SQLite."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..javascript.test_client import node
from ..snippets import named
from ..waiting import limited, within
from .processes import Daphne, Process, free_port, manage
from .sockets import connect
from .visitors import Case, Visitor

pytestmark = pytest.mark.promise
SITE = {"DJANGO_SETTINGS_MODULE": "tests.e2e.auth_site"}
#: The bound of an eviction, seconds.
BOUND = 2.0


@pytest.fixture(scope="module")
def site(database, valkey):
    """Two processes that ask the database again only once an hour."""
    env = {**database, **SITE, "REDIS_URL": valkey.url, "TEST_FWS": '{"RECHECK": 3600}'}
    yield from started(env)


@pytest.fixture(scope="module")
def deaf_site(database):
    """Two processes that share nothing but the database, and look into it every second."""
    yield from started({**database, **SITE, "TEST_FWS": '{"RECHECK": 1}'})


def started(env):
    servers = Daphne(env=env), Daphne(env=env)
    for server in servers:
        server.env = env
    yield servers
    for server in servers:
        server.stop()


async def who(socket):
    await socket.send("who am I?")
    async with limited():
        return json.loads(await socket.recv())


async def is_refused(opening):
    with pytest.raises(InvalidStatus) as told:
        async with opening:
            pass
    assert told.value.response.status_code == 403


# Every authenticator, accepted and refused


@pytest.mark.parametrize("way", ["by_header", "by_bearer", "by_subprotocol", "by_query"])
async def test_a_token_opens_both_processes_until_it_is_revoked(site, way):
    case = await Case.make(site[0])
    for server in site:
        async with getattr(case, way)(server) as socket:
            assert await who(socket) == [case.name, "of a test"]
            assert socket.subprotocol == ("fws" if way == "by_subprotocol" else None)
    await case.visitor.do("revoke", token=case.token)
    for server in site:
        await is_refused(getattr(case, way)(server))


async def test_a_session_opens_both_processes_until_it_ends(site):
    case = await Case.make(site[0])
    for server in site:
        async with case.by_session(server) as socket:
            assert await who(socket) == [case.name, None]
    cookie = case.visitor.cookie
    await case.visitor.post("/admin/logout/")
    headers = {"Cookie": f"sessionid={cookie}"}
    async with connect(site[1].ws(), additional_headers=headers) as socket:
        assert await who(socket) == ["AnonymousUser", None]


async def test_a_ticket_opens_one_of_both_processes_once(site):
    case = await Case.make(site[0])
    ticket = await case.ticket()
    async with connect(site[1].ws(f"/?ticket={ticket}")) as socket:
        assert await who(socket) == [case.name, None]
    for server in site:
        await is_refused(connect(server.ws(f"/?ticket={ticket}")))


#: What a page has, for a script that is run without one.
PAGE = """
const [site, cookies] = process.argv.slice(-2);
globalThis.document = { cookie: cookies };
const send = fetch;
globalThis.fetch = (path, { headers, ...rest }) =>
  send(site + path, { ...rest, headers: { ...headers, Cookie: cookies, Referer: `${site}/` } });
globalThis.WebSocket = function (url) { console.log(url); };
"""


async def test_the_page_shows_how_a_page_asks_for_a_ticket(site, tmp_path):
    case = await Case.make(site[0])
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in case.visitor.jar)
    script = tmp_path / "page.mjs"
    script.write_text(PAGE + named("docs/authentication.md")["ticket.js"])
    command = [node(), script, site[0].http(""), cookies]
    said = await asyncio.to_thread(subprocess.check_output, command)
    url = said.decode().strip().replace("wss://live.example.com", site[1].ws(""))
    async with connect(url) as socket:
        assert await who(socket) == [case.name, None]


async def test_a_ticket_is_taken_once_by_many_who_come_at_the_same_moment(site):
    case = await Case.make(site[0])
    ticket = await case.ticket()

    async def come(number):
        try:
            async with connect(site[number % 2].ws(f"/?ticket={ticket}")):
                return True
        except InvalidStatus:
            return False

    assert sum(await asyncio.gather(*map(come, range(10)))) == 1


async def test_a_ticket_is_for_those_who_are_logged_in(site):
    visitor = Visitor(site[0])
    await visitor.get("/admin/login/")
    with pytest.raises(urllib.error.HTTPError) as told:
        await visitor.post("/ticket/")
    assert told.value.code == 403
    told.value.close()


# Every end of a right


async def how_it_ended(socket):
    """The code and the reason of the close frame that comes next."""
    with pytest.raises(ConnectionClosed):
        await socket.recv()
    return socket.close_code, socket.close_reason


async def ends(site, case, end, reason, ways=("by_header", "by_session"), promise=BOUND):
    """Connect in all ways to both processes; all are closed within ``promise`` s of ``end``."""
    sockets = [await getattr(case, way)(server).__aenter__() for way in ways for server in site]
    bystander = await Case.make(site[1])
    other = await bystander.by_header(site[0]).__aenter__()
    for socket in sockets:
        await who(socket)
    async with within(promise):
        await end()
        for socket in sockets:
            assert await how_it_ended(socket) == (4401, reason)
    # Nobody else is concerned.
    assert (await who(other))[0] == bystander.name
    await other.close()


def ending(case, action, **arguments):
    async def end():
        await case.visitor.do(action, **arguments)

    end.__name__ = action
    return end


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("revoke", "token revoked"),
        ("rotate", "token rotated"),
        ("delete_token", "token deleted"),
        ("forbid_publishing", "token changed"),
        ("kick_token", "disconnected by the site"),
    ],
)
async def test_connections_end_with_their_token(site, action, reason):
    case = await Case.make(site[0])
    end = ending(case, action, token=case.token)
    await ends(site, case, end, reason, ways=("by_header", "by_subprotocol"))


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("deactivate", "user deactivated"),
        ("delete_user", "user deleted"),
        ("change_password", "password changed"),
        ("kick_user", "disconnected by the site"),
    ],
)
async def test_connections_end_with_their_user(site, action, reason):
    case = await Case.make(site[0])
    await ends(site, case, ending(case, action, user=case.user), reason)


async def test_who_changes_their_own_password_comes_back_and_other_sessions_end(site):
    case = await Case.make(site[0])
    stranger = Visitor(site[1])
    await stranger.log_in(case.name)
    other = {"Cookie": f"sessionid={stranger.cookie}"}
    async with (
        case.by_session(site[1]) as own,
        connect(site[0].ws(), additional_headers=other) as stolen,
    ):
        assert await who(own) == await who(stolen) == [case.name, None]
        old, new = case.name, "c7Jt2!xWq"
        await case.visitor.get("/admin/password_change/")
        await case.visitor.post(
            "/admin/password_change/", old_password=old, new_password1=new, new_password2=new
        )
        for socket in (own, stolen):
            async with within(BOUND):
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
        assert (own.close_code, stolen.close_code) == (4203, 4401)
    async with case.by_session(site[1]) as again:
        assert await who(again) == [case.name, None]


async def test_connections_end_with_their_session_and_no_others(site):
    case = await Case.make(site[0])

    async def log_out():
        await case.visitor.post("/admin/logout/")

    async with case.by_header(site[1]) as kept:
        await ends(site, case, log_out, "logged out", ways=("by_session",))
        assert await who(kept) == [case.name, "of a test"]


async def test_a_connection_by_ticket_ends_with_the_session_that_asked_for_it(site):
    case = await Case.make(site[0])
    async with connect(site[1].ws(f"/?ticket={await case.ticket()}")) as socket:
        await case.visitor.post("/admin/logout/")
        async with within(BOUND):
            assert (await how_it_ended(socket))[0] == 4401


async def test_connections_end_when_their_token_expires(site):
    for seconds in (2, 10, 50):
        case = await Case.make(site[0], seconds=seconds)
        # A busy machine may need longer until both are connected.
        with contextlib.suppress(InvalidStatus):
            sockets = [await case.by_header(server).__aenter__() for server in site]
            break
    async with within(seconds + BOUND):
        for socket in sockets:
            assert (await how_it_ended(socket))[0] == 4401
    await is_refused(case.by_header(site[0]))


async def test_a_process_without_connections_ends_them_too(site):
    """The command line, which leaves as soon as it has revoked the token."""
    case = await Case.make(site[0])

    async def revoke_by_command():
        await asyncio.to_thread(manage, site[0].env, "fws_token", "revoke", str(case.token))

    # Of which Python and Django have ten seconds to start.
    promise = BOUND + 10
    await ends(site, case, revoke_by_command, "token revoked", ("by_header",), promise)


@pytest.mark.parametrize(
    ("action", "way"),
    [("update_token", "by_header"), ("raw_sql", "by_header"), ("delete_sessions", "by_session")],
)
async def test_what_sends_no_signal_is_found_out(deaf_site, action, way):
    """Also by processes that share no layer."""
    case = await Case.make(deaf_site[0])
    argument = {"token": case.token} if action == "update_token" else {"user": case.user}
    sockets = [await getattr(case, way)(server).__aenter__() for server in deaf_site]
    # RECHECK is 1 s.
    async with within(BOUND):
        await case.visitor.do(action, **argument)
        for socket in sockets:
            assert (await how_it_ended(socket))[0] == 4401


async def test_uvicorns_access_log_has_no_key(database):
    """It prints the query of what it has accepted, and of what was refused."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "fws_project.asgi:application"]
    server = Process([*command, "--port", str(port)], env={**database, **SITE})
    try:
        server.said("Uvicorn running")
        server.port = port
        server.ws = lambda path="/": f"ws://127.0.0.1:{port}{path}"
        server.http = lambda path="/": f"http://127.0.0.1:{port}{path}"
        case = await Case.make(server)
        async with case.by_query(server) as socket:
            assert await who(socket) == [case.name, "of a test"]
        good = case.key
        case.key = good + "x"
        await is_refused(case.by_query(server))
        # Refused before anybody asks who it is.
        evil = {"Origin": "https://evil.example"}
        for path in (f"/?token={good}", f"/?ticket={good}"):
            await is_refused(connect(server.ws(path), additional_headers=evil))
        server.said(r"WebSocket /.*accepted")
        server.said(r"WebSocket /.*403")
        assert good[4:] not in server.output
    finally:
        server.stop()


async def test_no_key_is_in_a_log_or_in_the_database(site, database):
    """All that the servers said while this file ran, at level DEBUG."""
    case = await Case.make(site[0])
    for way in ("by_header", "by_subprotocol", "by_query"):
        async with getattr(case, way)(site[0]) as socket:
            await who(socket)
        bad = case.key[:-1] + ("A" if case.key[-1] != "A" else "B")
        good, case.key = case.key, bad
        await is_refused(getattr(case, way)(site[1]))
        case.key = good
    said = "\n".join(server.output for server in site)
    assert "WSCONNECT" in said or "refused connection" in said
    # A key as it was made, or with its last character exchanged.
    assert case.key[4:-1] not in said
    assert re.findall(r"fws_[\w-]{30,}", said) == []
    stored = await asyncio.to_thread(Path(database["DJANGO_DB"]).read_bytes)
    assert case.key[12:-1].encode() not in stored
