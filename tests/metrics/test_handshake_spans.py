"""The span of each handshake: what it says, and whose trace it is in."""

import asyncio

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.urls import path
from opentelemetry import context, propagate, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from filtered_websocket import (
    Close,
    Drop,
    WebSocketConnectFilter,
    WebSocketMessageFilter,
    routing,
    tracing,
)
from filtered_websocket.auth.tickets import issue
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.drain import ending
from filtered_websocket.metrics import handshake_spans
from filtered_websocket.models import Token
from filtered_websocket.routing import websocket_application
from filtered_websocket.testing import connect

from ..handshaking import shake_hands
from ..history.driver import route
from ..protocols.clients import app as centrifuge
from ..secrecy import PLAIN_KEY
from ..snippets import named
from .spans import Spans, id_of, linked
from .test_chain_spans import filter_of, outcome, raising

pytestmark = pytest.mark.django_db(transaction=True)

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def site(*filters, **options):
    """A site's application, with one route."""
    served = FilteredWebSocketConsumer.as_asgi(filters=list(filters), **options)
    return websocket_application([path("chat/<int:room>/", served)])


async def shake(app, where="/chat/7/", **scope):
    client = await shake_hands(app, path=where, raw_path=where.encode(), **scope)
    await client.close()
    return client


async def test_a_handshake_that_is_accepted(spans):
    headers = [("user-agent", b"Mozilla/5.0\n"), ("x-secret", b"secret")]
    client = await shake(
        site(), headers=headers, query="q=secret", scheme="wss", http_version="1.1"
    )
    assert client.accepted
    span = spans.one("GET /chat/<int:room>/")
    assert span.kind is SpanKind.SERVER and span.parent is None
    attributes = dict(span.attributes)
    assert attributes.pop("fws.connection.id")
    assert attributes == {
        "http.request.method": "GET",
        "http.route": "/chat/<int:room>/",
        "http.response.status_code": 101,
        "url.scheme": "wss",
        "url.path": "/chat/7/",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "network.peer.address": "192.0.2.1",
        "network.peer.port": 9,
        "client.address": "192.0.2.1",
        "user_agent.original": r"Mozilla/5.0\n",
        "fws.outcome": "accepted",
    }


async def test_behind_a_proxy_the_client_has_the_address_that_connections_are_counted_by(
    spans, settings
):
    settings.FILTERED_WEBSOCKET = {"TRUSTED_PROXIES": 1}
    await shake(site(), headers=[("x-forwarded-for", b"2001:db8:1:2:3:4:5:6")])
    attributes = spans.one("GET /chat/<int:room>/").attributes
    assert attributes["client.address"] == "2001:db8:1:2::/64"
    assert attributes["network.peer.address"] == "192.0.2.1"


async def test_a_client_on_a_unix_socket_has_no_address(spans):
    await shake(site(), client=None)
    attributes = spans.one("GET /chat/<int:room>/").attributes
    assert "client.address" not in attributes and "network.peer.address" not in attributes


async def test_its_span_ends_with_the_answer_and_not_with_the_connection(spans):
    async with connect(route()) as ann:
        assert spans.one("GET")
        spans.clear()
        await ann.send('["leave", "plain:1"]')
        await ann.receive()
    assert spans.named("GET") == []


@pytest.mark.parametrize("client", [("/run/a.sock", None), ("", 0)])
async def test_what_a_server_knows_of_the_client_is_shown_and_no_more(spans, client):
    await shake(site(), client=client)
    shown = [value for name, value in spans.all[0].attributes.items() if "network.peer" in name]
    assert shown == [part for part in client if part]


