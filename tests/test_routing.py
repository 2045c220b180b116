"""WebSocket routes of a site."""

import asyncio
import logging
import threading

import pytest
from asgiref.sync import async_to_sync
from channels.routing import URLRouter
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIRequest
from django.urls import path, re_path

from filtered_websocket import (
    Close,
    Drop,
    WebSocketConnectFilter,
    WebSocketMessageFilter,
    routing,
)
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.hub.drain import ending
from filtered_websocket.routing import websocket_application, with_websockets
from filtered_websocket.testing import connect

from .connections.test_connection import message_filter

# Sessions and users are looked up.
pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        (None, True),
        ("http://example.com", True),
        ("https://EXAMPLE.com:8443", True),
        ("http://sub.wild.example", True),
        ("http://[::1]:9000", True),
        ("http://evil.example", False),
        ("http://example.com.evil.example", False),
        ("http://example.com@evil.example", False),
        ("http://evil.example@example.com", False),
        ("null", False),
        ("", False),
        ("example.com", False),
        ("file://", False),
        ("ftp://example.com", False),
        ("http://example.com:99999", False),
        ("http://[::1", False),
        ("http://exämple.com", False),
    ],
)
async def test_the_origin_must_be_a_host_of_this_site(settings, origin, welcome, caplog):
    settings.ALLOWED_HOSTS = ["example.com", ".wild.example", "[::1]"]
    application = websocket_application([path("", FilteredWebSocketConsumer.as_asgi(filters=[]))])
    headers = {} if origin is None else {"origin": origin}
    with caplog.at_level(logging.INFO):
        client = await connect(application, headers=headers)
    assert client.accepted is welcome
    await client.close()
    assert ("refused a handshake" in caplog.text) is not welcome


async def test_two_origins_are_refused():
    application = websocket_application()
    client = connect(application)
    client._client._scope["headers"] = [(b"origin", b"http://testserver")] * 2
    assert not (await client).accepted
    await client._client.close()


async def test_with_debug_and_no_allowed_hosts_this_machine_is_welcome(settings):
    settings.ALLOWED_HOSTS = []
    settings.DEBUG = True
    application = websocket_application([path("", FilteredWebSocketConsumer.as_asgi(filters=[]))])
    async with connect(application, headers={"origin": "http://localhost:9000"}):
        pass


async def test_unknown_paths_are_refused_with_one_line(caplog):
    application = websocket_application()
    with caplog.at_level(logging.INFO):
        for number in range(100):
            client = await connect(application, f"/nosuch/%0Aforged{number}")
            assert not client.accepted
            await client.close()
    assert [record.getMessage() for record in caplog.records] == [
        "refused a handshake: no WebSocket route for /nosuch/\\nforged0"
        " (address unknown, origin none; 1 so far)"
    ]


async def test_handshakes_of_other_pages_are_refused_with_one_line(caplog, settings):
    settings.ALLOWED_HOSTS = ["testserver"]
    application = websocket_application()
    with caplog.at_level(logging.INFO):
        for _ in range(100):
            opening = connect(application, headers={"origin": "http://e\x1b[31mvil" + "l" * 999})
            client = await opening
            assert not client.accepted
            await client.close()
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(
        "refused a handshake: the Origin header is malformed"
        " (address unknown, origin http://e\\x1b[31mvil"
    )
    assert len(line) < 350


def test_a_refused_page_asks_no_database(django_assert_num_queries, db, settings):
    settings.ALLOWED_HOSTS = ["testserver"]

    async def knock():
        headers = {"origin": "http://evil.example", "cookie": "sessionid=" + "a" * 32}
        client = await connect(websocket_application(), headers=headers)
        assert not client.accepted
        await client.close()

    with django_assert_num_queries(0):
        async_to_sync(knock)()


def test_a_process_that_ends_asks_no_database_and_says_when_to_come_back(
    django_assert_num_queries, db, settings, monkeypatch
):
    settings.FILTERED_WEBSOCKET = {"REFUSE_WITH": "close"}
    over = threading.Event()
    over.set()
    monkeypatch.setattr(routing, "ending", over)

    async def come():
        client = await connect(websocket_application(), headers={"cookie": "sessionid=abc"})
        assert await client.closed() == 4200
        await client.close()

    with django_assert_num_queries(0):
        async_to_sync(come)()


