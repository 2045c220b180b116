"""A handshake is read as Django reads an HTTP request with the same headers."""

from io import BytesIO

import pytest
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.test import override_settings
from django.urls import path as url
from hypothesis import given, settings
from hypothesis import strategies as st

from filtered_websocket.auth.authenticators import SessionAuthenticator
from filtered_websocket.connections.handshake import Handshake, cookies_of, is_host_allowed
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.routing import websocket_application
from filtered_websocket.testing import connect

NAMES = [
    b"cookie",
    b"host",
    b"x-forwarded-host",
    b"x_forwarded_host",
    b"x-forwarded-proto",
    b"x-forwarded-port",
    b"origin",
    b"x-other",
]
VALUES = [
    b"testserver",
    b"testserver:9000",
    b"evil.example",
    b"testserver, evil.example",
    b"https",
    b"http",
    b"https, http",
    b"sessionid=abc",
    b"csrftoken=x; sessionid=def;",
    b'a="b c"; sessionid=\xc3\xa4',
    b"",
]
lists = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=12)), max_size=6
)


def as_django(headers, scheme):
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "scheme": scheme}
    return ASGIRequest(scope, BytesIO())


def host_of(request):
    try:
        return request.get_host()
    except DisallowedHost:
        return ""


@settings(max_examples=500)
@given(
    headers=lists,
    scheme=st.sampled_from(["http", "https"]),
    forwarded_host=st.booleans(),
    proxy=st.sampled_from([None, ("HTTP_X_FORWARDED_PROTO", "https")]),
    hosts=st.sampled_from([["testserver"], ["*"], []]),
    debug=st.booleans(),
)
def test_whatever_the_headers_are(headers, scheme, forwarded_host, proxy, hosts, debug):
    chosen = {
        "USE_X_FORWARDED_HOST": forwarded_host,
        "SECURE_PROXY_SSL_HEADER": proxy,
        "ALLOWED_HOSTS": hosts,
        "DEBUG": debug,
    }
    scope = {"path": "/", "headers": headers, "scheme": scheme.replace("http", "ws")}
    with override_settings(**chosen):
        request = as_django(headers, scheme)
        handshake = Handshake(scope)
        assert handshake.cookies == cookies_of(scope) == request.COOKIES
        assert handshake.host == host_of(request)
        assert handshake.is_secure == request.is_secure()
        assert handshake.headers == {k.lower(): v for k, v in request.headers.items()}
        named = {name for name, _ in headers}
        if b"host" in named or (forwarded_host and b"x-forwarded-host" in named):
            assert is_host_allowed(scope) is bool(host_of(request))
        else:
            # Django takes the address of the server; a program may leave it out.
            assert is_host_allowed(scope)


async def test_the_scheme_is_http_where_the_server_does_not_say(settings):
    assert not Handshake({"path": "/", "headers": []}).is_secure


@pytest.mark.parametrize(
    "headers",
    [
        [(b"cookie", b"sessionid=abc")],
        [(b"cookie", b"a=b; sessionid=abc")],
        [(b"cookie", b"a=b"), (b"cookie", b"sessionid=abc")],
        [(b"cookie", b"sessionid=abc"), (b"cookie", b"a=b")],
        [(b"cookie", b'sessionid="abc"')],
        [(b"cookie", b"")],
        [],
    ],
)
def test_the_key_of_the_session_is_that_of_a_page(headers):
    found = cookies_of({"path": "/", "headers": headers})
    assert found == as_django(headers, "http").COOKIES


@pytest.mark.django_db(transaction=True)
async def test_a_second_cookie_header_is_not_ignored(settings):
    """Channels' own middleware reads the first only."""
    settings.FILTERED_WEBSOCKET = {
        "AUTHENTICATORS": [f"{SessionAuthenticator.__module__}.SessionAuthenticator"]
    }
    keys = []

    class Route(FilteredWebSocketConsumer):
        filters = ()

        def get_groups(self):
            keys.append(self.scope["cookies"])
            return ["g"]

    headers = [(b"cookie", b"a=b"), (b"cookie", b"c=d")]
    opening = connect(websocket_application([url("", Route.as_asgi())]))
    opening._client._scope["headers"] = headers
    async with opening:
        assert keys == [as_django(headers, "http").COOKIES]
