"""Lines about connections that are accepted and refused, as each server writes them."""

import asyncio
import importlib.util
import json
import re
from contextlib import suppress

import pytest
from websockets.exceptions import InvalidStatus

from .fws import FILTERS, OURS, Fws
from .processes import Daphne, Uvicorn
from .sockets import connect
from .test_asgi_servers import Server as OtherServer

SECRET = "fws_" + "s" * 43


def other(program):
    return lambda env: OtherServer(program, env, settings="tests.e2e.log_settings")


SERVERS = {
    "daphne": lambda env: Daphne(env=env),
    "uvicorn": lambda env: Uvicorn(env=env),
    "uvicorn, websockets": lambda env: Uvicorn(env=env, options=("--ws", "websockets")),
    "gunicorn": other("gunicorn"),
    "hypercorn": other("hypercorn"),
    "granian": other("granian"),
}


@pytest.mark.parametrize("name", SERVERS)
async def test_who_is_accepted_and_who_is_refused_has_a_line(database, name):
    if name in ("hypercorn", "granian") and importlib.util.find_spec(name) is None:
        pytest.skip(f"no {name}")
    env = {
        **database,
        "DJANGO_SETTINGS_MODULE": "tests.e2e.log_settings",
        "DJANGO_SECRET_KEY": "of this test",
    }
    server = await asyncio.to_thread(SERVERS[name], env)
    try:
        url = f"ws://127.0.0.1:{server.port}/"
        async with connect(url):
            pass
        for options in (
            {"additional_headers": {"Authorization": f"Bearer {SECRET}"}},
            {"origin": "http://evil.example"},
        ):
            with pytest.raises(InvalidStatus):
                await connect(url, **options)
        for words in ("accepted connection", "refused connection", "refused a handshake"):
            await asyncio.to_thread(server.said, words)
    finally:
        await asyncio.to_thread(server.stop)
    lines = []
    for line in server.lines:
        with suppress(ValueError):
            lines.append(json.loads(line))
    found = {
        words: one
        for one in lines
        for words in re.findall("(?:accepted|refused) (?:connection|a handshake)", one["message"])
    }
    accepted, refused = found["accepted connection"], found["refused connection"]
    assert accepted["connection_id"] in accepted["message"]
    assert refused["connection_id"] in refused["message"] != accepted["message"]
    assert {one["client_address"] for one in found.values()} == {"127.0.0.1"}
    assert "connection_id" not in found["refused a handshake"]
    assert SECRET not in server.output and SECRET[8:] not in server.output


async def test_the_stand_alone_server_has_them_too():
    filters = ("-f", f"{FILTERS}broadcast_messages")
    server = await asyncio.to_thread(Fws, OURS, *filters, "--path", "/ws/")
    try:
        async with connect(f"{server.ws()}ws/"):
            pass
        with pytest.raises(InvalidStatus):
            await connect(server.ws())
        await asyncio.to_thread(server.said, r"INFO accepted connection .* \(address 127.0.0.1,")
        await asyncio.to_thread(server.said, r"INFO refused a handshake: .*\(address 127.0.0.1,")
    finally:
        await asyncio.to_thread(server.stop)
