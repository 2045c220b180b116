"""No secret and no message of a client is in the metrics, or in the log."""

import logging

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.urls import path
from prometheus_client import values

from filtered_websocket import NotAllowed, WebSocketGroupFilter, WebSocketSendFilter
from filtered_websocket.auth.tickets import issue
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.json_codec import JSONCodec
from filtered_websocket.logs import JSONFormatter, recent
from filtered_websocket.metrics import prometheus
from filtered_websocket.metrics.access import DIRECTORY
from filtered_websocket.metrics.prometheus import Files, expose
from filtered_websocket.models import Token
from filtered_websocket.routing import websocket_application
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter

pytestmark = pytest.mark.django_db(transaction=True)
#: What clients say, and what nobody can decode.
SAID, BROKEN = "what-the-client-says", '{"what-the-client-breaks'


def fail(web_socket_instance, data):
    raise KeyError("on purpose")


def refuse(web_socket_instance, data):
    raise NotAllowed("not this one")


@pytest.fixture
def secrets():
    """What clients send that nobody else may read."""
    ann = User.objects.create(username="ann")
    _, key = Token.objects.create_key(name="lamp", user=ann)
    revoked, revoked_key = Token.objects.create_key(name="old")
    revoked.revoke()
    session = SessionStore()
    session.create()
    return {
        "key": f"{key}",
        "revoked": f"{revoked_key}",
        "unknown": "fws_" + "u" * 43,
        "session": session.session_key,
        "ticket": issue(ann, session),
    }


def ways_to_connect(secrets):
    bearer = [{"authorization": f"Bearer {secrets[name]}"} for name in list(secrets)[:3]]
    cookie = {"cookie": f"sessionid={secrets['session']}"}
    subprotocols = ["fws", f"fws.token.{secrets['key']}"]
    return [
        *({"headers": headers} for headers in bearer),
        {"headers": bearer[0], "subprotocols": subprotocols},
        {"subprotocols": subprotocols},
        {"headers": cookie},
        {"path": f"/?ticket={secrets['ticket']}"},
        {"path": f"/?token={secrets['key']}"},
        {"path": "/nowhere", "headers": cookie},
        {"headers": {**cookie, "origin": "http://evil.example"}},
    ]


@pytest.mark.parametrize("debug", [False, True])
async def test_neither_has_a_key_a_cookie_a_ticket_or_a_message(
    caplog, settings, monkeypatch, tmp_path, secrets, debug
):
    settings.DEBUG = debug
    settings.ALLOWED_HOSTS = ["testserver"]
    caplog.set_level(logging.DEBUG, "filtered_websocket")
    filters = [
        BroadcastMessagesFilter,
        message_filter(fail, WebSocketGroupFilter),
        message_filter(refuse, WebSocketSendFilter),
        message_filter(refuse),
    ]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, codec=JSONCodec(), groups=["secret"])
    application = websocket_application([path("", app)])
    accepted = 0
    ways = ways_to_connect(secrets)
    for how in ways:
        client = await connect(application, **how)
        if client.accepted:
            accepted += 1
            for message in (f'"{SAID}"', BROKEN):
                await client.send(message)
                await client.settle()
        await client.close()
    assert 1 < accepted < len(ways)
    pages = [expose("")[0], expose("application/openmetrics-text;version=1.0.0")[0]]
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())
    monkeypatch.setattr(prometheus, "files", Files())
    pages += [expose("")[0], *(file.read_bytes() for file in tmp_path.iterdir())]
    records = [one for one in caplog.records if one.name.startswith("filtered_websocket")]
    lines = [f"{JSONFormatter().format(one)} {one.__dict__}" for one in records]
    told = "\n".join(lines) + "\n".join(page.decode("utf-8", "replace") for page in pages)
    # Otherwise nothing would be proved.
    for words in ("accepted", "refused", "raised KeyError", "not this one", "/nowhere"):
        assert any(words in line for line in lines), words
    assert "fws_handshakes_total" in told and len(pages) > 4
    for name, secret in {**secrets, "message": SAID, "broken": BROKEN[2:]}.items():
        assert secret not in told, name
        assert secret[-16:] not in told, name


async def test_the_log_does_not_have_a_message_that_an_exception_quotes(caplog):
    read = message_filter(lambda web_socket_instance, data: int(bytes(data)))
    before = recent.total
    async with connect([read]) as client:
        await client.send(SAID)
        await client.settle()
    lines = [JSONFormatter().format(one) for one in caplog.records]
    assert any("ValueError: (its text quotes the message)" in line for line in lines)
    assert recent.total == before + 1
    remembered = [one.row() for one in recent.newest()]
    assert SAID not in f"{lines} {remembered}"


def test_a_formatter_shows_no_attribute_that_others_add():
    record = logging.makeLogRecord({"msg": "a %s", "args": ("b",), "cookie": "a secret"})
    assert "secret" not in JSONFormatter().format(record)
