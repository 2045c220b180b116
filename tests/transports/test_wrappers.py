"""Wrappers of a server's ``send``: transports.wrappers."""

import functools
import sys
import types

import pytest
from channels.sessions import InstanceSessionWrapper
from twisted.internet import tcp

from filtered_websocket.transports import AsgiTransport, wrappers
from filtered_websocket.transports.daphne import DaphneLane
from filtered_websocket.transports.uvicorn import UvicornLane
from filtered_websocket.transports.wrappers import describe, unwrap

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
