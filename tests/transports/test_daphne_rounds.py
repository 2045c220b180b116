"""daphne's rounds past its connections, a few at a time: transports.daphne_rounds."""

import asyncio
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from daphne import server as daphne_server
from daphne.server import Server

from filtered_websocket.transports import daphne_rounds
from filtered_websocket.transports.daphne_rounds import ROUNDS, Rounds, spread_rounds

from .test_daphne import serving  # noqa: F401 - a fixture


class Protocol:
    def __init__(self, name, looks):
        self.name = name
        self._looks = looks

    def check_timeouts(self):
        self._looks.append(self.name)

    def handle_exception(self, error):
        self._looks.append(repr(error))


@pytest.fixture
def calls(monkeypatch):
    """What is to be called later, by daphne on its reactor and by us on the loop."""
    made = []

    class Reactor:
        def callLater(self, seconds, call):
            made.append((seconds, call))

    monkeypatch.setattr(daphne_server, "reactor", Reactor())
    return made


@pytest.fixture
def server(calls):
    made = Server(None, endpoints=["tcp:0"])
    made.looks = []
    made.connections = {Protocol(number, made.looks): {} for number in range(90)}
    return made


@pytest.fixture
def later(monkeypatch):
    """Calls that are made later by asyncio's loop: seconds and what."""
    made = []
    loop = SimpleNamespace(call_later=lambda *call: made.append(call))
    monkeypatch.setattr(daphne_rounds.asyncio, "get_running_loop", lambda: loop)
    return made


async def test_a_server_is_changed_by_its_first_connection(serving):  # noqa: F811
    one = await serving()
    assert all(type(vars(one.server)[name]) is Rounds for name in ROUNDS)
    before = dict(vars(one.server))
    spread_rounds(one.server)
    assert vars(one.server) == before


def test_one_that_is_not_as_known_is_left_alone(monkeypatch):
    class Other(Server):
        def timeout_checker(self):
            """A site's own."""

    other = Other(None, endpoints=["tcp:0"])
    spread_rounds(other)
    assert "timeout_checker" not in vars(other)
    plain = Server(None, endpoints=["tcp:0"])
    monkeypatch.delattr(Server, "application_checker")
    spread_rounds(plain)
    assert "application_checker" not in vars(plain) and "timeout_checker" not in vars(plain)
    other = Server(None, endpoints=["tcp:0"])
    monkeypatch.delitem(daphne_rounds.sys.modules, "daphne.server")
    spread_rounds(other)
    assert "timeout_checker" not in vars(other)


def test_what_daphne_calls_next_is_ours(server, calls, later):
    server.connections = {}
    spread_rounds(server)
    Server.timeout_checker(server)
    Server.application_checker(server)
    assert [call for _, call in calls] == [server.timeout_checker, server.application_checker]
    assert all(type(call) is Rounds for _, call in calls)
    assert [seconds for seconds, _ in calls] == [ROUNDS[call._name][0] for _, call in calls]


def test_each_is_looked_at_once_in_a_round_and_neighbours_apart(server, calls, later):
    spread_rounds(server)
    # 90 connections, 20 at a time: five steps in two seconds.
    for step in range(5):
        server.timeout_checker()
        assert 0 < len(server.looks) - 18 * step <= 20
        assert later.pop() == (0.4, server.timeout_checker)
    assert Counter(server.looks) == Counter(range(90))
    assert server.looks[:3] == [0, 5, 10]
    # daphne has itself called again, which is nothing here.
    assert [call() for _, call in calls] == [None] * 5
    assert len(server.looks) == 90
    server.timeout_checker()
    assert server.looks[90:93] == [0, 5, 10]


def test_who_has_gone_in_between_is_not_looked_at_and_who_comes_is_in_the_next_round(
    server, calls, later
):
    spread_rounds(server)
    server.timeout_checker()
    first, *_ = server.connections
    gone = list(server.connections)[1]
    del server.connections[gone]
    server.connections[Protocol("new", server.looks)] = {}
    for _ in range(4):
        server.timeout_checker()
    assert gone.name not in server.looks and "new" not in server.looks
    for _ in range(5):
        server.timeout_checker()
    assert server.looks.count("new") == 1 and server.looks.count(first.name) == 2


def test_without_connections_a_round_is_one_step(server, calls, later):
    server.connections = {}
    spread_rounds(server)
    server.timeout_checker()
    server.application_checker()
    assert [seconds for seconds, _ in later] == [2.0, 1.0]


async def test_ends_are_found_as_daphne_finds_them(server, calls, caplog):
    async def fails():
        raise OSError("a flaw")

    async def ends():
        """At once."""

    async def goes_on():
        await asyncio.Event().wait()

    ways = fails, ends, goes_on, goes_on
    tasks = [asyncio.ensure_future(way()) for way in ways]
    await asyncio.sleep(0)
    failed, ended, late, there = list(server.connections)[:4]
    long_ago = time.time() - 3600
    for protocol, task in zip((failed, ended, late, there), tasks, strict=True):
        server.connections[protocol]["application_instance"] = task
    server.connections[ended]["disconnected"] = long_ago
    server.connections[late]["disconnected"] = long_ago
    spread_rounds(server)
    server.application_checker()
    assert server.looks == ["OSError('a flaw')"] and "a flaw" in caplog.text
    assert ended not in server.connections
    assert server.connections[failed] == {}
    assert server.connections[there] == {"application_instance": tasks[3]}
    await asyncio.wait([tasks[2]], timeout=5)
    assert tasks[2].cancelled() and late in server.connections
    server.application_checker()
    assert late not in server.connections
    tasks[3].cancel()


def test_a_look_that_raises_ends_no_round(server, calls, later, monkeypatch):
    spread_rounds(server)
    first = next(iter(server.connections))
    monkeypatch.setattr(first, "check_timeouts", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        server.timeout_checker()
    assert later == [(0.4, server.timeout_checker)]
    server.timeout_checker()
    assert server.looks
