"""
Access that ends while its handshake is in progress, at every moment of it.

Another process changes the database, and then sends a control event; each step happens at
one of the moments that ``POINTS`` names. Whatever the order, the connection must not stay
open: without the event, its access would only be re-checked after ``RECHECK``.
"""

import asyncio
import itertools

import pytest
from asgiref.sync import sync_to_async
from channels.layers import InMemoryChannelLayer, channel_layers
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import path
from django.utils import timezone

from filtered_websocket import WebSocketConnectFilter, consumers, routing
from filtered_websocket.auth import tickets
from filtered_websocket.auth.keys import digest_of
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub import grants, rechecks
from filtered_websocket.hub.hub import Hub, get_hub
from filtered_websocket.hub.rechecks import Rechecks
from filtered_websocket.layer.envelope import CONTROL, Batch, group_key, seal
from filtered_websocket.models import Ticket, Token
from filtered_websocket.publishing.items import new_item

from ..handshaking import shake_hands
from ..waiting import limited

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("ours"),
    pytest.mark.repeats,
]
User = get_user_model()

#: The moments of a handshake, in their order.
POINTS = (
    "before the session is read",
    "after the session was read",
    "before the subscription",
    "after the subscription",
    "after authentication",
    "in the connect chain",
    "after accept",
)
#: When the database is changed, and when the event is sent: later, or at the same moment.
MOMENTS = list(itertools.combinations_with_replacement(range(len(POINTS)), 2))


class Schedule:
    """Which step is done at which point; and when a subscription takes effect."""

    def __init__(self, steps, joined=0):
        self.steps, self.joined = steps, joined
        self.point = -1

    async def reach(self, name):
        self.point = POINTS.index(name)
        await no_recheck_runs()
        if self.point == self.joined:
            get_layer().take_effect()
        for point, step in self.steps:
            if point == self.point:
                await step()


class LateLayer(InMemoryChannelLayer):
    """Takes note of a subscription, as a command that is on its way to Redis."""

    is_late = False

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.on_their_way = []

    async def group_add(self, group, channel):
        if self.is_late and group == group_key(CONTROL):
            self.on_their_way.append((group, channel))
        else:
            await super().group_add(group, channel)

    def take_effect(self):
        self.is_late = False
        for group, channel in self.on_their_way:
            self.groups.setdefault(group, {})[channel] = 9e9
        self.on_their_way.clear()


def get_layer():
    return channel_layers["default"]


async def no_recheck_runs():
    """Wait for re-checks in progress: they must not find what happens later."""
    async with limited():
        while running or get_hub().grants._rechecks._pending:  # noqa: ASYNC110
            await asyncio.sleep(0)


#: Re-checks in progress.
running = []


@pytest.fixture
def ours(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"RECHECK": 3600, "GUESS_LIMIT": None}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": f"{__name__}.LateLayer"}}
    monkeypatch.setattr(grants, "CONFIRM_AGAIN", 0.01)
    monkeypatch.setattr(rechecks, "PASSWORD_GRACE", 0.01)


@pytest.fixture
def reach(monkeypatch):
    """Sets the schedule of the next handshake."""
    current = [Schedule(())]

    def wrap(owner, name, before=None, after=None):
        original = getattr(owner, name)

        async def wrapped(*args):
            if before:
                await current[0].reach(before)
            result = await original(*args)
            if after:
                await current[0].reach(after)
            return result

        monkeypatch.setattr(owner, name, wrapped)

    async def check(self, original=Rechecks._check):
        running.append(self)
        try:
            return await original(self)
        finally:
            running.remove(self)

    monkeypatch.setattr(Rechecks, "_check", check)
    wrap(routing, "session_user", POINTS[0], POINTS[1])
    wrap(Hub, "receive_control", POINTS[2], POINTS[3])
    wrap(consumers, "authenticate", None, POINTS[4])

    def chosen(schedule):
        current[0] = schedule

    chosen.reach = lambda name: current[0].reach(name)
    return chosen


@pytest.fixture
def app(reach):
    class Gate(WebSocketConnectFilter):
        @classmethod
        async def filter(cls, web_socket_instance, data):
            await reach.reach(POINTS[5])

    consumer = FilteredWebSocketConsumer.as_asgi(filters=[Gate])
    return routing.websocket_application([path("", consumer)])


