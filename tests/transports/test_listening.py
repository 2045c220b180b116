"""
The listening sockets of daphne and uvicorn: few clients are accepted at a time, and a process
that ends closes them.
"""

import asyncio
import contextlib
import itertools
import socket
import sys
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
    limit_accepts,
    stop_listening,
)

from ..e2e.certificates import write_pair


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
