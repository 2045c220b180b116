"""
Nothing that a tee sends, with payloads, has a key, a ticket, a cookie or a token in it, nor
anything that a page of the console is told.
"""

import jwt
import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client as HttpClient
from django.urls import path

from filtered_websocket import WebSocketConnectFilter
from filtered_websocket.auth.tickets import issue
from filtered_websocket.console.tee import on_connection, on_route
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import Token
from filtered_websocket.routing import websocket_application, with_websockets

from ..connections.test_connection import message_filter
from ..handshaking import shake_hands
from ..protocols.clients import RULES, Speaker
from .conftest import look
from .test_tee import BROADCAST, Viewer

pytestmark = pytest.mark.django_db(transaction=True)
HOST = ("host", b"testserver")
CHAT = {"path": "/chat/", "raw_path": b"/chat/"}


@pytest.fixture
def secrets():
    """A key, a session, and a ticket, which works once; all of ann."""
    user = User.objects.create_user("ann", password="x")
    _, key = Token.objects.create_key(name="lamp", user=user)
    http = HttpClient()
    http.force_login(user)
    return {
        "key": str(key),
        "session": http.session.session_key,
        "ticket": issue(user, http.session),
    }


class Wire:
    """All records that leave the process meanwhile."""

    def __init__(self):
        self.sent = b""
        self._link = get_hub().link
        self._post = self._link.post

    def __enter__(self):
        self._link.post = self.post
        return self

    def __exit__(self, *error):
        self._link.post = self._post

    def post(self, batch, on_sent):
        if ".tee." in batch.key:
            self.sent += b"\n".join(item.payload for item in batch.items)
        self._post(batch, on_sent)


def echo(web_socket_instance, data):
    web_socket_instance.push(data)


def fail(web_socket_instance, data):
    raise ValueError(data.decode())


async def test_of_handshakes_and_messages(secrets):
    def look(web_socket_instance, handshake):
        assert handshake.headers is not None

    filters = [message_filter(look, WebSocketConnectFilter), message_filter(echo), BROADCAST]
    chat = FilteredWebSocketConsumer.as_asgi(filters=[*filters, message_filter(fail)])
    application = websocket_application([path("chat/", chat)])
    key, session, ticket = (secrets[name] for name in ("key", "session", "ticket"))
    ways = [
        {"headers": [("authorization", f"Token {key}".encode())]},
        {"subprotocols": ["fws", f"fws.token.{key}"]},
        {"query": f"ticket={ticket}&room=1"},
        {"headers": [("cookie", f"theme=dark; sessionid={session}".encode())]},
    ]
    first = await shake_hands(application, **CHAT, headers=[HOST])
    assert first.accepted
    async with Viewer(on_route("/chat/"), size=4000) as viewer:
        with Wire() as wire:
            clients = []
            for way in ways:
                headers = [HOST, *way.pop("headers", [])]
                client = await shake_hands(application, **CHAT, headers=headers, **way)
                assert client.accepted, client.close_reason
                clients.append(client)
            await viewer.seen(len(ways))
            said = [
                f"the key is {key}!",
                f'{{"token": "{key}", "sessionid": "{session}"}}',
                f"/chat/?ticket={ticket}",
                f"Authorization: Token {key}",
            ]
            for text in said:
                await clients[0].send(text)
            # Its own cookie, in words that say nothing of it.
            await clients[3].send(f"mine: {session}")
            for client in clients:
                await client.settle()
            await viewer.seen(5)
    assert len(wire.sent) > 4000 and b'"how":"error"' in wire.sent and b"room=1" in wire.sent
    found = [name for name, secret in secrets.items() if secret.encode() in wire.sent]
    assert found == []
    # Of a key, what the admin shows as well.
    assert key[:12].encode() in wire.sent and key[:20].encode() not in wire.sent
    for client in (first, *clients):
        await client.close()


async def test_of_frames_of_a_protocol(settings):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": "k" * 32, "AUTHENTICATORS": []}
    token = jwt.encode({"sub": "7"}, "k" * 32, "HS256")
    app = FilteredWebSocketConsumer.as_asgi(filters=[], group_rules=RULES, protocol="centrifuge")
    async with Speaker(app, connects=False) as ann:
        [connection] = get_hub().connections.values()
        with Wire() as wire:
            async with Viewer(on_connection(connection.id)) as viewer:
                assert "connect" in await ann.ask(connect={"token": token, "name": "lamp"})
                await ann.ask(subscribe={"channel": "news"})
                data = {"text": "hi", "token": "abc123"}
                await ann.say({"id": 9, "publish": {"channel": "news", "data": data}})
                assert [*(await ann.hear()), *(await ann.hear())] == ["push", "id", "publish"]
                await viewer.seen(7)
    assert b"lamp" in wire.sent and b"hi" in wire.sent
    for secret in (token.encode(), token.encode().split(b".")[1], b"abc123"):
        assert secret not in wire.sent


async def test_of_all_that_a_page_of_the_console_is_told(secrets, recent):
    """By one of the staff who may see all that it shows, messages too."""
    rules = [group("kept", history=History(size=9, ttl=60), presence=True)]
    chat = FilteredWebSocketConsumer.as_asgi(
        filters=[message_filter(fail)], groups=["kept"], group_rules=rules
    )
    site = with_websockets(None, [path("chat/", chat)])
    key, session, ticket = (secrets[name] for name in ("key", "session", "ticket"))
    ways = [
        {"headers": [HOST, ("authorization", f"Token {key}".encode())]},
        {"headers": [HOST], "query": f"ticket={ticket}"},
        {"headers": [HOST, ("cookie", f"sessionid={session}".encode())]},
    ]
    clients = [await shake_hands(site, **CHAT, **way) for way in ways]
    boss = await sync_to_async(User.objects.create_superuser)("boss")
    told = []
    async with look(site, boss) as watcher:
        receive = watcher.client.receive

        async def note():
            told.append(await receive())
            return told[-1]

        watcher.client.receive = note
        for client in clients:
            assert client.accepted
            for text in (f"bad {key}", f"sessionid={session}", f"ticket={ticket}"):
                await client.send(text)
                await client.connection.apublish(text, "kept")
            await client.settle()
        for method in ("overview", "connections", "groups", "errors"):
            await watcher.call(method)
        for row in (await watcher.call("connections", limit=100))["rows"]:
            await watcher.call("connection", id=row["id"])
        for row in (await watcher.call("errors"))["rows"]:
            await watcher.call("error", key=row["key"])
        await watcher.call("group", name="kept")
        await watcher.call("close", id=clients[0].connection.id)
    everything = "\n".join(told)
    assert '"text":"bad' in everything and '"message":"bad' in everything
    assert '"name":"lamp"' in everything
    assert [name for name, secret in secrets.items() if secret in everything] == []
    assert key[:20] not in everything and boss.password not in everything
    for client in clients:
        await client.close()
