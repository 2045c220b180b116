"""Wrappers of a server's ``send``: transports.wrappers."""

import asyncio
import functools
import sys
import types

import pytest
from channels.sessions import InstanceSessionWrapper
from daphne.http_protocol import WebRequest
from twisted.internet import tcp

from filtered_websocket.transports import AsgiTransport, wrappers
from filtered_websocket.transports.daphne import DaphneLane
from filtered_websocket.transports.uvicorn import UvicornLane
from filtered_websocket.transports.wrappers import (
    Response,
    describe,
    find_response,
    hide_query,
    unwrap,
)

from . import test_daphne, test_uvicorn


@pytest.fixture
def sentry(monkeypatch):
    """Sentry's middleware, imported without what else is installed here."""
    for name in ("eventlet", "gevent"):
        monkeypatch.setitem(sys.modules, name, None)
    module = pytest.importorskip("sentry_sdk.integrations.asgi")
    return module.SentryAsgiMiddleware


def wrapped(serving, middleware):
    class Wrapped(serving):
        async def application(self, scope, receive, send):
            async def app(scope, receive, send):
                await super(Wrapped, self).application(scope, receive, send)

            await middleware(app)(scope, receive, send)

    return Wrapped


@pytest.mark.repeats
async def test_behind_sentry_daphnes_lane_is_used(sentry):
    one = await wrapped(test_daphne.Serving, sentry)(tcp.Server).accept()
    assert type(one.transport) is DaphneLane
    assert one.send.__name__ == "_sentry_wrapped_send"
    one.transport.write(test_daphne.text("now"))
    assert one.got() == test_daphne.wire("now")
    one.end()


async def test_behind_sentry_uvicorns_lane_is_used(sentry):
    one = await wrapped(test_uvicorn.Serving, sentry)().accept()
    assert type(one.transport) is UvicornLane
    await one.end()


async def test_any_other_middleware_sees_every_event():
    seen = []

    def middleware(app):
        async def call(scope, receive, send):
            async def noting_send(event):
                seen.append(event["type"])
                await send(event)

            await app(scope, receive, noting_send)

        return call

    one = await wrapped(test_daphne.Serving, middleware)(tcp.Server).accept()
    assert type(one.transport) is AsgiTransport
    one.transport.write(test_daphne.text("now"))
    await one.transport.stopped()
    assert seen == ["websocket.accept", "websocket.send"]
    one.end()


async def the_send_of(sentry):
    """What an application behind Sentry's middleware is given, and the server's own."""
    got = []

    async def own(event):
        raise AssertionError("not called")

    async def app(scope, receive, send):
        got.append(send)

    scope = {"type": "websocket", "path": "/", "headers": [], "query_string": b""}
    await sentry(app)(scope, None, own)
    return got[0], own


async def test_the_installed_sentry_is_as_known(sentry):
    send, own = await the_send_of(sentry)
    assert unwrap(send) is own
    # Whatever it is wrapped in besides.
    assert unwrap(InstanceSessionWrapper({"session": None}, send).send) is own


async def test_a_sentry_that_does_more_is_not_looked_through(sentry, monkeypatch):
    send, _ = await the_send_of(sentry)
    with monkeypatch.context() as patch:
        patch.setattr(wrappers, "SENTRY_NAMES", {"get"})
        assert unwrap(send) is send
    with monkeypatch.context() as patch:
        patch.setattr(wrappers, "SENTRY_VARIABLES", {"send"})
        assert unwrap(send) is send
    # A function of the same name and code from elsewhere.
    copy = types.FunctionType(
        send.__code__.replace(), send.__globals__, send.__name__, None, send.__closure__
    )
    assert unwrap(copy) is copy
    monkeypatch.setattr(sentry, "_run_app", functools.partial(print))
    assert unwrap(send) is send


async def test_a_function_of_sentrys_that_has_no_send_is_not_looked_through(sentry, monkeypatch):
    def method():
        def function(event):
            """Has no variable of the method."""

        return function

    monkeypatch.setattr(sentry, "_run_app", method)
    function = method()
    assert unwrap(function) is function


def test_a_wrapper_that_looks_like_channels_is_not_looked_through():
    def send(event):
        raise AssertionError("not called")

    class Counting:
        def __init__(self, send):
            self.real_send = send

        async def send(self, event):
            await self.real_send(event)

    counting = Counting(send).send
    outer = InstanceSessionWrapper({"session": None}, counting)
    assert unwrap(InstanceSessionWrapper({"session": None}, outer.send).send) == counting
    assert unwrap(send) is send


