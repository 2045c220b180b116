"""
Clients of the Centrifuge protocol that flood a server make it grow no more than those that send
the same bytes to a plain route of it, and others are served while they are there.
"""

import base64
import contextlib
import itertools
import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from filtered_websocket.codecs.centrifuge import JSON, PROTOBUF

from ..transports.test_inbox import frame
from ..waiting import LIMIT
from .processes import Peak, Valkey
from .test_lanes import Raw
from .test_memory import COMMANDS, MIB, Site

codecs = pytest.importorskip("centrifuge.codecs")

CLIENTS = 4
#: Bytes that wait to be published, at most: in this test what waits elsewhere counts.
QUEUE = 8 * MIB
#: So many bytes more than for a plain route a process may take: for each client an answer as long
#: as may wait for it (MAX_OUTBOX) with what it is made of, and publishes that wait for the queue.
ALLOWANCE = 32 * MIB
#: A client that was answered this was answered all before.
LAST = {"id": 4_000_000_000, "ping": {}}
#: A group whose history is as long as an answer may be.
KEPT = "kept:flood"
#: So many answers of a history are more than the buffers of a socket hold.
ANSWERS = 30
numbers = itertools.count()


@pytest.fixture(scope="module")
def layer():
    server = Valkey()
    yield server
    server.stop()


@pytest.fixture(scope="module", params=COMMANDS)
def server(request, database, layer):
    changed = json.dumps({"PUBLISH_QUEUE_BYTES": QUEUE})
    env = database | {"REDIS_URL": layer.url, "TEST_SETTINGS": changed}
    process = Site(request.param, env, "tests.e2e.protocol_settings")
    yield process
    process.stop()


@pytest.fixture(params=[JSON, PROTOBUF], ids=["json", "protobuf"])
def form(request):
    return request.param


def commands(form, *wanted):
    """The payload of one frame."""
    if form is JSON:
        return "\n".join(map(json.dumps, wanted)).encode()
    return codecs._ProtobufCodec.encode_commands(wanted)


def data(form, value):
    """Of a publication, as :func:`commands` wants it: bytes of Protobuf in base64."""
    return value if form is JSON else base64.b64encode(json.dumps(value).encode()).decode()


class Plain(Raw):
    """A client of a plain route, alone in its group. What it sends are frames of a format."""

    def __init__(self, server, form):
        self._form = form
        self._rest = b""
        super().__init__(server.port, *self.route())
        self.socket.settimeout(LIMIT)

    def route(self):
        """Its path, and header lines."""
        return [f"/publish/{next(numbers)}/"]

    def _frame(self, payload):
        return frame(payload, 1 if self._form is JSON else 2)

    def send(self, *payloads):
        for payload in payloads:
            self.socket.sendall(self._frame(payload))

    def pour(self, payload):
        """Go on to send such frames, as far as they are taken."""
        self.socket.setblocking(False)
        self._rest = self._rest or self._frame(payload)
        with contextlib.suppress(BlockingIOError):
            self._rest = self._rest[self.socket.send(self._rest) :]

    def end(self):
        """Send what is answered last."""
        self.socket.sendall(frame(b"", 9))

    def is_last(self, opcode, payload):
        return opcode == 10

    def read(self):
        """Until the last answer."""
        while True:
            found = self.frame()
            assert found, "the server hung up"
            if self.is_last(*found):
                return


class Speaker(Plain):
    """A client of the protocol, connected."""

    def __init__(self, server, form):
        super().__init__(server, form)
        self.send(commands(form, {"id": 1, "connect": {}}))
        self.frame()

    def route(self):
        return ["/connection/websocket", f"Sec-WebSocket-Protocol: {self._form.subprotocol}"]

    def end(self):
        self.send(commands(self._form, LAST))

    def is_last(self, opcode, payload):
        assert opcode != 8, f"closed: {payload!r}"
        return payload == self._form.reply(LAST).payload


class Closed(Speaker):
    """One whose frames are malformed, which is answered by a close and nothing else."""

    def end(self):
        pass

    def is_last(self, opcode, payload):
        assert (opcode, payload[:2]) == (8, struct.pack("!H", 3501))
        return True


