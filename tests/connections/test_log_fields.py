"""Lines of the log about a connection: who it is, as attributes of the record."""

import asyncio
import json
import logging
import logging.config
import sys
import threading

import pytest
from django.contrib.auth.models import User

from filtered_websocket import (
    Close,
    Drop,
    NotAllowed,
    WebSocketConnectFilter,
    WebSocketDisconnectFilter,
    WebSocketGroupFilter,
    WebSocketSendFilter,
)
from filtered_websocket.chains import stalls
from filtered_websocket.chains.chain import Chain
from filtered_websocket.connections.client import Client
from filtered_websocket.connections.refusals import log_accepted, log_refused
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.logs import FIELDS, LogThrottle
from filtered_websocket.models import Token
from filtered_websocket.routing import websocket_application
from filtered_websocket.testing import connect
from filtered_websocket.threads.blocking import abandoned

from ..snippets import named
from ..waiting import LIMIT, limited, until
from .test_connection import message_filter

PROXY = {"TRUSTED_PROXIES": 1}
HEADERS = {"x-forwarded-for": "192.0.2.7"}


@pytest.fixture
def lines(caplog, settings):
    """``lines(words)`` -> the fields of each record with these words in its line."""
    settings.FILTERED_WEBSOCKET = PROXY
    caplog.set_level(logging.INFO, "filtered_websocket")

    def found(words):
        records = [record for record in caplog.records if words in record.getMessage()]
        return [tuple(getattr(record, name) for name in FIELDS) for record in records]

    return found


def raise_(error):
    def fail(web_socket_instance, data):
        raise error

    return fail


def user(pk=5):
    return User(pk=pk, username="ann")


async def test_an_accepted_connection_has_a_line(lines):
    async with connect([], user=user(), headers=HEADERS) as ann:
        mine = ann.connection.id
    async with connect([]) as bob:
        other = bob.connection.id
    assert lines("accepted connection") == [(mine, "5", "192.0.2.7"), (other, "", "")]


async def test_where_nobody_reads_such_lines_none_is_made(caplog, monkeypatch):
    caplog.set_level(logging.WARNING, "filtered_websocket")
    made = []
    monkeypatch.setattr(logging.Logger, "makeRecord", lambda self, *args, **kw: made.append(args))
    monkeypatch.setattr(Client, "log_fields", property(made.append))
    app = FilteredWebSocketConsumer.as_asgi(filters=[BroadcastMessagesFilter], groups=["g"])
    async with connect(app, user=user(), headers=HEADERS) as ann, connect(app) as bob:
        await ann.send("x")
        assert await bob.receive() == "x"
    refused = await connect([message_filter(raise_(Drop()), WebSocketConnectFilter)])
    assert not refused.accepted
    await refused.close()
    assert made == []


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("error", [Drop(), Close(4777), NotAllowed("no"), KeyError("x")])
async def test_a_refused_connection_has_one(lines, settings, error, debug):
    settings.DEBUG = debug
    ids = []

    def fail(web_socket_instance, data):
        ids.append(web_socket_instance.id)
        raise error

    filters = [message_filter(fail, WebSocketConnectFilter)]
    client = await connect(filters, user=user(), headers=HEADERS)
    await client.close()
    words = "refused the WebSocket /" if debug else "refused connection"
    assert lines(words) == [(ids[0], "5", "192.0.2.7")]
    if isinstance(error, KeyError):
        assert lines("raised KeyError on connection") == [(ids[0], "5", "192.0.2.7")]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.django_db
async def test_a_handshake_that_is_refused_before_that_has_an_address(lines, settings, debug):
    settings.DEBUG = debug
    settings.ALLOWED_HOSTS = ["testserver"]
    headers = {**HEADERS, "origin": "http://evil.example"}
    await (await connect(websocket_application(), headers=headers)).close()
    await (await connect(websocket_application(), "/nowhere", headers=HEADERS)).close()
    words = "refused the WebSocket" if debug else "refused a handshake"
    assert lines(words) == [("", "", "192.0.2.7")] * 2


@pytest.fixture
def revoked_key(transactional_db):
    token, key = Token.objects.create_key(name="lamp")
    token.revoke()
    return key


async def test_what_authentication_says_is_about_the_same_connection(lines, revoked_key):
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    for words, headers, subprotocols in (
        ("refused token", {"authorization": f"Bearer {revoked_key}"}, ()),
        (
            "2 credentials",
            {"authorization": f"Bearer {revoked_key}"},
            (f"fws.token.{revoked_key}",),
        ),
    ):
        client = connect(app, headers={**HEADERS, **headers}, subprotocols=subprotocols)
        await (await client).close()
        [said] = lines(words)
        assert said == lines("refused connection")[-1] and said[2] == "192.0.2.7"


