"""The memory of a real process stays flat, whichever queue clients try to fill."""

import contextlib
import itertools
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..transports.test_inbox import frame
from .processes import Peak, Process, Valkey, free_port
from .test_lanes import PLAIN, SANS_IO, Raw

MIB = 2**20
#: How much a process may grow, whatever clients send.
GROWTH = 100 * MIB
#: How long clients send at most: a process without bounds takes 100 MiB a second.
SECONDS = 1.5
LONG = frame(b"x" * 250_000)
rooms = itertools.count()
SHORT = frame(b"x" * 20) * 2000
COMMANDS = {
    "daphne": ("daphne", "-e", "tcp:port={port}:interface=127.0.0.1"),
    "uvicorn": ("uvicorn", "--port", "{port}", *SANS_IO, *PLAIN),
}


class Site(Process):
    def __init__(self, kind, env, settings="tests.e2e.site_settings"):
        self.port = free_port()
        line = [part.format(port=self.port) for part in COMMANDS[kind]]
        env = env | {"DJANGO_SETTINGS_MODULE": settings}
        command = [sys.executable, "-m", *line, "tests.e2e.memory_site:application"]
        super().__init__(command, env=env, fresh=True)
        self.listens_on(self.port)


@pytest.fixture(scope="module")
def layer():
    server = Valkey()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, database, layer):
    process = Site(request.param, database | {"REDIS_URL": layer.url})
    yield process
    process.stop()


def send_all(client, data, ended):
    """Send ``data`` again and again, as fast as it is taken; how many bytes were."""
    sent = 0
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            sent += client.socket.send(data[sent % len(data) :])
    return sent


def discard(client, ended):
    """Read what comes, as a client does that keeps up."""
    while not ended.is_set():
        with contextlib.suppress(TimeoutError):
            assert client.socket.recv(2**20), "closed"


@contextlib.contextmanager
def silent(layer):
    """Connections to it stay open, and it answers nothing."""
    if layer is not None:
        layer.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        if layer is not None:
            layer.signal(signal.SIGCONT)


def flood(server, path, data, senders=1, idle=0, layer=None):
    """
    How many bytes the process grew while clients sent, besides others that do not read;
    while ``layer`` is silent, if there is one.
    """
    path += f"{next(rooms)}/"
    clients = [Raw(server.port, path) for _ in range(senders + idle)]
    for client in clients:
        client.socket.settimeout(0.1)
    peak = Peak(server)
    with silent(layer), ThreadPoolExecutor(2 * senders) as threads:
        ended = threading.Event()
        sending = [threads.submit(send_all, client, data, ended) for client in clients[:senders]]
        reading = [threads.submit(discard, client, ended) for client in clients[:senders]]
        ended.wait(SECONDS)
        ended.set()
        sent = sum(one.result() for one in sending)
        for one in reading:
            one.result()
        grown = peak.growth
    for client in clients:
        client.close()
    print(f"{path}: {sent / MIB:.0f} MiB sent, {grown / MIB:+.0f} MiB")
    return grown


def test_a_group_filter_that_is_slow(server):
    assert flood(server, "/group/", LONG, 4) < GROWTH


def test_a_consumer_filter_that_is_slow(server):
    assert flood(server, "/events/", LONG) < GROWTH


def test_clients_that_do_not_read(server):
    assert flood(server, "/publish/", LONG, 2, idle=20) < GROWTH


# Last, as a process notices only some time later that the layer answers again.


@pytest.mark.parametrize("senders", [1, 20])
def test_long_messages_while_the_layer_is_silent(server, layer, senders):
    assert flood(server, "/publish/", LONG, senders, layer=layer) < GROWTH


def test_short_messages_while_the_layer_is_silent(server, layer):
    assert flood(server, "/publish/", SHORT, 4, layer=layer) < GROWTH
