"""Staff who look at the console, by its own route."""

import contextlib
import json
from collections import deque

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.test import Client as Browser

from filtered_websocket import logs
from filtered_websocket.api import control
from filtered_websocket.console import rows, snapshot
from filtered_websocket.console.actions import page_key
from filtered_websocket.console.filters import PREFIX
from filtered_websocket.pipelines import pipeline
from filtered_websocket.routing import with_websockets

from ..handshaking import shake_hands
from ..waiting import until


@pytest.fixture(autouse=True)
def one_answer_is_waited_for(monkeypatch):
    """There is no other process."""
    monkeypatch.setattr(control, "wait_for", lambda answers: until(lambda: answers))


@pytest.fixture
def recent(monkeypatch):
    """The last errors, of this test only."""
    made = logs.Incidents()
    for module in (logs, pipeline, rows, snapshot):
        monkeypatch.setattr(module, "recent", made)
    return made


@pytest.fixture
def site():
    """The ASGI application of a site without routes of its own."""
    return with_websockets(None, [])


def make_staff(*permissions, name="sam", **fields):
    """A user of the admin with these permissions."""
    user = User.objects.create_user(name, password="secret", is_staff=True, **fields)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


class Watcher:
    """The page of somebody who looks, without a browser."""

    def __init__(self, client):
        self.client = client
        self._number = 0
        #: What it was sent meanwhile.
        self._pushes = deque()

    async def ask(self, **request):
        """The reply to a command."""
        self._number += 1
        await self.client.send(json.dumps({"id": self._number, **request}))
        while "push" in (reply := json.loads(await self.client.receive())):
            self._pushes.append(reply)
        assert reply.pop("id") == self._number, reply
        return reply

    async def push(self):
        """What it is sent without having asked."""
        message = self._pushes.popleft() if self._pushes else await self.client.receive()
        reply = json.loads(message) if isinstance(message, str) else message
        return reply["push"]["message"]["data"]

    async def call(self, method, **data):
        """What a call answers, or the code of its error."""
        reply = await self.ask(rpc={"method": method, "data": data})
        return reply["rpc"]["data"] if "rpc" in reply else reply["error"]["code"]

    async def closed(self):
        code = await self.client.closed()
        return code, self.client.close_reason


@sync_to_async
def log_in(user):
    browser = Browser()
    browser.force_login(user)
    return f"sessionid={browser.cookies['sessionid'].value}"


async def knock(site, user, *, key=None, cookie=None, subprotocols=None, **options):
    """Somebody's page connects; it is not said yet whether it may."""
    cookie = await log_in(user) if cookie is None else cookie
    offered = ["centrifuge-json", PREFIX + (page_key(user) if key is None else key)]
    client = await shake_hands(
        site,
        path="/fws-console/",
        raw_path=b"/fws-console/",
        headers=[("cookie", cookie.encode()), ("host", b"testserver")],
        subprotocols=offered if subprotocols is None else subprotocols,
        **options,
    )
    return Watcher(client)


@contextlib.asynccontextmanager
async def look(site, user, **options):
    """Somebody who may look, and does."""
    watcher = await knock(site, user, **options)
    try:
        assert "connect" in await watcher.ask(connect={})
        yield watcher
    finally:
        await watcher.client.close()