class Good(Speaker):
    """One that does as it should, and reads fast."""

    def __init__(self, server, form):
        super().__init__(server, form)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)

    def ask(self, **request):
        self.send(commands(self._form, {"id": 2, **request}))
        self.end()
        self.read()

    def is_served(self):
        """Subscribe, publish, and hear that."""
        channel, said = f"room:{next(numbers)}", f"said {next(numbers)}"
        self.ask(subscribe={"channel": channel})
        publish = {"channel": channel, "data": data(self._form, said)}
        self.send(commands(self._form, {"id": 3, "publish": publish}))
        while said.encode() not in self.frame()[1]:
            pass


@contextlib.contextmanager
def flooding(server, make, form):
    """Clients; and when they have done their worst, while they are there, a good one is served."""
    clients = [make(server, form) for _ in range(CLIENTS)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.callback(client.close)
        yield clients
        good = Good(server, form)
        stack.callback(good.close)
        good.is_served()


def grown(server, make, form, *payloads):
    """By how many bytes the process grew at most while clients sent these frames, and read."""

    def send(client):
        client.send(*payloads)
        client.end()

    with flooding(server, make, form) as clients, ThreadPoolExecutor(2 * CLIENTS) as threads:
        peak = Peak(server)
        jobs = [threads.submit(send, client) for client in clients]
        jobs += [threads.submit(client.read) for client in clients]
        for job in jobs:
            job.result()
        return peak.growth


def compare(what, protocol, plain):
    print(f"{what}: {protocol / MIB:+.1f} MiB, on a plain route {plain / MIB:+.1f} MiB")
    assert protocol <= plain + ALLOWANCE


# The protocol has its turn first: what the allocator keeps of a flood, the next one need not take.


def long_publishes(form):
    publish = {"channel": "room:flood", "data": data(form, "x" * 250_000)}
    return 60 * [commands(form, {"id": 1, "publish": publish})]


def subscriptions(form):
    wanted = [{"id": n, "subscribe": {"channel": f"room:{n}"}} for n in range(1, 4001)]
    return [commands(form, *wanted)]


@pytest.mark.parametrize("flood", [long_publishes, subscriptions])
def test_a_flood_of_commands(server, form, flood):
    frames = flood(form)
    protocol, plain = (grown(server, make, form, *frames) for make in (Speaker, Plain))
    compare(flood.__name__, protocol, plain)


#: The shortest command, again and again before the end is malformed; and nothing but garbage.
GARBAGE = {
    "small commands": lambda form: (b"{}\n" if form is JSON else b"\x02\x08\x01") * 83_000 + b"x",
    "brackets": lambda form: b"[" * 250_000,
}


@pytest.mark.parametrize("name", GARBAGE)
def test_malformed_frames(server, form, name):
    payload = GARBAGE[name](form)
    protocol, plain = (grown(server, make, form, payload) for make in (Closed, Plain))
    compare(name, protocol, plain)


def unread(server, make, form, payload):
    """The same while clients send such frames as far as they are taken, and read nothing."""
    with flooding(server, make, form) as clients:
        good = Good(server, form)
        peak = Peak(server)
        for client in clients:
            client.send(payload)
        for _ in range(ANSWERS):
            # Those that do not read are answered as often meanwhile, or it is no longer read.
            good.ask(history={"channel": KEPT, "limit": -1})
            for client in clients:
                client.pour(payload)
        growth = peak.growth
        good.close()
    return growth


def test_histories_for_clients_that_never_read(server, form):
    keeper = Good(server, form)
    publish = {"channel": KEPT, "data": data(form, "x" * 1_700)}
    for _ in range(3):
        keeper.send(commands(form, *[{"id": n, "publish": publish} for n in range(1, 101)]))
    keeper.end()
    keeper.read()
    keeper.close()
    asked = [{"id": n, "history": {"channel": KEPT, "limit": -1}} for n in range(1, 3001)]
    payload = commands(form, *asked)
    protocol, plain = (unread(server, make, form, payload) for make in (Speaker, Plain))
    compare("histories", protocol, plain)
