"""
What strangers' bytes may reach, each as a function of bytes that raises where a promise is
broken. The first byte of an input chooses the function, so that one run serves all.
"""

import asyncio
import hashlib
import itertools
import json
import re
import time

import msgpack
from channels.layers import get_channel_layer
from django.test import RequestFactory, override_settings
from django.urls import register_converter, resolve

from filtered_websocket import Drop, WebSocketDataFilter, WebSocketMessageFilter
from filtered_websocket.auth.credentials import credentials, without_credentials
from filtered_websocket.codecs.centrifuge import JSON, PROTOBUF, BadFrame
from filtered_websocket.codecs.data import Data, from_bytes
from filtered_websocket.codecs.pusher import SYSTEM_PREFIXES
from filtered_websocket.codecs.pusher import BadFrame as BadEvent
from filtered_websocket.codecs.pusher import read as read_event
from filtered_websocket.codecs.schema import protobuf_class
from filtered_websocket.connections.handshake import Handshake, refusal_reason
from filtered_websocket.connections.origins import is_same_origin, one_of_origins, site_rule
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.base import printable
from filtered_websocket.filters.broadcast_messages_by_token import TokenMessageFilter
from filtered_websocket.groups import History, group
from filtered_websocket.layer.envelope import (
    BadEnvelope,
    Sequence,
    group_key,
    new_origin,
    seal,
    unseal,
)
from filtered_websocket.publish import apublish
from filtered_websocket.pusher.apps import make_app
from filtered_websocket.testing import Client, Closed

from ..pusher.clients import APP, routed, with_app
from ..pusher.clients import app as pusher_app
from ..waiting import LIMIT

#: Deeper than this, whose stack is short decides.
DEEP = 100


class JSONCodec:
    def decode(self, frame, text):
        return json.loads(frame)

    def encode(self, message, meta):
        return json.dumps(message)