def test_a_send_is_described_by_where_it_is_defined():
    class Sends:
        async def __call__(self, event):
            raise AssertionError("not called")

    assert describe(functools.partial(functools.partial(describe, 1))) == (
        "filtered_websocket.transports.wrappers.describe"
    )
    assert describe(Sends()).endswith("<locals>.Sends")
    assert describe(print) == "builtins.print"


# HTTP responses


class Transport:
    """Of a connection that a response is sent on."""

    def __init__(self):
        self.aborted = 0

    def abortConnection(self):
        self.aborted += 1


class Channel:
    """What Twisted's HTTP/1.1 is to a request."""

    def __init__(self):
        self.transport = Transport()


class StreamOfHttp2:
    """It has no transport of its own."""

    aborted = 0
    abortConnection = Transport.abortConnection


def request_of_daphne(channel):
    """daphne's request, made without a server."""
    request = WebRequest.__new__(WebRequest)
    request.channel, request.path, request.uri = channel, b"/a", b"/a?secret"
    request.producer = None
    channel.registerProducer = lambda producer, streaming: setattr(channel, "of", producer)
    channel.unregisterProducer = lambda: setattr(channel, "of", None)
    return request


async def waits(response):
    """Whether it has no room, and what waits for some."""
    waiting = asyncio.ensure_future(response.room())
    await asyncio.sleep(0)
    return not waiting.done(), waiting


def found(request):
    async def handle_reply(protocol, message):
        """As daphne's server."""

    return find_response(functools.partial(handle_reply, request))


async def test_of_daphne_a_response_waits_while_twisted_says_so():
    channel = Channel()
    response = found(request_of_daphne(channel))
    assert channel.of is response and response.takes_now
    response.resumeProducing()
    assert not (await waits(response))[0]
    channel.of.pauseProducing()
    is_waiting, first = await waits(response)
    assert is_waiting and not response.takes_now
    channel.of.pauseProducing()
    channel.of.resumeProducing()
    await first
    channel.of.pauseProducing()
    is_waiting, second = await waits(response)
    assert is_waiting
    response.release()
    await second
    assert channel.of is None
    response.pauseProducing()
    assert not (await waits(response))[0]
    response.release()


async def test_daphne_logs_no_query_of_what_it_is_told_of():
    request = request_of_daphne(Channel())
    hide_query(functools.partial(print, request))
    assert request.uri == b"/a"
    hide_query(print)
    del request.path
    hide_query(functools.partial(print, request))


@pytest.mark.parametrize("kind", [Channel, StreamOfHttp2])
async def test_a_response_of_daphne_can_be_cut_off(kind):
    channel = kind()
    response = found(request_of_daphne(channel))
    response.abort()
    assert response.is_aborted and channel.of is None
    assert getattr(channel, "transport", channel).aborted == 1


async def test_where_daphne_has_lost_the_connection_there_is_nothing_to_cut_off():
    request = request_of_daphne(Channel())
    response = found(request)
    request.channel = None
    response.abort()
    assert response.is_aborted


async def test_a_release_of_daphne_that_differs_is_any_server():
    request = request_of_daphne(Channel())
    del request.channel.registerProducer
    assert type(found(request)) is Response
    assert type(find_response(functools.partial(print, "any"))) is Response


@pytest.mark.parametrize("name", wrappers.UVICORN)
async def test_a_response_of_uvicorn_can_be_cut_off(name, monkeypatch):
    module = types.ModuleType(name)

    class RequestResponseCycle:
        def __init__(self):
            self.flow = types.SimpleNamespace(write_paused=False)
            self.transport = types.SimpleNamespace(
                abort=lambda: aborted.append(1), get_extra_info=lambda name: None
            )

        async def send(self, event):
            """As uvicorn's."""

    aborted = []
    module.RequestResponseCycle = RequestResponseCycle
    monkeypatch.setitem(sys.modules, name, module)
    cycle = RequestResponseCycle()
    response = find_response(cycle.send)
    assert response.takes_now
    cycle.flow.write_paused = True
    assert not response.takes_now
    response.abort()
    await response.room()
    response.release()
    assert response.is_aborted and aborted == [1]
    del cycle.flow
    assert type(find_response(cycle.send)) is Response


def test_uvicorn_has_what_is_looked_for():
    from uvicorn.protocols.http import h11_impl

    assert h11_impl.__name__ in wrappers.UVICORN
    assert "send" in vars(h11_impl.RequestResponseCycle)


async def test_of_any_other_server_nothing_is_known():
    response = find_response(print)
    response.abort()
    await response.room()
    response.release()
    assert not (response.is_aborted or response.takes_now)