class Elsewhere:
    """Another process: what it does sends no signal in this one."""

    numbers = itertools.count()

    @classmethod
    async def send(cls, **event):
        batch = Batch("elsewhere", group_key(CONTROL), next(cls.numbers), [new_item(event)])
        await get_layer().group_send(batch.key, seal(batch))


class Case:
    """A user with all that lets them in, and one way to end it."""

    def __init__(self, name):
        self.user = User.objects.create_user(name, password="secret")
        browser = Client()
        browser.force_login(self.user)
        self.session = browser.session
        self.by_session = {
            "headers": [("cookie", f"sessionid={self.session.session_key}".encode())]
        }
        self.rows = User.objects.filter(pk=self.user.pk)

    @property
    def user_changed(self):
        return {"is": "changed", "kind": "user", "id": str(self.user.pk)}

    def logout(self):
        def end():
            Session.objects.filter(pk=self.session.session_key).delete()

        name = digest_of(self.session.session_key)
        event = {"is": "close", "kind": "session", "id": name, "code": 4401, "reason": "logged out"}
        return self.by_session, end, event

    def deactivation(self):
        return self.by_session, lambda: self.rows.update(is_active=False), self.user_changed

    def password(self):
        def end():
            self.rows.update(password=make_password("another"))

        return self.by_session, end, self.user_changed

    def token(self):
        token, key = Token.objects.create_key(name="one", user=self.user)

        def end():
            Token.objects.filter(pk=token.pk).update(revoked_at=timezone.now())

        event = {"is": "changed", "kind": "token", "id": str(token.pk)}
        return {"headers": [("authorization", f"Token {key}".encode())]}, end, event

    def ticket(self):
        ticket = tickets.issue(self.user, self.session)

        def end():
            Ticket.objects.all()._raw_delete("default")
            self.rows._raw_delete("default")

        return {"query": f"ticket={ticket}"}, end, self.user_changed


async def outcome(app, reach, kind, name, moments, joined):
    """How a handshake ends during which access ends at these two moments."""
    case = await sync_to_async(Case)(name)
    handshake, end, event = await sync_to_async(getattr(case, kind))()
    changed, sent = moments
    steps = [(changed, sync_to_async(end)), (sent, lambda: Elsewhere.send(**event))]
    reach(schedule := Schedule(steps, joined))
    layer = get_layer()
    layer.is_late = joined > POINTS.index("after the subscription")
    client = await shake_hands(app, **handshake)
    try:
        if client.accepted:
            await schedule.reach(POINTS[6])
            connections = get_hub().connections.values()
            if any(one.identity is None for one in connections):
                return "anonymous"
            await client.closed()
        return client.close_code
    except TimeoutError:
        return f"open: {POINTS[changed]}, {POINTS[sent]}, joined {POINTS[joined]}"
    finally:
        layer.take_effect()
        await client.close()


@pytest.mark.parametrize("joined", [0, 4, 6], ids=["at once", "later", "late"])
@pytest.mark.parametrize("kind", ["logout", "deactivation", "password", "token", "ticket"])
async def test_the_first_connection_of_a_process_ends_with_its_access(app, reach, kind, joined):
    ended = [
        await outcome(app, reach, kind, f"u{number}", moments, joined)
        for number, moments in enumerate(MOMENTS)
        # Before the hub is there, there is nothing to subscribe.
        if kind in ("logout", "deactivation", "password") or moments[0] > 1
    ]
    assert set(ended) <= {"anonymous", 4401, 1000}, ended
    assert 4401 in ended


@pytest.mark.parametrize("kind", ["logout", "deactivation", "password", "token", "ticket"])
async def test_a_later_connection_of_a_process_ends_with_its_access(app, reach, kind):
    _, key = await sync_to_async(Token.objects.create_key)(name="other")
    other = await shake_hands(app, headers=[("authorization", f"Token {key}".encode())])
    hub = get_hub()
    async with limited():
        while hub.grants._unconfirmed is not None:  # noqa: ASYNC110
            await asyncio.sleep(0)
    ended = [
        await outcome(app, reach, kind, f"u{number}", moments, 0)
        for number, moments in enumerate(MOMENTS)
    ]
    assert set(ended) <= {"anonymous", 4401, 1000}, ended
    assert 4401 in ended
    assert other.close_code is None
    await other.close()
