"""daphne's periodic checks, a few connections at a time: transports.daphne_costs."""

import asyncio
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from daphne import server as daphne_server
from daphne.server import Server

from filtered_websocket.transports import daphne_costs
from filtered_websocket.transports.daphne_costs import (
    PERIODIC_METHODS,
    SpreadMethod,
    spread_checks,
)

from ..waiting import limited
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
    monkeypatch.setattr(daphne_costs.asyncio, "get_running_loop", lambda: loop)
    return made


async def test_a_server_is_changed_by_its_first_connection(serving):  # noqa: F811
    one = await serving()
    assert all(type(vars(one.server)[name]) is SpreadMethod for name in PERIODIC_METHODS)
    before = dict(vars(one.server))
    spread_checks(one.server)
    assert vars(one.server) == before


def test_a_server_that_overrides_a_check_is_left_alone(monkeypatch):
    class Other(Server):
        def timeout_checker(self):
            """A site's own."""

    other = Other(None, endpoints=["tcp:0"])
    spread_checks(other)
    assert "timeout_checker" not in vars(other)
    plain = Server(None, endpoints=["tcp:0"])
    monkeypatch.delattr(Server, "application_checker")
    spread_checks(plain)
    assert "application_checker" not in vars(plain) and "timeout_checker" not in vars(plain)
    other = Server(None, endpoints=["tcp:0"])
    monkeypatch.delitem(daphne_costs.sys.modules, "daphne.server")
    spread_checks(other)
    assert "timeout_checker" not in vars(other)


def test_daphne_schedules_the_replacement_next(server, calls, later):
    server.connections = {}
    spread_checks(server)
    Server.timeout_checker(server)
    Server.application_checker(server)
    assert [call for _, call in calls] == [server.timeout_checker, server.application_checker]
    assert all(type(call) is SpreadMethod for _, call in calls)
    assert [seconds for seconds, _ in calls] == [
        PERIODIC_METHODS[call._name][0] for _, call in calls
    ]


def test_each_connection_is_checked_once_per_interval_and_neighbours_apart(server, calls, later):
    spread_checks(server)
    # 90 connections, 20 at a time: five steps in two seconds.
    for step in range(5):
        server.timeout_checker()
        assert 0 < len(server.looks) - 18 * step <= 20
        assert later.pop() == (0.4, server.timeout_checker)
    assert Counter(server.looks) == Counter(range(90))
    assert server.looks[:3] == [0, 5, 10]
    # What daphne schedules itself does nothing.
    assert [call() for _, call in calls] == [None] * 5
    assert len(server.looks) == 90
    server.timeout_checker()
    assert server.looks[90:93] == [0, 5, 10]


def test_a_closed_connection_is_not_checked_and_a_new_one_is_checked_next_time(
    server, calls, later
):
    spread_checks(server)
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


def test_without_connections_there_is_one_call_per_interval(server, calls, later):
    server.connections = {}
    spread_checks(server)
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
    spread_checks(server)
    server.application_checker()
    assert server.looks == ["OSError('a flaw')"] and "a flaw" in caplog.text
    assert ended not in server.connections
    assert server.connections[failed] == {}
    assert server.connections[there] == {"application_instance": tasks[3]}
    async with limited():
        await asyncio.wait([tasks[2]])
    assert tasks[2].cancelled() and late in server.connections
    server.application_checker()
    assert late not in server.connections
    tasks[3].cancel()


def test_a_check_that_raises_does_not_end_the_checks(server, calls, later, monkeypatch):
    spread_checks(server)
    first = next(iter(server.connections))
    monkeypatch.setattr(first, "check_timeouts", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        server.timeout_checker()
    assert later == [(0.4, server.timeout_checker)]
    server.timeout_checker()
    assert server.looks
