"""Which requests are answered, and how."""

import json
import logging
from urllib.parse import quote

import pytest
from django.urls import path
from hypothesis import given
from hypothesis import strategies as st

from filtered_websocket.codecs.schema import protobuf_class
from filtered_websocket.routing import with_websockets
from filtered_websocket.streams import application, commands, requests

from ..protocols.clients import app
from .clients import Request, Streamed, lines

pytestmark = pytest.mark.django_db
PATHS = ["/connection/http_stream", "/connection/sse", "/emulation"]
CONNECT = {"id": 1, "connect": {}}
PAGE = (b"origin", b"https://testserver")
EVIL = (b"origin", b"https://evil.example")


async def other(scope, receive, send):
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture
def site():
    return with_websockets(other, [path("connection/websocket", app())], protocols=True)


async def test_every_other_path_is_the_sites_own(site):
    for where in ("/", "/connection/", "/emulation/", "/connection/sse/x"):
        assert await Request(site, "GET", where).answer() == 299
    without = with_websockets(other, [])
    assert await Request(without, "POST", "/emulation").answer() == 299


@pytest.mark.parametrize("where", PATHS)
async def test_below_a_prefix_it_is_the_same(site, where, settings):
    settings.FORCE_SCRIPT_NAME = "/app"
    for root in ("", "/app"):
        request = Request(site, "PUT", "/app" + where, root_path=root)
        assert await request.answer() == 405
    async with Streamed(site, root_path="/app") as ann:
        assert ann.request.status == 200


@pytest.mark.parametrize("where", PATHS)
async def test_other_methods_are_named_with_those_that_are_taken(site, where):
    request = Request(site, "DELETE", where)
    assert await request.answer() == 405
    allowed = "GET, POST, OPTIONS" if where.endswith("sse") else "POST, OPTIONS"
    assert request.headers[b"allow"] == allowed.encode()


@pytest.mark.parametrize("where", PATHS)
async def test_a_page_of_another_site_is_refused(site, where, caplog):
    with caplog.at_level(logging.INFO):
        for method in ("POST", "GET", "OPTIONS"):
            request = Request(site, method, where, lines(CONNECT), headers=[EVIL])
            assert await request.answer() == 403
            assert b"access-control-allow-origin" not in request.headers
    assert (
        "the origin is not allowed (address 192.0.2.1, origin https://evil.example" in caplog.text
    )


