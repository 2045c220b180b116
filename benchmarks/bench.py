"""A contender that runs, under load, and the figures of one interval."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from . import machine
from .clients import Place, Stream
from .contenders import PAYLOAD, Contender
from .load import Load
from .processes import ROOT, Process, Publisher, Valkey, free_port
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
    #: Of a session of a user of its own each.
    cookies: Sequence[str]
    database: str
    #: Of every measured interval of throughput, seconds.
    seconds: float = 1.0
    quick: bool = False

    def count(self, whole: int, quick: int) -> int:
        """How many of something there are in this run."""
        return quick if self.quick else whole

    def environment(self, contender: Contender, port: int = 0) -> dict[str, str]:
        return SITE | {
            "BENCH_DB": self.database,
            "BENCH_LAYER": contender.layer,
            "BENCH_PAYLOAD": str(len(PAYLOAD)),
            "PORT": str(port),
            "REDIS_URL": self.valkey.url,
        }

    def start(self, contender: Contender, **variables: str) -> Process:
        port = free_port()
        environment = self.environment(contender, port) | variables
        command = contender.command(port)
        return Process(command, port, machine.SERVER_CORE, environment, contender.folder)

    def start_publisher(self, contender: Contender, groups: int) -> Publisher:
        """Another process of its site, which publishes to so many groups when it is told to."""
        assert contender.publisher is not None
        command, environment = contender.publisher(groups), self.environment(contender)
        return Publisher(command, machine.LOAD_CORE, environment, contender.folder)

    @contextmanager
    def loaded(
        self,
        contender: Contender,
        processes: int = 1,
        *,
        anonymous: bool = False,
        **variables: str,
    ) -> Iterator["Session"]:
        """A contender that runs, with these variables of its environment, and a load for it."""
        if contender.redis:
            self.valkey.flush()
        with ExitStack() as stack:
            load = stack.enter_context(Load(contender.wire, [""] if anonymous else self.cookies))
            gc.collect()
            gc.disable()
            stack.callback(gc.enable)
            session = Session(self, contender, stack, load, variables)
            for _ in range(processes):
                session.add_server()
            yield session


class Session:
    """One contender under load."""

    def __init__(
        self,
        bench: Bench,
        contender: Contender,
        stack: ExitStack,
        load: Load,
        variables: Mapping[str, str],
    ) -> None:
        self.bench = bench
        self.contender = contender
        self.servers: list[Process] = []
        self.load = load
        self._stack = stack
        self._variables = variables

    def add_server(self) -> Process:
        """One more process, which ends with the others."""
        started = self.bench.start(self.contender, **self._variables)
        server = self._stack.enter_context(started)
        self.servers.append(server)
        return server

    @property
    def server(self) -> Process:
        return self.servers[0]

    def cpu_seconds(self) -> float:
        """Of all servers."""
        return sum(machine.cpu_seconds(server.pid) for server in self.servers)

    def resident_bytes(self) -> int:
        """Of all servers."""
        return sum(machine.resident_bytes(server.pid) for server in self.servers)

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

    def more(self, name: str, stream: Stream, count: int, port: int = 0) -> list[Place]:
        """Where others connect who join a group only to receive."""
        target = self.target("fan", name)
        return [Place(port or self.server.port, target, stream, False, True)] * count

    def in_flight(self, wanted: int) -> int:
        return min(wanted, self.contender.in_flight or wanted)

    def warm_up(self, streams: list[Stream], in_flight: int = 8) -> None:
        """A few messages one by one, then some together; they are not counted."""
        self.load.paced(streams[0], 3, 0.0, 5.0)
        seconds = self.bench.seconds * self.contender.warm_up
        self.load.throughput(streams, seconds, self.in_flight(in_flight))

    def measure(self, streams: list[Stream], seconds: float, in_flight: int) -> Figures:
        """CPU and rate of one run of throughput."""
        core = machine.SERVER_CORE
        busy, cpu, own = machine.core_seconds(core), self.cpu_seconds(), time.process_time()
        valkey = machine.cpu_seconds(self.bench.valkey.pid)
        run = self.load.throughput(streams, seconds, self.in_flight(in_flight))
        own = time.process_time() - own
        time.sleep(SETTLE)
        cpu = self.cpu_seconds() - cpu
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


def make_sessions(database: str, count: int) -> list[str]:
    """A database with so many logged-in users; the values of their cookies."""
    command = [sys.executable, "-m", "benchmarks.servers.session", str(count)]
    made = subprocess.run(
        command,
        env={**os.environ, **SITE, "BENCH_DB": database},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.split()