@pytest.mark.parametrize("how", ["session", "connect"])
async def test_what_is_asked_meanwhile_is_below_it(spans, monkeypatch, how):
    def ask(*args):
        with spans.tracer.start_as_current_span("a query"):
            pass

    async def find_user(scope):
        ask()

    if how == "session":
        monkeypatch.setattr(routing, "session_user", find_user)
        await shake(site())
        assert spans.tree == ["GET /chat/<int:room>/", "  a query"]
    else:
        await shake(site(filter_of(WebSocketConnectFilter, "Ask", ask)))
        name = "connect /chat/<int:room>/"
        below = ["a query", "Ask", name]
        for depth, line in enumerate(reversed(below), 1):
            assert "  " * depth + line in spans.tree


# Refused


def refusal(span):
    return {
        name.partition(".")[2]: value
        for name, value in span.attributes.items()
        if name
        in (
            "fws.outcome",
            "fws.refusal",
            "fws.close.code",
            "http.response.status_code",
        )
    }


def refused(code, reason, status=403):
    return {
        "response.status_code": status,
        "outcome": "refused",
        "close.code": code,
        "refusal": reason,
    }


async def test_a_page_of_another_site(spans):
    client = await shake(site(), headers=[("origin", b"http://evil.example")])
    assert not client.accepted
    assert refusal(spans.one("GET")) == refused(4403, "the origin is not allowed")
    assert spans.one("GET").status.status_code is StatusCode.UNSET


async def test_a_path_without_a_route(spans):
    await shake(site(), "/no/such/path/")
    reason = "no WebSocket route for /no/such/path/"
    assert refusal(spans.one("GET")) == refused(4403, reason)


async def test_a_process_that_drains(spans):
    ending.set()
    try:
        await shake(site())
    finally:
        ending.clear()
    assert refusal(spans.one("GET"))["close.code"] == 4200


async def test_a_user_who_cannot_be_looked_up(spans, monkeypatch):
    async def fail(scope):
        raise RuntimeError("no database")

    monkeypatch.setattr(routing, "session_user", fail)
    await shake(site())
    span = spans.one("GET")
    assert refusal(span) == refused(4500, "cannot find out who connects")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "cannot find out who connects"
    assert span.events[0].attributes["exception.message"] == "no database"


@pytest.mark.parametrize(
    ("error", "code"), [(Drop(), 4403), (Close(4402, "pay first"), 4402), (KeyError("x"), 4500)]
)
@pytest.mark.parametrize(("how", "status"), [("403", 403), ("close", 101)])
async def test_a_connect_filter_refuses(spans, settings, error, code, how, status):
    settings.FILTERED_WEBSOCKET = {"REFUSE_WITH": how}
    await shake(site(filter_of(WebSocketConnectFilter, "Refuse", raising(error))))
    span = spans.one("GET /chat/<int:room>/")
    assert refusal(span)["close.code"] == code and refusal(span)["outcome"] == "refused"
    assert refusal(span)["response.status_code"] == status
    is_error = span.status.status_code is StatusCode.ERROR
    assert is_error == isinstance(error, KeyError)
    assert spans.tree == [
        "GET /chat/<int:room>/",
        "  connect /chat/<int:room>/",
        "    Refuse",
    ]


async def test_a_client_that_leaves_before_it_is_answered(spans, settings):
    settings.FILTERED_WEBSOCKET = {"FILTER_GRACE": 0.1}
    entered = asyncio.Event()

    async def wait(cls, connection, handshake):
        entered.set()
        await asyncio.Event().wait()

    made = type(
        "Wait",
        (WebSocketConnectFilter,),
        {"filter": classmethod(wait), "_registers": False, "__module__": __name__},
    )
    app = FilteredWebSocketConsumer.as_asgi(filters=[made])
    opening = asyncio.ensure_future(connect(app)._open())
    await entered.wait()
    client = next(task for task in asyncio.all_tasks() if task.get_name() == "fws-test-connection")
    client.cancel()
    await asyncio.wait({opening, client})
    assert outcome(spans.one("GET")) == "lost"
    assert opening.exception() or opening.result().close_code == 4500