class Look(WebSocketDataFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        printable(data)
        return bytes(data)


class Echo(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, message):
        web_socket_instance.push(message)


class Once(WebSocketMessageFilter):
    """The end of the chain, so that what is sent is not published too."""

    @classmethod
    def filter(cls, web_socket_instance, message):
        raise Drop


class Bench:
    """A loop, two connections on it, and a way to ask whether they are still open."""

    def __init__(self):
        self.runner = asyncio.Runner()
        self.clients = {}
        self.count = 0

    def run(self, coroutine):
        return self.runner.run(asyncio.wait_for(coroutine, LIMIT))

    async def client(self, codec):
        client = self.clients.get(codec)
        if client is None or client.close_code is not None:
            app = FilteredWebSocketConsumer.as_asgi(
                filters=[Look, Echo, Once],
                groups=["codec" if codec else "g"],
                codec=JSONCodec() if codec else None,
            )
            client = self.clients[codec] = Client(app, scope(b"/"))
            await client.open()
            assert client.accepted
        return client

    def marker(self):
        self.count += 1
        return f'"marker {self.count}"'

    def close(self):
        async def close():
            for client in self.clients.values():
                await client.close()
            await speakers.close()
            await pusher_client.close()

        self.run(close())
        self.clients.clear()
        self.runner.close()


bench = Bench()


def scope(path, query=b"", subprotocols=(), headers=()):
    return {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "subprotocols": list(subprotocols),
        "client": ["192.0.2.1", 9],
    }


async def _heard(client, marker):
    heard = []
    while (message := await client.receive()) != marker:
        heard.append(message)
    return heard


async def _echo(message, codec):
    """The answer to one frame."""
    client = await bench.client(codec)
    marker = bench.marker()
    await client.send(message)
    await client.send(marker)
    return await _heard(client, marker)


def _message(data):
    """As text if it is UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def frames(data):
    """A frame through data and message chain comes back as it was."""
    message = _message(data)
    heard = bench.run(_echo(message, codec=False))
    assert heard == [message], heard


def documents(data):
    """A frame through the codec comes back, or is dropped; the connection lives."""
    message = _message(data)
    try:
        expected = [json.dumps(json.loads(data))]
    except (ValueError, RecursionError):
        expected = []
    heard = bench.run(_echo(message, codec=True))
    if data.count(b"[") + data.count(b"{") < DEEP:
        assert heard == expected, (heard, expected)


def envelopes(data):
    """Whatever a stranger publishes on Redis, the hub drops it or delivers it, and lives."""
    try:
        envelope = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException):
        return  # the layer itself says so
    try:
        batch = unseal(envelope)
    except BadEnvelope:
        batch = None
    else:
        Sequence().record(batch)
        assert seal(batch)["m"] == [list(item) for item in envelope["m"]]
    if not isinstance(envelope, dict):
        return

    async def forge():
        client = await bench.client(codec=False)
        layer = get_channel_layer()
        for key in (group_key("g"), group_key("")):
            # A publisher that is new every time: nothing is a repetition.
            known = {"type": "x", "g": key, "o": new_origin()}
            await layer.group_send(group_key("g"), {**envelope, **known})
        marker = bench.marker()
        await apublish(marker, "g")
        await _heard(client, marker)

    bench.run(forge())


def handshakes(data):
    """No handshake raises; one without its credentials has none."""
    path, query, offered, *lines = [*data.split(b"\0"), b"", b""]
    headers = []
    for line in lines:
        name, _, value = line.partition(b": ")
        headers.append((name.lower(), value))
    asked = scope(path, query, [name.decode("latin-1") for name in offered.split(b",")], headers)
    found = credentials(asked)
    clean = without_credentials(asked)
    assert credentials(clean) == []
    assert all(repr(one) == f"<Credential {one.kind}>" for one in found)
    Handshake(asked)
    for rule in (site_rule, is_same_origin, one_of_origins(["https://*.example.com", "*"])):
        for any_host in (True, False):
            assert isinstance(refusal_reason(asked, rule, any_host=any_host), str)


def keys(data):
    """The key in a message, as the pattern of 2014 found it."""
    found = re.search(rb"token:([^\s]*)", data)
    expected = found[1].decode("utf-8", "backslashreplace") if found else ""
    assert TokenMessageFilter.find_key(bytearray(data)) == expected


class AnyName:
    """Any name of a group."""

    regex = ".+"
    to_python = to_url = staticmethod(str)


register_converter(AnyName, "fuzzed")
RULES = [
    group(
        "<fuzzed:name>",
        publish=True,
        binary=True,
        presence=True,
        join_leave=True,
        history=History(size=10, ttl=60),
    )
]


class Speakers:
    """A client of the Centrifuge protocol in each format, connected."""

    def __init__(self):
        self.clients = {}
        self.app = None

    async def client(self, form):
        client = self.clients.get(form)
        if client is None or client.close_code is not None:
            if self.app is None:
                self.app = FilteredWebSocketConsumer.as_asgi(
                    filters=[Look], protocol="centrifuge", group_rules=RULES
                )
            client = self.clients[form] = Client(self.app, scope(b"/", b"", [form.subprotocol]))
            await client.open()
            await client.send(command(form, id=1, connect={}))
            await client.receive()
        return client

    async def close(self):
        for client in self.clients.values():
            await client.close()
        self.clients.clear()


speakers = Speakers()


def command(form, **fields):
    """A frame with one command, as a client writes it."""
    if form is JSON:
        return json.dumps(fields)
    message = protobuf_class("Command")(id=fields.pop("id"))
    for name in fields:
        getattr(message, name).SetInParent()
    body = message.SerializeToString()
    return bytes([len(body)]) + body


async def _speak(form, data):
    """What is sent for a frame; None at its end if the connection was closed with 3501."""
    client = await speakers.client(form)
    number = 4_000_000_000 + next(_markers) % 90_000_000
    marker = form.reply({"id": number, "ping": {}}).payload
    await client.send(data)
    await client.send(command(form, id=number, ping={}))
    heard = []
    try:
        while True:
            message = await client.receive()
            payload = message.encode() if isinstance(message, str) else message
            if payload == marker:
                return heard
            heard.append(payload)
    except Closed:
        assert client.close_code == 3501, client.close_code
        return [*heard, None]


_markers = itertools.count()


def _commands(form, frame, text):
    """
    What a frame is decoded to can be decoded again; one that cannot is answered with 3501
    alone; and whatever it asks for, the connection lives and answers, or is closed with 3501.
    """
    try:
        decoded = list(form.decode(frame, text))
    except BadFrame:
        decoded = None
    for one in decoded or ():
        for request in one.values():
            if isinstance(request, dict) and isinstance(request.get("data"), Data):
                assert from_bytes(request["data"].payload) == request["data"]
    heard = bench.run(_speak(form, frame.decode() if text else frame))
    if decoded is None:
        # Joins and leaves of what was subscribed before may come; replies may not.
        assert heard[-1] is None, heard
        assert not any(one.startswith(b'{"id":') for one in heard[:-1]), heard


def json_commands(data):
    """Frames of clients of the Centrifuge protocol, in JSON."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return  # no server hands on such a text frame
    _commands(JSON, data, True)


def protobuf_commands(data):
    """The same in Protobuf."""
    _commands(PROTOBUF, data, False)


class PusherClient:
    """A client of the Pusher protocol, connected."""

    def __init__(self):
        self.client, self.app, self.socket_id = None, None, ""

    async def open(self):
        if self.client is None or self.client.close_code is not None:
            with override_settings(FILTERED_WEBSOCKET=with_app()):
                if self.app is None:
                    self.app = routed(pusher_app([Look]), "app-key")
                self.client = Client(self.app, scope(b"/app", b"protocol=7"))
                await self.client.open()
                told = json.loads(await self.client.receive())
            self.socket_id = json.loads(told["data"])["socket_id"]
        return self.client

    async def close(self):
        if self.client is not None:
            await self.client.close()
        self.client = None


pusher_client = PusherClient()


async def _say(*texts):
    """What is sent for frames; None at its end if the connection was closed with 4009."""
    client = await pusher_client.open()
    # Answered with its name, whether there are too many groups or not.
    name = f"marker-{next(_markers)}"
    for text in texts:
        await client.send(text)
    await client.send(json.dumps({"event": "pusher:subscribe", "data": {"channel": name}}))
    await client.send(json.dumps({"event": "pusher:unsubscribe", "data": {"channel": name}}))
    heard = []
    try:
        while (message := json.loads(await client.receive())).get("channel") != name:
            # Others are what was published to a channel that an earlier input has subscribed to.
            if message["event"].startswith(SYSTEM_PREFIXES):
                heard.append(message)
    except Closed:
        assert client.close_code == 4009, client.close_code
        heard.append(None)
    return heard


def pusher_events(data):
    """
    Frames of clients of the Pusher protocol: whatever one says, the connection lives and answers,
    or is closed with 4009 where a user is not signed; and only what is no event has an error.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return  # no server hands on such a text frame
    heard = bench.run(_say(text))
    try:
        read_event(data, True)
    except BadEvent:
        assert [one["data"]["code"] for one in heard] == [4200], heard
    assert all(one is None or isinstance(one["event"], str) for one in heard)


PUSHER_APP = make_app(APP, 0)
ROOM = "presence-fuzzed"


def _event(event, data, **fields):
    return json.dumps({"event": event, "data": data, **fields})


def _subscribe(channel_data):
    """As a client whose site has signed whatever ``channel_data`` is."""
    auth = PUSHER_APP.authorize(f"{pusher_client.socket_id}:{ROOM}:{channel_data}")
    fields = {"channel": ROOM, "channel_data": channel_data, "auth": auth}
    return _event("pusher:subscribe", fields)


async def _say_signed(kind, text):
    await pusher_client.open()
    leave = _event("pusher:unsubscribe", {"channel": ROOM})
    if kind == 0:
        return await _say(_subscribe(text), leave)
    if kind == 1:
        auth = PUSHER_APP.authorize(f"{pusher_client.socket_id}::user::{text}")
        return await _say(_event("pusher:signin", {"user_data": text, "auth": auth}))
    joins = _subscribe('{"user_id": "5"}')
    return await _say(joins, _event("client-fuzzed", text, channel=ROOM), leave)


def pusher_signed(data):
    """
    What a site has signed, whatever it is: a member, a user, and the data of an event of a member.
    Each is answered once; who is told to be subscribed is a member by the id that was signed.
    """
    try:
        text = data[1:].decode()
    except UnicodeDecodeError:
        return
    kind = data[0] % 3 if data else 0
    heard = bench.run(_say_signed(kind, text))
    events = [one["event"] for one in heard if one is not None]
    if kind == 0:
        [event] = events
        assert event in ("pusher_internal:subscription_succeeded", "pusher:subscription_error")
        if event == "pusher_internal:subscription_succeeded":
            user, told = json.loads(text)["user_id"], json.loads(heard[0]["data"])["presence"]
            assert told["ids"] == [str(user)] and told["count"] == 1, told
    elif kind == 1:
        assert events in (["pusher:signin_success"], ["pusher:error"])
        assert (events == ["pusher:error"]) == (heard[-1] is None), heard
    else:
        # The second one if there are too many of them.
        assert events[0] == "pusher_internal:subscription_succeeded", heard
        assert all(one["data"]["code"] == 4301 for one in heard[1:]), heard


def _ask(method, path, query, body):
    """The status of an answer of the HTTP API, in a thread as Django runs its views."""
    request = RequestFactory().generic(method, path, body, QUERY_STRING=query)
    found = resolve(path, "filtered_websocket.api.pusher")

    def answer():
        with override_settings(FILTERED_WEBSOCKET=with_app()):
            return found.func(request, **found.kwargs).status_code

    return bench.run(asyncio.to_thread(answer))


def pusher_requests(data):
    """
    Requests to the HTTP API: a body that is signed is published or refused, and a query that
    nobody has signed is refused.
    """
    path = ("/apps/1/events", "/apps/1/batch_events")[data[0] % 2 if data else 0]
    body = data[1:]
    about = {
        "auth_key": PUSHER_APP.key,
        "auth_timestamp": str(int(time.time())),
        "auth_version": "1.0",
        "body_md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
    }
    query = "&".join(f"{key}={about[key]}" for key in sorted(about))
    signature = PUSHER_APP.sign(f"POST\n{path}\n{query}")
    status = _ask("POST", path, f"{query}&auth_signature={signature}", body)
    assert status in (200, 400, 413), status
    assert _ask("GET", "/apps/1/channels", body.decode("latin-1"), b"") == 401


TARGETS = (
    *(frames, documents, envelopes, handshakes, keys, json_commands, protobuf_commands),
    *(pusher_events, pusher_signed, pusher_requests),
)


def one_input(data):
    """The function that a fuzzer calls."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])