async def test_a_key_that_is_used_later_is_about_whose_connection_it_is(
    lines, revoked_key, monkeypatch
):
    async with connect([], user=user(), headers=HEADERS) as ann:
        who = (ann.connection.id, "5", "192.0.2.7")
        assert await ann.connection.use_token(revoked_key) is None
        assert lines("refused token") == [who]
        monkeypatch.setattr(type(Token.objects), "find", fail_to_find)
        with pytest.raises(Close):
            await ann.connection.use_token(revoked_key)
        assert lines("cannot look a token up: OSError") == [who]


def fail_to_find(manager, key):
    raise OSError("the database is away")


async def test_a_credential_that_nobody_takes_is_about_who_sent_it(lines, settings):
    authenticators = ["filtered_websocket.auth.SubprotocolAuthenticator"]
    settings.FILTERED_WEBSOCKET = {**PROXY, "AUTHENTICATORS": authenticators}
    headers = {**HEADERS, "authorization": "Bearer fws_" + "x" * 43}
    await (await connect(FilteredWebSocketConsumer.as_asgi(filters=[]), headers=headers)).close()
    assert lines("no authenticator takes") == lines("refused connection")


async def test_an_error_of_a_filter_is_about_its_connection(lines):
    filters = [message_filter(raise_(KeyError("message")))]
    async with connect(filters, user=user(), headers=HEADERS) as ann:
        who = (ann.connection.id, "5", "192.0.2.7")
        assert lines("raised KeyError") == []
        await ann.send("x")
        await ann.settle()
        assert lines("raised KeyError") == [who]


@pytest.mark.parametrize(
    ("kind", "is_known"),
    [(WebSocketSendFilter, True), (WebSocketGroupFilter, False), (WebSocketDisconnectFilter, True)],
)
async def test_an_error_of_another_chain_too(lines, kind, is_known):
    filters = [message_filter(raise_(ValueError(kind.__name__)), kind)]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=[kind.__name__])
    async with connect(app, user=user(), headers=HEADERS) as ann:
        who = (ann.connection.id, "5", "192.0.2.7")
        ann.connection.publish("x", to_self=True)
        await ann.settle()
    assert lines("raised ValueError") == [who if is_known else ("", "", "")]


async def test_what_is_not_allowed_is_about_who_asked(lines):
    filters = [message_filter(raise_(NotAllowed("not that")))]
    async with connect(filters, user=user(), headers=HEADERS) as ann:
        who = (ann.connection.id, "5", "192.0.2.7")
        await ann.send("x")
        await ann.settle()
    assert lines("not that (") == [who]


async def test_a_filter_that_outlives_its_client_is_about_that_client(lines, settings, monkeypatch):
    # Others may have had the same line, which comes once in ten seconds.
    monkeypatch.setattr(stalls, "_throttle", LogThrottle())
    settings.FILTERED_WEBSOCKET = {**PROXY, "FILTER_GRACE": 0.01}
    entered = asyncio.Event()

    async def wait(web_socket_instance, data):
        entered.set()
        await asyncio.get_running_loop().create_future()

    client = await connect([message_filter(wait)], user=user(), headers=HEADERS)
    who = (client.connection.id, "5", "192.0.2.7")
    await client.send("x")
    await entered.wait()
    await client.close()
    assert lines("has ended, and it has not returned") == [who]


async def test_a_thread_that_outlives_its_client_too(lines, settings):
    settings.FILTERED_WEBSOCKET = PROXY
    entered, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def block(web_socket_instance, data):
        loop.call_soon_threadsafe(entered.set)
        assert go.wait(LIMIT)

    chain = Chain("message", [message_filter(block, blocking=True)])
    async with connect([], user=user(), headers=HEADERS) as ann:
        connection = ann.connection
    # Not while a client of a test is connected: then blocking filters share one thread.
    who = (connection.id, "5", "192.0.2.7")
    running = asyncio.create_task(chain.arun(connection, b""))
    await entered.wait()
    running.cancel()
    await asyncio.wait([running])
    go.set()
    await until(lambda: not abandoned)
    assert lines("still runs") == lines("has returned from") == [who]


async def test_a_user_who_would_have_to_be_looked_up_is_left_out(lines):
    class Lazy:
        @property
        def pk(self):
            raise RuntimeError("the database is asked on the event loop")

    async with connect([], headers=HEADERS) as ann:
        ann.connection.scope["user"] = Lazy()
        assert ann.connection.log_fields["user_id"] == ""
        assert ann.connection.log_fields["client_address"] == "192.0.2.7"
        log_accepted(ann.connection)
        log_refused(ann.connection, 4403, "of no use")
        assert lines("of no use") == [(ann.connection.id, "", "192.0.2.7")]