@pytest.mark.parametrize(
    ("asked", "root_path", "forced", "has_route"),
    [
        ("/chat/", "", None, True),
        # daphne --root-path behind a proxy that strips the prefix, and uvicorn's, which
        # puts it back.
        ("/chat/", "/app", None, True),
        ("/app/chat/", "/app", None, True),
        # FORCE_SCRIPT_NAME: a proxy that strips, and one that keeps.
        ("/chat/", "", "/app", True),
        ("/app/chat/", "", "/app", True),
        ("/app/chat/", "/other", "/app", True),
        # As pages are not found there.
        ("/app/chat/", "", None, False),
        ("/app/app/chat/", "/app", None, False),
        ("/other/chat/", "/other", "/app", False),
        ("/appchat/", "/app", None, False),
    ],
)
async def test_where_a_page_is_found_below_a_prefix_its_socket_is_found(
    settings, asked, root_path, forced, has_route
):
    settings.FORCE_SCRIPT_NAME = forced
    scope = {"type": "http", "method": "GET", "path": asked, "root_path": root_path}
    assert (ASGIRequest(scope, None).path_info == "/chat/") is has_route
    application = websocket_application([path("chat/", FilteredWebSocketConsumer.as_asgi())])
    opening = connect(application, asked)
    opening._client._scope["root_path"] = root_path
    client = await opening
    assert client.accepted is has_route
    await client.close()


async def test_a_path_with_or_without_its_slash_is_told_the_other(settings, caplog):
    settings.DEBUG = True
    view = FilteredWebSocketConsumer.as_asgi(filters=[])
    nested = URLRouter([path("deep/", view)])
    application = websocket_application([path("chat", view), path("nested/", nested)])
    for asked in ("/chat/", "/nested"):
        client = await connect(application, asked)
        await client.close()
    slash, router = [one.getMessage() for one in caplog.records]
    assert "/chat/. Did you mean '/chat'? Routes: /chat, /nested/deep/." in slash
    assert "/nested. Routes: /chat, /nested/deep/." in router


def test_a_site_that_has_not_installed_the_app_is_told(monkeypatch, caplog):
    websocket_application()
    assert caplog.text == ""
    monkeypatch.setattr(apps, "is_installed", lambda name: name != "filtered_websocket")
    websocket_application()
    assert "'filtered_websocket' is not in INSTALLED_APPS: no checks, tokens" in caplog.text


async def test_the_consoles_route_is_not_among_those_that_the_log_names(settings, caplog):
    settings.DEBUG = True
    settings.FILTERED_WEBSOCKET = {"CONSOLE": "console/"}
    client = await connect(with_websockets(None), "/nosuch/")
    await client.close()
    assert "/nosuch/. Routes: /." in caplog.text


async def test_the_routes_that_the_log_names_have_the_prefix(settings, caplog):
    settings.DEBUG, settings.FORCE_SCRIPT_NAME = True, "/app"
    client = await connect(websocket_application(), "/nosuch/")
    await client.close()
    assert "Routes: /app/." in caplog.text


async def test_without_routes_the_sites_pipeline_is_at_the_root():
    application = websocket_application()
    async with connect(application) as ann, connect(application) as bob:
        await ann.send("hi")
        assert await bob.receive() == "hi"


async def test_a_route_with_filters_and_no_groups_hears_nothing_of_the_site():
    other = FilteredWebSocketConsumer.as_asgi(filters=[BroadcastMessagesFilter])
    application = websocket_application(
        [path("", FilteredWebSocketConsumer.as_asgi()), path("other/", other)]
    )
    async with (
        connect(application) as ann,
        connect(application) as bob,
        connect(application, "/other/") as cy,
    ):
        await ann.send("to the site")
        assert await bob.receive() == "to the site"
        assert await cy.received_nothing()


async def test_nested_routers_know_their_paths_and_pass_on_what_they_do_not_match():
    inner = FilteredWebSocketConsumer.as_asgi(filters=[])
    application = websocket_application([path("a/", URLRouter([path("b/", inner)]))])
    assert inner.route.paths == ["/a/b/"]
    async with connect(application, "/a/b/"):
        pass
    client = await connect(application, "/a/c/")
    assert not client.accepted
    await client.close()


async def test_sessions_and_users_are_there_where_their_apps_are(settings, db):
    seen = []

    class See(WebSocketMessageFilter):
        _registers = False

        @classmethod
        def filter(cls, web_socket_instance, data):
            seen.append((web_socket_instance.user, web_socket_instance.session))

    async def look(apps):
        settings.INSTALLED_APPS = apps
        app = FilteredWebSocketConsumer.as_asgi(filters=[See])
        opening = connect(websocket_application([path("", app)]))
        del opening._client._scope["user"]
        async with opening as ann:
            await ann.send("x")
            await ann.settle()
        return seen.pop()

    everything = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
    user, session = await look(everything)
    assert user.is_anonymous and session is not None
    user, session = await look(["django.contrib.sessions"])
    assert user is None and session is not None
    assert await look([]) == (None, None)


