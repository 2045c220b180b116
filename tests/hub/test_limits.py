"""How many connections there may be: limits."""

import asyncio
import logging
import subprocess
import sys

import pytest
from django.contrib.auth.models import AnonymousUser

from filtered_websocket import WebSocketConnectFilter, logs
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub import limits
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.logs import LogThrottle
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter
from ..handshaking import shake_hands
from ..snippets import ROOT


@pytest.fixture(autouse=True)
async def nothing_is_left_counted():
    hub = get_hub()
    yield
    assert len(hub.limits) == 0 and not hub.limits._counts


@pytest.fixture
def limit(settings):
    def choose(**chosen):
        settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [], **chosen}

    return choose


class Handshakes:
    """Clients of one application, all closed at the end."""

    def __init__(self, filters=()):
        self.app = FilteredWebSocketConsumer.as_asgi(filters=filters)
        self.clients = []

    async def __call__(self, address="192.0.2.1", user=None):
        client = (address, 1) if address else None
        scope = {"client": client, "user": user or AnonymousUser()}
        self.clients.append(await shake_hands(self.app, **scope))
        return self.clients[-1]

    async def close(self):
        for client in self.clients:
            await client.close()


@pytest.fixture
async def come():
    handshakes = Handshakes()
    yield handshakes
    await handshakes.close()


async def test_off_by_default(come):
    clients = [await come() for _ in range(50)]
    assert all(client.accepted for client in clients)


async def test_a_full_process_refuses_with_4100_until_somebody_leaves(limit, come):
    limit(MAX_CONNECTIONS=2)
    first, second, third = [await come(), await come(), await come()]
    assert (first.accepted, second.accepted, third.accepted) == (True, True, False)
    assert (third.close_code, third.close_reason) == (4100, "this server is full")
    await first.close()
    assert (await come()).accepted


async def test_who_is_shaking_hands_counts(limit):
    limit(MAX_CONNECTIONS=1)
    asked, answer = asyncio.Event(), asyncio.Event()

    async def wait(web_socket_instance):
        asked.set()
        await answer.wait()

    come = Handshakes([message_filter(wait, WebSocketConnectFilter)])
    first = asyncio.create_task(come())
    await asked.wait()
    assert (await come()).close_code == 4100
    answer.set()
    assert (await first).accepted
    await come.close()


async def test_an_address_has_so_many_and_another_its_own(limit, come):
    limit(MAX_CONNECTIONS_PER_ADDRESS=1)
    assert (await come("2001:db8::1")).accepted
    refused = await come("2001:db8::2")
    assert (refused.close_code, refused.close_reason) == (
        4102,
        "too many connections from this address",
    )
    assert (await come("2001:db8:0:1::1")).accepted
    # Peers of a Unix socket have none.
    assert (await come(None)).accepted and (await come(None)).accepted


async def test_a_user_has_so_many_and_nobody_in_particular_as_many_as_they_like(
    limit, come, django_user_model
):
    limit(MAX_CONNECTIONS_PER_USER=2)
    ann, bob = (django_user_model(pk=pk, username=f"{pk}") for pk in (1, 2))
    assert [(await come(user=ann)).accepted for _ in range(3)] == [True, True, False]
    assert come.clients[-1].close_reason == "too many connections of this user"
    assert (await come(user=bob)).accepted
    assert [(await come()).accepted for _ in range(3)] == [True] * 3
    await come.clients[0].close()
    assert (await come(user=ann)).accepted


async def test_who_is_refused_costs_no_question_and_runs_no_filter(limit, monkeypatch):
    limit(MAX_CONNECTIONS=1, AUTHENTICATORS=["tests.hub.test_limits.Asks"], REFUSE_WITH="close")
    ran = []

    def note(web_socket_instance):
        ran.append(web_socket_instance.id)

    come = Handshakes([message_filter(note, WebSocketConnectFilter)])
    assert (await come()).accepted
    assert Asks.asked == len(ran) == 1
    refused = await come()
    assert refused.accepted and await refused.closed() == 4100
    assert Asks.asked == len(ran) == 1
    await come.close()


class Asks:
    """An authenticator that counts."""

    asked = 0

    async def authenticate(self, scope):
        Asks.asked += 1


async def test_a_connection_knows_its_address_and_its_users_id(settings, django_user_model):
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": [], "TRUSTED_PROXIES": 1}
    seen = []

    def note(web_socket_instance):
        seen.append((web_socket_instance.address, web_socket_instance.user_id))

    app = FilteredWebSocketConsumer.as_asgi(filters=[message_filter(note, WebSocketConnectFilter)])
    headers = [("x-forwarded-for", b"203.0.113.9, 198.51.100.7")]
    for user in (django_user_model(pk=7), AnonymousUser(), None, object()):
        await (await shake_hands(app, headers=headers, user=user)).close()
    async with connect(app):
        pass
    address = "198.51.100.7"
    assert seen == [(address, "7"), *[(address, None)] * 3, ("", None)]


async def test_a_process_that_may_open_too_few_files_says_so_once(settings, monkeypatch, caplog):
    settings.FILTERED_WEBSOCKET = {"MAX_CONNECTIONS": 1000}
    monkeypatch.setattr(limits, "_throttle", LogThrottle())
    monkeypatch.setattr(limits.resource, "getrlimit", lambda what: (64, 64))
    for _ in range(2):
        async with connect([]):
            pass
    assert [record.getMessage() for record in caplog.records] == [
        "this process may open 1000 files too few for MAX_CONNECTIONS: raise its limit (ulimit -n)"
    ]


@pytest.mark.parametrize("allowed", [1064, limits.resource.RLIM_INFINITY])
def test_enough_files_are_enough(settings, monkeypatch, allowed):
    settings.FILTERED_WEBSOCKET = {"MAX_CONNECTIONS": 1000}
    monkeypatch.setattr(limits.resource, "getrlimit", lambda what: (allowed, allowed))
    assert limits.missing_descriptors() == 0


def test_the_package_works_without_what_windows_lacks():
    """Neither the module ``resource`` nor ``os.fork`` and ``os.register_at_fork``."""
    command = [sys.executable, "-m", "tests.without_posix"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['filtered_websocket.W001']", "hello"]


def test_a_system_without_a_limit_of_files_lacks_none(monkeypatch, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_CONNECTIONS": 10**9}
    assert limits.missing_descriptors() > 0 or limits.resource is None
    monkeypatch.setattr(limits, "resource", None)
    assert limits.missing_descriptors() == 0


async def test_a_system_without_posix_is_told_of_once(monkeypatch, caplog):
    monkeypatch.setattr(limits, "resource", None)
    monkeypatch.setattr(limits, "_throttle", LogThrottle())
    monkeypatch.setattr(logs, "EVERY", 0)
    caplog.set_level(logging.INFO, limits.__name__)
    for _ in range(2):
        async with connect([]):
            pass
    assert caplog.text.count("this system is for development") == 1
