"""
The listening sockets of daphne and uvicorn: few clients are accepted at a time, and a process
that ends closes them. uvicorn does not pause when nobody is left.
"""

import asyncio
import contextlib
import itertools
import signal
import socket
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import uvicorn
from channels.testing import WebsocketCommunicator
from daphne.http_protocol import HTTPFactory
from daphne.server import Server
from twisted.internet import tcp
from twisted.internet.protocol import Factory
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from filtered_websocket.routing import websocket_application
from filtered_websocket.transports import listening
from filtered_websocket.transports.listening import (
    ACCEPTS_PER_TURN,
    FewAccepts,
    end_pauses,
    limit_accepts,
    stop_listening,
)

from ..e2e.certificates import write_pair
from ..waiting import run_in_fake_time


class Reactor:
    """Knows its ports, and does what is due when it is told to."""

    def __init__(self):
        self.readers = set()
        self.due = []
        self.addReader = self.readers.add
        self.removeReader = self.removeWriter = self.readers.discard

    def getReaders(self):
        return list(self.readers)

    def callLater(self, delay, function, *args):
        self.due.append((function, args))

    def turn(self):
        while self.due:
            function, args = self.due.pop()
            function(*args)

    def listen(self, factory):
        port = tcp.Port(0, factory, interface="127.0.0.1", reactor=self)
        port.startListening()
        return port.getHost().port


@pytest.fixture
def reactor(monkeypatch):
    """In the place of Twisted's."""
    reactor = Reactor()
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
    yield reactor
    for port in reactor.getReaders():
        port.stopListening()
    reactor.turn()


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def factory():
    return HTTPFactory(Server(None, endpoints=["tcp:0"]))


class Accepting(HTTPFactory):
    """Notes the port of each client that is accepted, and wants none."""

    def __init__(self):
        super().__init__(Server(None, endpoints=["tcp:0"]))
        self.accepted = []

    def buildProtocol(self, address):
        self.accepted.append(address.port)


@contextlib.contextmanager
def clients(port, count):
    """Connect so many; their ports."""
    with contextlib.ExitStack() as stack:
        made = (socket.create_connection(("127.0.0.1", port)) for _ in range(count))
        yield [stack.enter_context(client).getsockname()[1] for client in made]


async def test_of_many_clients_daphne_accepts_few_in_each_turn_and_in_their_order(reactor):
    factory = Accepting()
    number = reactor.listen(factory)
    [port] = reactor.getReaders()
    limit_accepts()
    for _ in range(2):
        factory.accepted.clear()
        with clients(number, 2 * ACCEPTS_PER_TURN + 5) as known:
            counts = []
            while len(factory.accepted) < len(known):
                port.doRead()
                counts.append(len(factory.accepted))
            assert factory.accepted == known
        # After a quiet turn Twisted begins with few, and accepts more in the next one.
        steps = [after - before for before, after in itertools.pairwise([0, *counts])]
        assert max(steps) == ACCEPTS_PER_TURN and len(steps) <= 4


async def test_twisted_alone_accepts_them_all_at_once(reactor):
    """Where this fails, Twisted has a limit of its own, and ours is not needed."""
    factory = Accepting()
    number = reactor.listen(factory)
    [port] = reactor.getReaders()
    with clients(number, 2 * ACCEPTS_PER_TURN + 5) as known:
        port.doRead()
        assert factory.accepted == known


async def test_a_port_is_limited_from_the_first_handshake_on(reactor):
    reactor.listen(factory())
    other = tcp.Port(0, Factory(), interface="127.0.0.1", reactor=reactor)
    other.startListening()
    limited = {port for port in reactor.readers if port is not other}
    application = websocket_application([])
    for _ in range(2):
        client = WebsocketCommunicator(application, "/")
        assert not (await client.connect())[0]
        calls = {port: vars(port).get("doRead") for port in reactor.readers}
        assert {port for port, call in calls.items() if type(call) is FewAccepts} == limited
        assert not any(type(call._accept) is FewAccepts for call in calls.values() if call)


async def test_daphnes_ports_are_closed_and_no_others(reactor, tmp_path):
    contexts = DefaultOpenSSLContextFactory(*map(str, write_pair(tmp_path)))
    plain = reactor.listen(factory())
    secure = reactor.listen(TLSMemoryBIOFactory(contexts, False, factory()))
    other = reactor.listen(Factory())
    stop_listening([])
    reactor.turn()
    assert [is_open(port) for port in (plain, secure, other)] == [False, False, True]
    # Its server may stop it again, and there may be none.
    stop_listening([])
    assert is_open(other)


async def test_the_port_of_another_process_that_has_the_same_socket_stays_open(reactor):
    with socket.create_server(("127.0.0.1", 0)) as shared:
        descriptor = shared.fileno(), socket.AF_INET
        tcp.Port._fromListeningDescriptor(reactor, *descriptor, factory()).startListening()
        stop_listening([])
        reactor.turn()
        assert not reactor.readers and is_open(shared.getsockname()[1])