async def test_a_connection_keeps_two_coroutines_and_one_copy_of_the_scope():
    """Each stays for as long as the connection does, and there are thousands of those."""
    scopes = []

    class Route(FilteredWebSocketConsumer):
        def get_groups(self):
            scopes.append(self.scope)
            return ["g"]

    inner = Route.as_asgi(filters=[])
    application = websocket_application([path("<room>/", inner)])
    opening = connect(application, "/a/", headers={"origin": "http://testserver"})
    outside = opening._client._scope
    async with opening as ann:
        steps, names = ann._task.get_coro().cr_await, []
        while steps is not None and hasattr(steps, "cr_code"):
            names.append(steps.cr_code.co_name)
            steps = steps.cr_await
        assert names[:2] == ["__call__", "__call__"] and names[2] == "run"
        [inside] = scopes
        assert ann._task.get_coro().cr_await.cr_frame.f_locals["inside"] is inside is not outside
        assert inside["url_route"] == {"args": (), "kwargs": {"room": "a"}}
        assert {"cookies", "session"}.isdisjoint(outside)


async def test_routes_are_found_as_channels_finds_them():
    """With arguments of the route and of routers around it, unnamed groups, and nested ones."""
    seen = []

    async def look(scope, receive, send):
        seen.append((scope["path_remaining"], scope["url_route"]))
        await receive()
        await send({"type": "websocket.close"})

    for pattern in (
        path("rooms/<int:room>/", look, {"kind": "chat"}),
        re_path(r"^rooms/(\d+)/$", look),
        re_path(r"^rooms/(?P<room>\d+)/", look),
        path("rooms/", URLRouter([path("<int:room>/", look)])),
    ):
        for made in (websocket_application, lambda routes: URLRouter(routes)):
            around = URLRouter([re_path("^(?P<site>)", made([pattern]))])
            client = await connect(around, "/rooms/7/")
            await client.close()
        ours, channels = seen
        assert ours == channels and "7" in str(ours)
        seen.clear()


async def test_the_session_is_that_of_a_middleware_around_it_if_there_is_one():
    seen = []

    async def look(scope, receive, send):
        seen.append(scope["session"])
        await receive()
        await send({"type": "websocket.close"})

    class Session(dict):
        session_key = None

    opening = connect(websocket_application([path("", look)]))
    session = opening._client._scope["session"] = Session()
    await (await opening).close()
    assert seen == [session] and seen[0] is session


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("headers", [{}, {"cookie": "a=b"}, {"cookie": "sessionid="}])
async def test_who_has_no_session_can_be_remembered_in_a_new_one(headers):
    seen = []

    class Route(FilteredWebSocketConsumer):
        def get_groups(self):
            self.scope["session"]["seen"] = 1
            seen.append(self.scope["session"])
            return ["g"]

    application = websocket_application([path("", Route.as_asgi(filters=[]))])
    for _ in range(2):
        async with connect(application, headers=headers):
            pass
    one, two = seen
    assert one is not two and dict(one.items()) == {"seen": 1} and one.session_key is None


async def test_http_goes_to_the_site_and_lifespan_is_answered():
    seen = []

    async def http(scope, receive, send):
        seen.append(scope["type"])

    application = with_websockets(http)
    await application({"type": "http"}, None, None)
    assert seen == ["http"]
    events = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]
    answers = []

    async def receive():
        return events.pop()

    async def send(event):
        answers.append(event["type"])

    await application({"type": "lifespan"}, receive, send)
    assert answers == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    async with connect(application):
        pass


def test_a_pipeline_that_cannot_be_built_stops_the_site_from_starting(settings):
    app = FilteredWebSocketConsumer.as_asgi()
    settings.INSTALLED_FILTERS = ["nowhere"]
    with pytest.raises(ImproperlyConfigured, match="'nowhere'"):
        with_websockets(None, [path("", app)])


def test_a_layer_that_is_written_wrongly_stops_the_site_from_starting(settings):
    backend = "channels_redis.pubsub.RedisPubSubLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend}}
    with pytest.raises(ImproperlyConfigured, match=rf"^CHANNEL_LAYERS\['default'\].*'{backend}'"):
        with_websockets(None, [])
    settings.SILENCED_SYSTEM_CHECKS = ["filtered_websocket.E037"]
    with_websockets(None, [])


def test_before_django_is_ready_nothing_is_built(settings, monkeypatch):
    from django.apps import apps

    monkeypatch.setattr(apps, "ready", False)
    settings.INSTALLED_FILTERS = ["nowhere"]
    app = FilteredWebSocketConsumer.as_asgi()
    websocket_application([path("late/", app)])
    assert app.route.paths == ["/late/"]


def test_loops_are_not_kept_alive_by_hubs():
    from filtered_websocket.hub import registry

    async def once():
        async with connect([]):
            pass

    before = len(registry.hubs)
    for _ in range(5):
        asyncio.run(once())
    assert len(registry.hubs) <= before