@pytest.mark.parametrize("headers", [[], [("authorization", f"Token {PLAIN_KEY}".encode())]])
async def test_a_protocol_is_accepted_and_its_connect_chain_comes_later(spans, headers):
    ask = filter_of(WebSocketConnectFilter, "Ask")
    client = await shake_hands(centrifuge(filters=[ask]), headers=headers)
    if not headers:
        await client.send('{"id": 1, "connect": {}}')
        await client.receive()
    await client.close()
    span = spans.one("GET")
    assert span.attributes["http.response.status_code"] == 101
    if headers:  # a key that nobody has
        assert refusal(span)["close.code"] == 4401 and spans.named("connect") == []
    else:
        assert outcome(span) == "accepted"
        assert linked(spans.one("connect")) == [id_of(span)]


async def test_a_refusal_after_the_answer_is_not_of_the_handshake(spans):
    refuse = filter_of(WebSocketConnectFilter, "Refuse", raising(Drop()))
    client = await shake_hands(centrifuge(filters=[refuse]))
    await client.send('{"id": 1, "connect": {}}')
    await client.closed()
    await client.close()
    assert outcome(spans.one("GET")) == "accepted" and outcome(spans.one("connect")) == "drop"


async def test_a_consumer_without_our_routing_has_one_span_as_well(spans):
    async with connect([filter_of(WebSocketMessageFilter, "Read")]):
        pass
    assert len(spans.named("GET")) == 1


async def test_a_route_to_another_consumer_has_no_span_that_never_ends(spans):
    async def other(scope, receive, send):
        await receive()
        assert not trace.get_current_span().get_span_context().is_valid
        await send({"type": "websocket.close"})

    await shake(websocket_application([path("chat/7/", other)]))
    assert spans.all == []


async def test_a_refusal_that_is_told_twice_is_one_span(spans):
    scope = tracing.active.handshake({"path": "/", "headers": []})
    assert tracing.active.handshake(scope) is scope
    for reason in ("the first reason", "another one"):
        tracing.active.refused(scope, 4403, reason)
    assert refusal(spans.one("GET"))["refusal"] == "the first reason"


async def test_a_handshake_before_traces_began_is_served(spans):
    """Its scope knows no span."""
    scope = {"path": "/"}
    assert await handshake_spans.within(scope, asyncio.sleep(0, "done")) == "done"
    handshake_spans.refused(scope, 4403, "no")

    class Waiting:
        pass

    Waiting.scope = scope
    opened = handshake_spans.opening(asyncio.sleep(0, "done"), Waiting, None)
    assert await opened == "done" and spans.all == []


async def test_one_that_is_not_sampled_is_not_linked_to(no_traces):
    spans = Spans(sampler=ALWAYS_OFF)
    spans.begin()
    async with connect(site(), "/chat/7/") as ann:
        handshake = handshake_spans.handshake_of(ann.connection.scope)
        assert handshake.span is None and not handshake.is_sampled
    assert spans.all == []


# Whose trace


async def test_the_trace_of_a_stranger_is_a_link_and_decides_nothing(spans):
    headers = [("traceparent", PARENT.encode()), ("tracestate", b"any=text")]
    await shake(site(), headers=headers)
    span = spans.one("GET /chat/<int:room>/")
    assert span.parent is None and span.context.trace_id != int("a" * 32, 16)
    [link] = span.links
    assert link.context.trace_id == int("a" * 32, 16) and link.context.is_remote
    assert not link.context.trace_state


async def test_a_stranger_cannot_have_a_handshake_sampled(no_traces):
    spans = Spans(sampler=ALWAYS_OFF)
    spans.begin()
    await shake(site(), headers=[("traceparent", PARENT.encode())])
    assert spans.all == []


@pytest.mark.parametrize("value", [b"nonsense", b"\xff", b"x" * 10_000, b""])
async def test_what_is_no_trace_is_no_link(spans, value):
    client = await shake(site(), headers=[("traceparent", value)])
    assert client.accepted and spans.one("GET /chat/<int:room>/").links == ()


