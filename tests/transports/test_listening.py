"""The listening sockets of daphne and uvicorn, which a process that ends closes."""

import asyncio
import socket
import sys
from types import SimpleNamespace

import pytest
import uvicorn
from daphne.http_protocol import HTTPFactory
from daphne.server import Server
from twisted.internet import tcp
from twisted.internet.protocol import Factory
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from filtered_websocket.transports import listening
from filtered_websocket.transports.listening import stop_listening

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
