"""
``python -m benchmarks.relay``: what a message costs Redis that it carries to many processes.

A hundred publishers have one PUBLISH each on its way, as a hundred busy processes would, or
one publisher alone has; so many others have subscribed. Counted is CPU time of Valkey alone,
per PUBLISH.
"""

import json
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import machine
from .processes import Valkey, free_port

RESULTS = Path(__file__).resolve().parent / "results" / "relay.json"
PUBLISHERS = 100
ROUNDS = 100
SUBSCRIBERS = (0, 1, 10, 40, 100)
#: What the package puts around 128 bytes, and the message itself.
SIZE, LONG = 256, 8192
CHANNEL = b"asgi__group__fws.g.0123456789abcdef0123456789abcdef"


def command(*words: bytes) -> bytes:
    parts = [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
    return b"*%d\r\n%s" % (len(words), b"".join(parts))


class Link:
    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.received = 0
        selector.register(self.socket, selectors.EVENT_READ, self)

    def read(self) -> None:
        self.received += len(self.socket.recv(1 << 20))

    def ask(self, line: bytes) -> bytes:
        self.socket.sendall(line)
        return self.socket.recv(1 << 16)


class Relay:
    """Publishers and subscribers of one Valkey, or of two nodes."""

    def __init__(self, publish_to: int, subscribe_to: int, subscribers: int) -> None:
        self.selector = selectors.DefaultSelector()
        self.publishers = [Link(publish_to, self.selector) for _ in range(PUBLISHERS)]
        self.subscribers = [Link(subscribe_to, self.selector) for _ in range(subscribers)]
        for link in self.subscribers:
            link.ask(command(b"SUBSCRIBE", CHANNEL))

    def close(self) -> None:
        for link in (*self.publishers, *self.subscribers):
            link.socket.close()
        self.selector.close()

    def publish(self, size: int, publishers: int = PUBLISHERS, *, counted: bool = True) -> None:
        """
        One message of each of these publishers, and wait until all have arrived. The answer to a
        publisher is how many have subscribed at its own node.
        """
        line = command(b"PUBLISH", CHANNEL, b"x" * size)
        answer = len(b":%d\r\n" % (len(self.subscribers) if counted else 0))
        message = len(command(b"message", CHANNEL, b"x" * size))
        for link in self.publishers[:publishers]:
            link.socket.sendall(line)
        wanted = publishers * (answer + message * len(self.subscribers))
        while wanted > 0:
            for key, _ in self.selector.select():
                before = key.data.received
                key.data.read()
                wanted -= key.data.received - before


@contextmanager
def relay(publish_to: int, subscribe_to: int, subscribers: int) -> Iterator[Relay]:
    one = Relay(publish_to, subscribe_to, subscribers)
    try:
        yield one
    finally:
        one.close()


def cost(
    valkey: Valkey, subscribers: int, size: int, rounds: int, publishers: int = PUBLISHERS
) -> float:
    """Microseconds of CPU for each PUBLISH."""
    with relay(valkey.port, valkey.port, subscribers) as one:
        one.publish(size, publishers)
        before = machine.cpu_seconds(valkey.pid)
        for _ in range(rounds):
            one.publish(size, publishers)
        return (machine.cpu_seconds(valkey.pid) - before) / rounds / publishers * 1e6


def line(costs: dict[int, float]) -> tuple[float, float]:
    """Of the straight line through these points: where it begins, and how it rises."""
    count = len(costs)
    mean_x, mean_y = sum(costs) / count, sum(costs.values()) / count
    slope = sum((x - mean_x) * (y - mean_y) for x, y in costs.items()) / sum(
        (x - mean_x) ** 2 for x in costs
    )
    return mean_y - slope * mean_x, slope


def measure(rounds: int = ROUNDS, subscribers: Sequence[int] = SUBSCRIBERS) -> dict[str, float]:
    with Valkey(machine.LOAD_CORE) as valkey:
        publish, deliver = line({n: cost(valkey, n, SIZE, rounds) for n in subscribers})
        _, long = line({n: cost(valkey, n, LONG, rounds) for n in subscribers})
        alone = {n: cost(valkey, n, SIZE, rounds * 10, publishers=1) for n in subscribers}
        _, deliver_alone = line(alone)
    per_kib = (long - deliver) / (LONG - SIZE) * 1024
    figures = {"publish_us": publish, "deliver_us": deliver, "deliver_us_per_kib": per_kib}
    return {**figures, "deliver_alone_us": deliver_alone, **measure_cluster(rounds)}


def measure_cluster(rounds: int) -> dict[str, float]:
    """What another node of a cluster pays for a message that it only hears of, and the first."""
    with ExitStack() as stack:
        # By default that port is 10 000 more, which may be no port.
        bus = [free_port() for _ in range(2)]
        nodes = [
            stack.enter_context(
                Valkey(
                    machine.LOAD_CORE, *("--cluster-enabled", "yes", "--cluster-port", str(port))
                )
            )
            for port in bus
        ]
        first, second = nodes
        meet(first.port, second.port, bus[1])
        with relay(first.port, second.port, 1) as one:
            before = [machine.cpu_seconds(node.pid) for node in nodes]
            for _ in range(rounds):
                one.publish(SIZE, counted=False)
            after = [machine.cpu_seconds(node.pid) for node in nodes]
    sender, hearer = (
        (b - a) / rounds / PUBLISHERS * 1e6 for a, b in zip(before, after, strict=True)
    )
    return {"cluster_publish_us": sender, "cluster_hear_us": hearer}


def meet(port: int, other: int, bus: int) -> None:
    """Make a cluster of two nodes, and wait until each knows the other."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(command(b"CLUSTER", b"MEET", b"127.0.0.1", b"%d" % other, b"%d" % bus))
        assert link.recv(1 << 16) == b"+OK\r\n"
    for node in (port, other):
        with socket.create_connection(("127.0.0.1", node)) as link:
            told = b""
            while told.count(b" connected") < 2 or b"handshake" in told:
                time.sleep(0.05)
                link.sendall(command(b"CLUSTER", b"NODES"))
                told = link.recv(1 << 16)


def main() -> None:
    about = {"date": machine.now(), "machine": machine.describe()}
    with Valkey(machine.LOAD_CORE) as valkey:
        about["valkey"] = valkey.version()
    figures = {name: round(value, 3) for name, value in measure().items()}
    RESULTS.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
