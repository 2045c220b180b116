"""A hub with as many connections and groups as a test wants, without sockets."""

import asyncio
import contextlib
import json
import time
from types import SimpleNamespace

from filtered_websocket.console.rows import QUESTIONS
from filtered_websocket.console.snapshot import answer_in_turns
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.hub.registry import hubs

from ..waiting import until

HOSTILE = "\0\u202e<img src=x onerror=alert(1)>\ud800" * 40


class View:
    """What is asked of a view of the hub."""

    pipeline = SimpleNamespace(rules=None)


class Turns:
    """Counts the turns of the event loop, and what is looked at in each."""

    def __init__(self):
        self.now = 0
        self.looks = {}
        self._going = True

    def start(self):
        self.now += 1
        if self._going:
            asyncio.get_running_loop().call_soon(self.start)

    def stop(self):
        self._going = False

    def look(self):
        self.looks[self.now] = self.looks.get(self.now, 0) + 1


class Somebody:
    """What is asked of a connection."""

    def __init__(self, number, turns, *, hostile=False):
        text = HOSTILE if hostile else ""
        self.id = f"{number:08}-0000-4000-8000-000000000000"
        self.turns = turns
        self.began = time.monotonic() - number
        self.user_id = None if number % 3 else str(number)
        self.user = None
        if self.user_id:
            name = f"user{number}{text}"
            self.user = SimpleNamespace(is_authenticated=True, get_username=lambda: name)
        self.address = f"192.0.2.{number % 256}"
        self.scope = {"path": f"/room/{number % 10}/{text}", "headers": [(b"user-agent", b"UA")]}
        self.transport = SimpleNamespace(unsent=number % 7, is_open=True, lane="a lane")
        self.closing = False
        self.token = None
        self.pipeline = SimpleNamespace(rules=None, home="home")
        self._joined = {"all", f"room:{number % 100}{text}"}

    @property
    def joined(self):
        """Which every look at a connection reads."""
        self.turns.look()
        return self._joined


@contextlib.asynccontextmanager
async def crowd(count, *, groups=0, hostile=False):
    """The hub of this loop with so many connections and groups, and its turns."""
    hub, turns = get_hub(), Turns()
    for number in range(count):
        one = Somebody(number, turns, hostile=hostile)
        hub.connections[one.id] = one
    view = View()
    for number in range(groups):
        name = f"group {number}{HOSTILE if hostile and number % 2 else ''}"
        members = dict.fromkeys(range(number % 50 + 1))
        hub.groups._by_name[name] = SimpleNamespace(members={view: members}, messages=number)
    turns.start()
    try:
        yield hub, turns
    finally:
        turns.stop()
        hub.connections.clear()
        hub.groups._by_name.clear()
        hubs.pop(hub.loop, None)
        await asyncio.sleep(0)


async def asked(hub, of, **about):
    """The answer of a hub to a question, and how many bytes it has."""
    replies = []
    answer_in_turns(hub, QUESTIONS[of](hub, about), replies.append)
    await until(lambda: replies)
    return replies[0], len(json.dumps(replies[0], ensure_ascii=False).encode("utf-8", "replace"))
