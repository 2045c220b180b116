"""A contender that runs, under load, and the figures of one interval."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from . import machine
from .clients import Place, Stream
from .contenders import PAYLOAD, Contender
from .load import Load
from .processes import ROOT, Process, Valkey, free_port
from .stats import percentile

#: Not the settings of the caller's own site.
SITE = {"DJANGO_SETTINGS_MODULE": "benchmarks.servers.site_settings"}

#: Metric -> figure.
Figures = dict[str, float]

#: Between messages at a low rate, seconds: 20 a second.
INTERVAL = 0.05
#: Time for a server to finish its work after the last delivery, seconds.
SETTLE = 0.02


@dataclass
class Bench:
    """What all measurements share."""

    valkey: Valkey
    cookie: str
    database: str
    #: Of every measured interval of throughput, seconds.
    seconds: float = 1.0
    quick: bool = False

    def environment(self, contender: Contender, port: int) -> dict[str, str]:
        return SITE | {
            "BENCH_DB": self.database,
            "BENCH_LAYER": contender.layer,
            "BENCH_PAYLOAD": str(len(PAYLOAD)),
            "PORT": str(port),
            "REDIS_URL": self.valkey.url,
        }

    def start(self, contender: Contender) -> Process:
        port = free_port()
        environment = self.environment(contender, port)
        return Process(contender.command(port), port, machine.SERVER_CORE, environment)

    @contextmanager
    def loaded(self, contender: Contender, processes: int = 1) -> Iterator["Session"]:
        """A contender that runs, and a load for it."""
        if contender.redis:
            self.valkey.flush()
        with ExitStack() as stack:
            servers = [stack.enter_context(self.start(contender)) for _ in range(processes)]
            load = stack.enter_context(Load(contender.wire, self.cookie))
            gc.collect()
            gc.disable()
            stack.callback(gc.enable)
            yield Session(self, contender, servers, load)


class Session:
    """One contender under load."""

    def __init__(
        self, bench: Bench, contender: Contender, servers: list[Process], load: Load
    ) -> None:
        self.bench = bench
        self.contender = contender
        self.servers = servers
        self.load = load

    @property
    def server(self) -> Process:
        return self.servers[0]

    def target(self, kind: str, group: str) -> str:
        return self.contender.wire.target(kind, "" if kind.startswith("echo") else group)

    def group(self, kind: str, name: str, members: int) -> list[Place]:
        """Where the members of a group connect, to one server after the other; the first sends."""
        stream = Stream()
        target = self.target(kind, name)
        return [
            Place(
                self.servers[number % len(self.servers)].port,
                target,
                stream,
                sends=number == 0,
                receives=kind != "fan" or number > 0,
            )
            for number in range(members)
        ]

    def in_flight(self, wanted: int) -> int:
        return min(wanted, self.contender.in_flight or wanted)

    def warm_up(self, streams: list[Stream], in_flight: int = 8) -> None:
        """A few messages one by one, then some together; they are not counted."""
        self.load.paced(streams[0], 3, 0.0, 5.0)
        seconds = self.bench.seconds / 4
        self.load.throughput(streams, seconds, self.in_flight(in_flight))

    def measure(self, streams: list[Stream], seconds: float, in_flight: int) -> Figures:
        """CPU and rate of one run of throughput."""
        pid, core = self.server.pid, machine.SERVER_CORE
        busy, cpu, own = machine.core_seconds(core), machine.cpu_seconds(pid), time.process_time()
        valkey = machine.cpu_seconds(self.bench.valkey.pid)
        run = self.load.throughput(streams, seconds, self.in_flight(in_flight))
        own = time.process_time() - own
        time.sleep(SETTLE)
        cpu = machine.cpu_seconds(pid) - cpu
        valkey = machine.cpu_seconds(self.bench.valkey.pid) - valkey
        others = machine.core_seconds(core) - busy - cpu
        figures = {
            "cpu_us": cpu / run.deliveries * 1e6,
            "rate": run.deliveries / run.seconds,
            "server_busy": cpu / run.seconds * 100,
            "load_us": own / run.deliveries * 1e6,
            "load_busy": own / run.seconds * 100,
            "others_busy": max(0.0, others) / run.seconds * 100,
            "loaded_p50_ms": percentile(run.fan_outs, 50) * 1e3,
            "loaded_p99_ms": percentile(run.fan_outs, 99) * 1e3,
        }
        if self.contender.redis:
            figures["valkey_us"] = valkey / run.deliveries * 1e6
        return figures

    def pace(self, stream: Stream, count: int, limit: float) -> Figures:
        """Fan-out time and latency at a low rate."""
        run = self.load.paced(stream, count, INTERVAL, limit)
        return {
            "fanout_p50_ms": percentile(run.fan_outs, 50) * 1e3,
            "fanout_p99_ms": percentile(run.fan_outs, 99) * 1e3,
            "latency_p50_ms": percentile(run.latencies, 50) * 1e3,
            "latency_p99_ms": percentile(run.latencies, 99) * 1e3,
        }


def make_session(database: str) -> str:
    """A database with a logged-in user; the value of the cookie."""
    command = [sys.executable, "-m", "benchmarks.servers.session"]
    return subprocess.run(
        command,
        env={**os.environ, **SITE, "BENCH_DB": database},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
