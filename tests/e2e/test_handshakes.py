"""Handshakes as no client library would write them, raw over TCP."""

import asyncio
import socket

import pytest

from ..connections.test_handshake import OF_APPS
from ..waiting import LIMIT
from .fws import OURS, Fws
from .processes import Daphne
from .test_lanes import SERVERS, running
from .test_limits import with_settings

GOOD = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


@pytest.fixture(scope="module")
def ours():
    server = Fws(OURS, "--path", "/ws/")
    server.said("filtered_websocket")
    yield server
    server.stop()


def answer(server, target, *lines, **headers):
    """The server's answer to one request, up to the end of its head or of the connection."""
    head = [f"GET {target} HTTP/1.1"]
    head += [f"{name}: {value}" for name, value in {**GOOD, **headers}.items() if value is not None]
    with socket.create_connection(("127.0.0.1", server.port), LIMIT) as connection:
        connection.settimeout(LIMIT)
        connection.sendall("\r\n".join([*head, *lines, "", ""]).encode("latin-1"))
        said = b""
        while b"\r\n\r\n" not in said:
            some = connection.recv(4096)
            if not some:
                break
            said += some
    return said.decode("latin-1")


def status(said):
    return int(said.split(" ", 2)[1])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/ws/", 101),
        ("/ws/?a=%41", 101),
        ("//evil/ws/", 403),
        ("http://evil/ws/", 403),
        ("/ws/;x", 403),
        ("/%77s/", 403),
        ("/x/../ws/", 403),
        ("/x/%2e%2e/ws/", 403),
        ("/./ws/", 403),
    ],
)
def test_a_path_is_written_one_way(ours, target, expected):
    assert status(answer(ours, target)) == expected


def test_plain_http_is_told_what_this_is(ours):
    assert status(answer(ours, "/ws/", Upgrade=None)) == 426


def test_no_client_says_where_the_application_is_mounted(ours):
    assert status(answer(ours, "/public/ws/", **{"Daphne-Root-Path": "/public"})) == 403
    assert status(answer(ours, "/ws/", **{"Daphne-Root-Path": "/public"})) == 101


@pytest.mark.parametrize(
    "odd",
    [
        {"Sec-WebSocket-Key": "short"},
        {"Sec-WebSocket-Version": "99"},
        {"Sec-WebSocket-Protocol": "\xff\xfe"},
        {"Connection": "close"},
    ],
)
def test_a_failed_handshake_tells_nothing_of_the_program(ours, odd):
    said = answer(ours, "/ws/", **odd)
    assert 400 <= status(said) <= 500
    for word in ("127.0.0.1", "Protocol", "codec", "object at", "Traceback", "autobahn", "key"):
        assert word not in said.partition("\r\n")[0]


@pytest.mark.parametrize(
    ("target", "headers", "expected"),
    [
        ("/", {}, 101),
        ("/", {"Origin": "http://localhost:1"}, 101),
        ("/", {"Origin": "http://evil.example"}, 403),
        ("/", {"Origin": "null"}, 403),
        ("/", {"Origin": "http://localhost.evil.example"}, 403),
        ("/", {"Origin": "http://localhost@evil.example"}, 403),
        ("/", {"Origin": "http://localhost:99999"}, 400),
        ("/", {"Origin": "http://[::1"}, 400),
        ("/", {"Host": "evil.example"}, 403),
        ("/", {"Host": "evil.example", "Origin": "http://evil.example"}, 403),
        ("/%2e/", {}, 403),
        ("/nosuch/", {}, 403),
    ],
)
def test_under_daphne_itself(server, target, headers, expected):
    assert isinstance(server, Daphne)
    assert status(answer(server, target, **headers)) == expected


def test_two_origins_are_refused(server):
    said = answer(server, "/", "Origin: http://localhost", "Origin: http://localhost")
    assert status(said) in (400, 403)


def test_a_header_cannot_be_smuggled_in_another(server):
    said = answer(server, "/", "X-A: b\x0bOrigin: http://evil.example")
    assert status(said) == 400


def test_unknown_paths_are_no_errors(server):
    before = server.output.count("Traceback")
    for _ in range(100):
        assert status(answer(server, "/nosuch/")) == 403
    assert server.output.count("Traceback") == before


@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
@pytest.mark.parametrize("listed", [OF_APPS, ["*"]])
async def test_apps_connect_where_their_origin_is_listed(database, kind, listed):
    start, options = SERVERS[kind]
    env = with_settings(database, ALLOWED_ORIGINS=listed)
    async with running(start, env, *options) as server:
        for origin in (*OF_APPS, "ionic://elsewhere"):
            said = await asyncio.to_thread(answer, server, "/", Origin=origin)
            expected = 101 if origin in listed or listed == ["*"] else 403
            assert (origin, status(said)) == (origin, expected)