@pytest.fixture
async def serving():
    """uvicorn's server, as it is while it serves."""
    server = uvicorn.Server(uvicorn.Config(None))
    loop = asyncio.get_running_loop()
    server.servers = [await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)]
    yield server
    for one in server.servers:
        one.close()


async def test_uvicorns_port_is_closed_that_its_signal_handlers_tell(serving):
    [port] = [one.getsockname()[1] for one in serving.servers[0].sockets]
    stop_listening([None, print, factory])
    assert is_open(port)
    stop_listening([serving.handle_exit, serving.handle_exit])
    assert not is_open(port)


async def test_a_server_that_has_not_begun_or_differs_stays_as_it_is(serving, monkeypatch):
    fresh = uvicorn.Server(uvicorn.Config(None))
    stop_listening([fresh.handle_exit])
    fresh.servers = [object()]
    stop_listening([fresh.handle_exit])
    [port] = [one.getsockname()[1] for one in serving.servers[0].sockets]
    monkeypatch.delitem(sys.modules, "uvicorn.server")
    monkeypatch.delitem(sys.modules, "daphne.http_protocol")
    stop_listening([serving.handle_exit])
    assert is_open(port)


async def test_a_reactor_that_differs_stays_as_it_is(monkeypatch):
    class Other:
        factory = factory()

    class Reactor:
        def getReaders(self):
            return [Other()]

    for reactor in (Reactor(), object()):
        monkeypatch.setitem(sys.modules, "twisted.internet.reactor", reactor)
        assert listening._daphne_stops() == []
        limit_accepts()
        listening._limited.clear()
    monkeypatch.delitem(sys.modules, "twisted.internet.reactor")
    assert listening._daphne_stops() == []


async def test_a_socket_that_cannot_be_closed_is_one_line(serving, monkeypatch, caplog):
    def close():
        raise OSError("no")

    [real] = serving.servers
    with monkeypatch.context() as patched:
        broken = SimpleNamespace(close=close)
        patched.setattr(serving, "servers", [broken, real])
        stop_listening([serving.handle_exit])
    assert "cannot close a listening socket: OSError('no')" in caplog.text
    assert real.sockets == ()


class Left:
    """A connection that has not ended when the server asks it to."""

    def shutdown(self):
        pass


async def end(server, *tell):
    """Serve, and be told to end by a signal; how many seconds that takes."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.ensure_future(server._serve([listener]))
        # In the middle of its pause between two looks.
        await asyncio.sleep(0.35)
        began = loop.time()
        for function in (server.handle_exit, *tell):
            function(signal.SIGTERM, None)
        await task
        return loop.time() - began


def uvicorn_server():
    return uvicorn.Server(uvicorn.Config(None, lifespan="off", log_config=None))


def told(server):
    return lambda number, frame: end_pauses(server.handle_exit)


def test_uvicorn_ends_without_a_pause_where_nobody_is_left():
    server = uvicorn_server()
    assert run_in_fake_time(end(server, told(server))) == 0


def test_uvicorn_alone_pauses_twice():
    """Where this fails, it ends at once by itself, and ours is not needed."""
    assert run_in_fake_time(end(uvicorn_server())) == pytest.approx(0.15)


@pytest.mark.parametrize("what", ["connections", "tasks"])
def test_uvicorn_pauses_for_what_is_left(what):
    async def run():
        left = getattr(server.server_state, what)
        left.add(Left())
        asyncio.get_running_loop().call_later(0.4, left.clear)
        return await end(server, told(server))

    server = uvicorn_server()
    # Its own pause of a tenth of a second, but not the one before it.
    assert run_in_fake_time(run()) == pytest.approx(0.1)


def test_a_connection_that_ends_when_uvicorn_asks_it_to_is_not_left():
    class Ends:
        def shutdown(self):
            asyncio.get_running_loop().call_soon(connections.clear)

    server = uvicorn_server()
    connections = server.server_state.connections
    connections.add(Ends())
    assert run_in_fake_time(end(server, told(server))) == 0


class Differs(uvicorn.Server):
    """It waits for its end in a method of another name."""

    async def main_loop(self):
        await self.rest()

    async def rest(self):
        await asyncio.sleep(0.1)
        if not self.should_exit:
            await self.rest()


def test_of_a_server_that_differs_no_pause_is_ended():
    server = Differs(uvicorn.Config(None, lifespan="off", log_config=None))
    # The rest of this one, and the one that follows.
    assert run_in_fake_time(end(server, told(server))) == pytest.approx(0.15)


def test_where_the_pause_is_another_function_none_is_ended(monkeypatch):
    server = uvicorn_server()
    monkeypatch.setattr(asyncio, "sleep", partial(asyncio.sleep))
    assert run_in_fake_time(end(server, told(server))) == pytest.approx(0.15)


async def test_who_has_no_signal_handler_of_uvicorn_is_left_alone():
    for handler in (None, print, signal.SIG_DFL, Factory().buildProtocol):
        end_pauses(handler)
    assert listening._pause_of(uvicorn_server()) == ("", None)
