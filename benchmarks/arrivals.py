"""What is measured of connections: handshakes, memory, a drain, and many beside a few."""

import time

from . import machine
from .bench import Bench, Figures
from .clients import LoadError
from .contenders import RAW, Contender
from .crowd import Crowd
from .messages import Measure
from .stats import percentile
from .storm import Storm

#: Clients that connect before memory is first read, so that code loaded late is not counted.
BEFOREHAND = 200
#: Who listens to one more beside a crowd, the bytes of a message, and its seconds.
HEARERS, SIZE, PAUSE = 50, 128, 0.02


def kind_of(contender: Contender) -> str:
    """Where clients connect that do nothing else."""
    return "fan" if "fan" in contender.kinds else "echo"


def connect(clients: int, *, anonymous: bool = False) -> Measure:
    """Handshakes, from the first SYN to the last 101; of logged-in users if not anonymous."""

    def measure(bench: Bench, contender: Contender) -> Figures:
        with bench.loaded(contender, anonymous=anonymous) as session:
            kind = kind_of(contender)
            # The first ones import and open what all others use.
            session.load.connect(session.group(kind, "g", 50))
            cpu = session.cpu_seconds()
            wanted = bench.count(clients, 200)
            count, seconds = session.load.connect(session.group(kind, "g", wanted))
            cpu = session.cpu_seconds() - cpu
            return {"connect_rate": count / seconds, "connect_cpu_us": cpu / count * 1e6}

    return measure


def idle(bench: Bench, contender: Contender) -> Figures:
    """Memory that connections add while nothing happens."""
    clients = bench.count(10_000, 1000)
    with bench.loaded(contender) as session:
        kind = kind_of(contender)
        session.load.connect(session.group(kind, "g", BEFOREHAND))
        time.sleep(0.5)
        before = machine.resident_bytes(session.server.pid)
        count, seconds = session.load.connect(session.group(kind, "g", clients))
        time.sleep(1.0)
        after = machine.resident_bytes(session.server.pid)
        return {
            "memory_kb": (after - before) / count / 1024,
            "connections": float(count),
            "connect_rate": count / seconds,
        }


def drain(bench: Bench, contender: Contender) -> Figures:
    """
    Clients connect for the first time; then a second process starts, the first one ends, and
    they come back to the second, by the rule of reconnect.js.
    """
    clients = bench.count(5000, 300)
    bench.valkey.flush()
    with bench.start(contender) as first:
        target = contender.wire.target("fan", "g")
        requests = [contender.wire.request(target, first.port, one) for one in bench.cookies]
        with Storm(first.port, requests, clients) as storm:
            began = time.monotonic()
            storm.arrive()
            arrived = time.monotonic() - began
            with bench.start(contender) as second:
                storm.handshakes.clear()
                # As a proxy does that has been told of the second.
                storm.port = second.port
                first.end()
                began = time.monotonic()
                storm.step_until(lambda: len(storm.handshakes) >= clients, 120)
                back = time.monotonic() - began
            if storm.open != clients:
                raise LoadError(f"{clients - storm.open} clients were closed by the second process")
            return {
                "arrived_s": arrived,
                "back_s": back,
                "back_ratio": back / arrived,
                "back_p99_s": percentile(storm.handshakes, 99),
                "refused": float(sum(n for how, n in storm.ends.items() if "refused" in how)),
            }


def crowd(bench: Bench, contender: Contender) -> Figures:
    """The latency of a few clients: alone, beside idle ones, and beside a flood, too."""
    count = bench.count(250, 25)
    bench.valkey.flush()
    target = RAW.target("fan", "{}")
    with (
        bench.start(contender) as server,
        Crowd(server.port, bench.cookies[0], target) as crowd,
    ):
        sender, *hearers = crowd.join("talk", HEARERS + 1)
        crowd.talk(sender, hearers, 20, SIZE)

        def latency(percent: float) -> float:
            times = crowd.talk(sender, hearers, count, SIZE, interval=PAUSE)
            return percentile(times, percent) * 1e3

        figures = {"alone_p99_ms": latency(99)}
        crowd.join("idle", bench.count(10_000, 500))
        figures["idle_p99_ms"] = latency(99)
        [flooding] = crowd.join("flood", 1)
        crowd.start_flood(flooding, b"x" * SIZE)
        figures["flood_p99_ms"] = latency(99)
        crowd.end_flood()
        for name in ("idle", "flood"):
            figures[f"{name}_ratio"] = figures[f"{name}_p99_ms"] / figures["alone_p99_ms"]
        return figures