# What the log says of a refusal


class Refusing(FilteredWebSocketConsumer):
    """Refuses in a way that the path of the room names."""

    groups = ("home",)

    async def get_groups(self):
        return [self.scope["url_route"]["kwargs"]["room"]]

    @staticmethod
    def may_join(connection, group):
        return group == "open"


def drop(web_socket_instance, handshake):
    if handshake.path == "/rooms/drop/":
        raise Drop
    if handshake.path == "/rooms/close/":
        raise Close(4321, "on demand")
    if handshake.path == "/rooms/login/":
        raise Close(4401, "log in first")
    if handshake.path == "/rooms/fail/":
        raise KeyError("on demand")


REFUSALS = [
    ("/nosuch/", {}, "no WebSocket route for /nosuch/", "/nosuch/. Routes: /, /rooms/<room>/."),
    ("/rooms/a", {}, "route for /rooms/a", "/rooms/a. Did you mean '/rooms/a/'? Routes: /,"),
    ("/socket.io/", {}, "route for /socket.io/", "speak a protocol that is not served"),
    ("/app/key", {}, "route for /app/key", "/app/key. Clients of Pusher need with_websockets("),
    ("/connection/websocket", {}, "no WebSocket route", "Clients of Centrifuge need"),
    ("/rooms/login/", {}, "raised Close(4401, 'log in first')", "the session of a user who is"),
    (
        "/",
        {"headers": {"origin": "http://evil.example"}},
        "the origin is not allowed",
        "To allow 'http://evil.example', add its host to ALLOWED_HOSTS",
    ),
    ("/rooms/drop/", {}, "tests.connections.test_connection.drop raised Drop", ""),
    ("/rooms/close/", {}, "test_connection.drop raised Close(4321, 'on demand')", ""),
    ("/rooms/fail/", {}, "a filter failed", "The error before this line is the cause."),
    ("/rooms/staff/", {}, "may not join this group", ""),
    ("/rooms/token:x/", {}, "names that begin with 'token:'", ""),
    (
        "/rooms/open/",
        {"headers": {"authorization": "Token nobody's"}},
        "unauthorized",
        "is unknown, expired or revoked",
    ),
]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize(("where", "options", "reason", "cure"), REFUSALS)
async def test_a_refusal_is_one_line_with_its_reason_and_with_debug_its_cure(
    settings, caplog, debug, where, options, reason, cure
):
    settings.DEBUG = debug
    refusing = Refusing.as_asgi(filters=[message_filter(drop, WebSocketConnectFilter)])
    routes = [
        path("", FilteredWebSocketConsumer.as_asgi(filters=[])),
        path("rooms/<room>/", refusing),
    ]
    with caplog.at_level(logging.INFO, "filtered_websocket"):
        client = await connect(websocket_application(routes), where, **options)
        assert not client.accepted
        await client.close()
    lines = [record for record in caplog.records if record.getMessage().startswith("refused")]
    [line] = lines
    words = line.getMessage()
    assert reason in words and line.levelname == ("WARNING" if debug else "INFO")
    assert (cure in words) if debug else ("(address unknown, " in words)


@pytest.mark.parametrize("debug", [True, False])
async def test_a_consumer_without_our_routing_says_it_too(settings, caplog, debug):
    settings.DEBUG = debug
    settings.FILTERED_WEBSOCKET = {"MAX_CONNECTIONS": 1}
    application = FilteredWebSocketConsumer.as_asgi(filters=[])
    with caplog.at_level(logging.INFO, "filtered_websocket"):
        async with connect(application):
            for headers in ({"origin": "http://evil.example"}, {}):
                client = await connect(application, headers=headers)
                await client.close()
    first, second = [
        record.getMessage() for record in caplog.records if "refused" in record.getMessage()
    ]
    assert "the origin is not allowed" in first and "this server is full" in second
    assert ("ALLOWED_HOSTS" in first) is ("['MAX_CONNECTIONS'] limits" in second) is debug


async def test_a_handshake_while_the_process_ends_is_a_line_too(settings, caplog):
    settings.DEBUG = True
    ending.set()
    try:
        client = await connect(websocket_application())
        await client.close()
    finally:
        ending.clear()
    assert "refused the WebSocket /: the server ends. Connect again." in caplog.text


async def test_a_session_that_cannot_be_looked_up_makes_nobody_anonymous(monkeypatch, caplog):
    async def fail(scope):
        raise ConnectionError("the database is away")

    monkeypatch.setattr(routing, "session_user", fail)
    application = websocket_application()
    for _ in range(2):
        client = await connect(application)
        assert not client.accepted
        await client.close()
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    [line] = lines
    assert "cannot look up the session of a handshake" in line and "is away" in line