@pytest.mark.parametrize(
    "headers",
    [
        [(b"sec-fetch-site", b"cross-site")],
        [(b"sec-fetch-site", b"same-site")],
        [(b"sec-fetch-site", b"none"), (b"sec-fetch-mode", b"navigate")],
        [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-mode", b"no-cors")],
        [(b"host", b"evil.example")],
    ],
)
async def test_a_link_or_an_image_is_refused(site, headers, settings, caplog):
    """They have the cookies of a user, and no Origin."""
    settings.DEBUG = True
    query = b"cf_connect=" + quote(lines(CONNECT)).encode()
    request = Request(site, "GET", "/connection/sse", query=query)
    request.scope["headers"] = [*headers]
    assert await request.answer() == 403
    assert ("by fetch() or EventSource" in caplog.text) is (headers[0][0] != b"host")


async def test_a_script_of_the_page_itself_is_welcome(site):
    headers = [(b"sec-fetch-site", b"same-origin"), (b"sec-fetch-mode", b"cors")]
    async with Streamed(site, headers=headers, sse=True) as ann:
        assert b"access-control-allow-origin" not in ann.request.headers
        assert ann.request.headers[b"vary"] == b"origin"


@pytest.mark.parametrize("where", PATHS)
async def test_a_page_of_an_allowed_origin_may_read_the_answers(site, where):
    asked = Request(site, "OPTIONS", where, headers=[PAGE])
    assert await asked.answer() == 204
    assert b"POST" in asked.headers[b"access-control-allow-methods"]
    assert b"content-type" in asked.headers[b"access-control-allow-headers"]
    refused = Request(site, "POST", where, headers=[PAGE])
    await refused.start()
    for request in (asked, refused):
        assert request.headers[b"access-control-allow-origin"] == PAGE[1]
        assert request.headers[b"access-control-allow-credentials"] == b"true"
    while await refused.part() is not None:
        pass
    await refused.leave()


@pytest.mark.parametrize(
    ("body", "query"),
    [
        (b"", b""),
        (b"", b"cf_connect="),
        (b"", b"cf_connect=" + quote(lines(CONNECT, CONNECT)).encode()),
        (b"", b"cf_connect=%ff"),
    ],
)
async def test_an_event_source_connects_and_does_nothing_else(site, body, query):
    assert await Request(site, "GET", "/connection/sse", body, query).answer() == 400


async def test_an_event_source_may_be_asked_for_by_post(site):
    request = Request(site, "POST", "/connection/sse", lines(CONNECT), b"a=b")
    await request.start()
    assert await request.message(b"\n\n") == b":"
    assert b'"connect"' in await request.message(b"\n\n")
    await request.leave()


async def test_what_is_not_text_is_refused(site):
    assert await Request(site, "POST", "/connection/http_stream", b"\xff").answer() == 400


@pytest.mark.parametrize("where", PATHS)
async def test_a_body_that_is_too_long_is_refused(site, where, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": 100}
    assert await Request(site, "POST", where, b" " * 2000).answer() == 413
    query = b"cf_connect=" + b"x" * 101
    assert await Request(site, "GET", "/connection/sse", query=query).answer() == 413


async def test_a_body_comes_in_parts_or_not_at_all(site, monkeypatch):
    request = Request(site, "POST", "/emulation")
    request._input.get_nowait()
    for part, more in ((b'{"session": "a", "node"', True), (b': "b", "data": "c"}', False)):
        request._input.put_nowait({"type": "http.request", "body": part, "more_body": more})
    assert await request.answer() == 404
    gone = Request(site, "POST", "/emulation")
    gone._input.get_nowait()
    gone.begin()
    await gone.leave()
    assert gone._output.empty()
    monkeypatch.setattr(requests, "BODY_TIMEOUT", 0.01)
    slow = Request(site, "POST", "/emulation")
    slow._input.get_nowait()
    assert await slow.answer() == 408


async def test_without_protobuf_its_requests_are_refused(site, monkeypatch):
    for module in (application, commands):
        monkeypatch.setattr(module, "has_protobuf", lambda: False)
    binary = [(b"content-type", b"application/octet-stream")]
    for where in ("/connection/http_stream", "/emulation"):
        assert await Request(site, "POST", where, b"x", headers=binary).answer() == 415


async def test_a_stream_speaks_protobuf(site):
    binary = [(b"content-type", b"application/octet-stream")]
    command = protobuf_class("Command")(id=1)
    command.connect.SetInParent()
    body = command.SerializeToString()
    request = Request(
        site, "POST", "/connection/http_stream", bytes([len(body)]) + body, headers=binary
    )
    await request.start()
    assert request.headers[b"content-type"] == b"application/octet-stream"

    async def hear():
        while not (part := await request.part()):
            pass
        size = part[0] if part[0] < 128 else (part[0] & 127) | part[1] << 7
        return protobuf_class("Reply").FromString(part[-size:])

    connected = (await hear()).connect
    command = protobuf_class("Command")(id=2)
    command.rpc.method = "any"
    body = command.SerializeToString()
    said = protobuf_class("EmulationRequest")(
        session=connected.session, node=connected.node, data=bytes([len(body)]) + body
    )
    posted = Request(site, "POST", "/emulation", said.SerializeToString(), headers=binary)
    assert await posted.answer() == 204
    assert (await hear()).error.code == 108
    await request.leave()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{" * 10_000,
        b'{"session": "a", "node": "b"}',
        b'{"session": "a", "node": "b", "data": {}}',
        b'{"session": 1, "node": "b", "data": "c"}',
        b'{"session": "a", "node": "b", "data": "\\ud800"}',
        json.dumps({"session": "a" * 300, "node": "b", "data": "c"}).encode(),
        b"\xff",
    ],
    ids=range(10),
)
async def test_what_is_no_command_is_refused(site, body):
    assert await Request(site, "POST", "/emulation", body).answer() == 400
    binary = [(b"content-type", b"application/octet-stream")]
    assert await Request(site, "POST", "/emulation", b"\xff\xff", headers=binary).answer() == 400


@pytest.mark.parametrize("more", [b'"x":[[],[]]', b'"x":""', b'"session":{}', b'"session":1'])
def test_json_that_is_no_command_is_not_read(more, monkeypatch):
    monkeypatch.setattr(commands.json, "loads", None)
    body = b'{"session":"a","node":"b","data":"c",%b}' % more
    with pytest.raises(requests.Refused, match="no session, node and data"):
        commands._of_json(body)


def test_a_command_may_have_spaces_and_escapes():
    body = rb""" { "session" : "a" , "node":"b\"\\" ,"data":"\u00e9" } """
    assert commands.read(body, False) == ("a", 'b"\\', "\u00e9")


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_command_or_refused(body, binary):
    try:
        command = commands.read(body, binary)
    except requests.Refused as refused:
        assert refused.status == 400
    else:
        assert {type(part) for part in command} <= {str, bytes}


async def test_what_a_client_begins_with_is_not_in_the_log_of_a_server(site):
    """uvicorn's access log has the query of its own scope."""
    async with Streamed(site, sse=True) as ann:
        assert ann.request.scope["query_string"] == b""


@pytest.mark.parametrize(
    ("method", "where", "headers", "status"),
    [
        ("GET", "/connection/sse", [EVIL], 403),
        ("DELETE", "/connection/sse", [PAGE], 405),
        ("GET", "/connection/sse", [PAGE], 400),
        ("GET", "/events/", [PAGE, (b"accept", b"text/event-stream")], 400),
        ("POST", "/emulation", [PAGE], 400),
    ],
)
async def test_nor_is_it_where_the_request_is_refused(site, method, where, headers, status):
    query = b"group=&a=b&token=secret&cf_connect=" + quote("{}\n{}").encode()
    request = Request(site, method, where, query=query, headers=headers)
    assert await request.answer() == status
    assert request.scope["query_string"] == b"group=&a=b"