async def test_a_propagator_of_the_site_that_raises_costs_the_link(spans, monkeypatch, caplog):
    class Fails:
        fields = {"traceparent"}

        def extract(self, *args):
            raise RuntimeError("a propagator of the site")

    monkeypatch.setattr(propagate, "get_global_textmap", Fails)
    client = await shake(site(), headers=[("traceparent", PARENT.encode())])
    assert client.accepted and spans.one("GET /chat/<int:room>/").links == ()
    assert "a propagator of the site" in caplog.text


async def test_a_middleware_of_the_site_continues_the_trace_of_its_proxy(spans):
    """The one that docs/traces.md shows; what comes later is not in that trace."""
    page = {}
    exec(named("docs/traces.md")["trusting.py"], page)
    app = page["continue_traces"](site(filter_of(WebSocketMessageFilter, "Read")))
    client = await shake_hands(
        app, path="/chat/7/", raw_path=b"/chat/7/", headers=[("traceparent", PARENT.encode())]
    )
    await client.send("hi")
    await client.settle()
    await client.close()
    span = spans.one("GET /chat/<int:room>/")
    assert span.parent.span_id == int("b" * 16, 16) and span.links == ()
    message = spans.one("message /chat/<int:room>/")
    assert message.parent is None and linked(message) == [id_of(span)]
    assert not trace.get_current_span(context.get_current()).get_span_context().is_valid


# Secrets


def note(connection, data):
    connection.publish({"body": data.decode()}, "plain:1", to_self=True)


def fail(connection, handshake):
    raise ValueError(f"{PLAIN_KEY} is no room")


@sync_to_async
def secrets_of_a_site():
    """A key, the key of a session, and a ticket."""
    _, key = Token.objects.create_key(name="till")
    session = SessionStore()
    session["cart"] = "s3cret-cart"
    session.create()
    ticket = issue(User.objects.create(username="ann"), SessionStore())
    return str(key), session.session_key, ticket


async def test_no_span_shows_a_key_a_cookie_a_query_or_a_payload(spans):
    key, session, ticket = await secrets_of_a_site()
    headers = [
        ("cookie", f"sessionid={session}; other=s3cret-cookie".encode()),
        ("x-api-key", b"s3cret-header"),
    ]
    offers = [
        {"headers": [*headers, ("authorization", f"Token {key}".encode())]},
        {"headers": headers, "subprotocols": ["fws", f"fws.token.{key}"]},
        {"headers": headers, "query": "q=s3cret-query"},
        {"query": f"ticket={ticket}"},
    ]
    for offer in offers:
        client = await shake_hands(
            site(filter_of(WebSocketMessageFilter, "Note", note)),
            path="/chat/7/",
            raw_path=b"/chat/7/",
            **offer,
        )
        assert client.accepted
        await client.connection.join("plain:1", trusted=True)
        await client.send("s3cret-payload")
        assert await client.receive() == '{"body":"s3cret-payload"}'
        await client.close()
    # A ticket and a key that nobody has, and one where it does not belong.
    for query in (f"ticket={PLAIN_KEY}", f"token={PLAIN_KEY}"):
        assert not (await shake(site(), query=query)).accepted
    await shake(site(), f"/{PLAIN_KEY}/")
    await shake(site(), headers=[("user-agent", PLAIN_KEY.encode())])
    await shake(site(filter_of(WebSocketConnectFilter, "Fail", fail)))
    told = "\n".join(span.to_json() for span in spans.all)
    for name in ("message /chat/<int:room>/", "publish", "process"):
        assert len(spans.named(name)) == len(offers)
    assert "is no room" in told and "no WebSocket route for /fws_" in told
    for secret in ("s3cret", key, PLAIN_KEY, PLAIN_KEY[:24], session, ticket, ticket[:24]):
        assert secret not in told