class Socket:
    """The server's end of a handshake, whose ``send`` fails once it was accepted."""

    def __init__(self):
        self.events = asyncio.Queue()
        self.events.put_nowait({"type": "websocket.connect"})
        self.accepted = asyncio.Event()

    async def send(self, event):
        if event["type"] == "websocket.accept":
            self.accepted.set()
        else:
            raise OSError("gone")


async def test_a_server_that_cannot_send_is_about_whom_it_cannot_send_to(lines):
    socket = Socket()
    app = FilteredWebSocketConsumer.as_asgi(
        filters=[message_filter(lambda connection, data: connection.push("x"))]
    )
    headers = [(b"x-forwarded-for", b"192.0.2.7")]
    scope = {"type": "websocket", "path": "/", "headers": headers, "user": user()}
    serving = asyncio.create_task(app(scope, socket.events.get, socket.send))
    async with limited():
        await socket.accepted.wait()
        socket.events.put_nowait({"type": "websocket.receive", "text": "x"})
        await serving
    [who] = lines("the server could not send")
    assert who == lines("accepted connection")[0] and who[1:] == ("5", "192.0.2.7")


async def test_a_server_whose_receive_fails_too(lines, settings):
    settings.FILTERED_WEBSOCKET = {**PROXY, "FILTER_GRACE": 0.01}
    socket = Socket()
    entered = asyncio.Event()

    async def wait(web_socket_instance, data):
        entered.set()
        await asyncio.get_running_loop().create_future()

    async def receive():
        if entered.is_set():
            raise OSError("gone")
        return await socket.events.get()

    app = FilteredWebSocketConsumer.as_asgi(filters=[message_filter(wait)])
    headers = [(b"x-forwarded-for", b"192.0.2.7")]
    scope = {"type": "websocket", "path": "/", "headers": headers, "user": user()}
    serving = asyncio.create_task(app(scope, receive, socket.send))
    async with limited():
        await socket.accepted.wait()
        socket.events.put_nowait({"type": "websocket.receive", "text": "x"})
        await serving
    assert lines("receive() failed") == lines("accepted connection")


async def test_a_connection_whose_task_is_cancelled_is_named(lines):
    socket = Socket()
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    scope = {"type": "websocket", "path": "/", "headers": [], "user": user()}
    serving = asyncio.create_task(app(scope, socket.events.get, socket.send))
    async with limited():
        await socket.accepted.wait()
        await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
    assert lines("its task was cancelled") == lines("accepted connection")


# What the documentation says


@pytest.fixture
def logging_of(monkeypatch):
    """``LOGGING`` of the page, until the end of the test."""
    ours, root = logging.getLogger("filtered_websocket"), logging.getLogger()
    before = [(one, one.level, one.propagate, list(one.handlers)) for one in (ours, root)]

    def use(name):
        exec(named("docs/log.md")[name], made := {})
        logging.config.dictConfig(made["LOGGING"])

    yield use
    for logger, level, propagate, handlers in before:
        logger.setLevel(level)
        logger.propagate, logger.handlers[:] = propagate, handlers


def stderr_of(capsys, words):
    return [line for line in capsys.readouterr().err.splitlines() if words in line]


async def test_the_documented_lines_of_text_have_the_fields(logging_of, capsys, settings):
    settings.FILTERED_WEBSOCKET = PROXY
    logging_of("LOGGING as text")
    async with connect([], user=user(), headers=HEADERS) as ann:
        mine = ann.connection.id
    [line] = stderr_of(capsys, "accepted")
    assert f" INFO filtered_websocket.connections.refusals [{mine} 5 192.0.2.7] accepted" in line


async def test_the_documented_lines_of_json_have_them_also_of_a_sites_own_filter(
    logging_of, capsys, settings
):
    settings.FILTERED_WEBSOCKET = PROXY
    logging_of("LOGGING as JSON")
    exec(named("docs/log.md")["a line of a filter"], made := {"__name__": __name__})
    async with connect([made["Notice"]], user=user(), headers=HEADERS) as ann:
        who = ann.connection.log_fields
        await ann.send("12345")
        await ann.settle()
    written = [json.loads(line) for line in stderr_of(capsys, "{")]
    told = {one["message"].partition(" ")[0]: one for one in written}
    assert told["accepted"].items() >= who.items()
    assert told["a"]["message"] == "a message of 5 bytes" and told["a"].items() >= who.items()
    assert sys.modules[__name__].__name__ == told["a"]["logger"]
