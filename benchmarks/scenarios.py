"""What is measured: each scenario starts one contender, loads it, and returns figures."""

import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from . import machine
from .bench import INTERVAL, Bench, Figures
from .contenders import BY_NAME, CONTENDERS, Contender

MESSAGES_IN_FLIGHT = 32
#: Clients that connect before memory is first read, so that code loaded late is not counted.
BEFOREHAND = 200
ECHO_PATHS = ("echo", "echo-def", "echo-async")

Measure = Callable[[Bench, Contender], Figures]
#: Why a contender has no figures in a scenario, or None.
Excuse = Callable[[Contender], str | None]

EVERYBODY = tuple(contender.name for contender in CONTENDERS)
#: The bare servers only echo: they show what a connection costs, or one message.
SENDS_TO_GROUPS = tuple(contender.name for contender in CONTENDERS if "fan" in contender.kinds)
THROUGH_REDIS = tuple(contender.name for contender in CONTENDERS if contender.redis)
ECHOING = ("ours-daphne", "ours-uvicorn", "bare-daphne", "bare-uvicorn", "websockets", "node-ws")


@dataclass(frozen=True)
class Scenario:
    name: str
    title: str
    measure: Measure
    rounds: int
    #: The contenders it applies to.
    names: tuple[str, ...] = SENDS_TO_GROUPS
    excuse: Excuse = lambda contender: None

    @property
    def contenders(self) -> list[Contender]:
        return [BY_NAME[name] for name in self.names]


def needs_to_self(contender: Contender) -> str | None:
    return None if "self" in contender.kinds else "sends nothing to its sender"


def needs_groups(contender: Contender) -> str | None:
    return "has one group" if contender.one_group else None


def fan_out(clients: int, in_flight: int, paced: int) -> Measure:
    """One group: throughput first, then one message at a time."""

    def measure(bench: Bench, contender: Contender) -> Figures:
        with bench.loaded(contender) as session:
            places = session.group("fan", "g", clients)
            session.load.connect(places)
            stream = places[0].stream
            session.warm_up([stream], in_flight // 4)
            figures = session.measure([stream], bench.seconds, in_flight)
            count = 10 if bench.quick else paced
            return figures | session.pace(stream, count, limit=count * INTERVAL * 2)

    return measure


def to_itself(bench: Bench, contender: Contender) -> Figures:
    with bench.loaded(contender) as session:
        places = session.group("self", "g", 1)
        session.load.connect(places)
        stream = places[0].stream
        session.warm_up([stream])
        figures = session.measure([stream], bench.seconds, MESSAGES_IN_FLIGHT)
        return figures | session.pace(stream, 10 if bench.quick else 20, limit=3.0)


def groups_of_three(bench: Bench, contender: Contender) -> Figures:
    with bench.loaded(contender) as session:
        groups = [session.group("fan", f"g{number}", 3) for number in range(1000)]
        session.load.connect(place for group in groups for place in group)
        streams = [group[0].stream for group in groups]
        session.warm_up(streams)
        return session.measure(streams, bench.seconds, MESSAGES_IN_FLIGHT)


def echo(bench: Bench, contender: Contender) -> Figures:
    """
    One client and what comes back; ours through ten filters as well.

    The pipelines take turns on one server process, so that nothing else is in the
    difference.
    """
    paths = ECHO_PATHS if contender.ours else ECHO_PATHS[:1]
    with bench.loaded(contender) as session:
        streams = []
        for path in paths:
            places = session.group(path, "", 1)
            session.load.connect(places)
            streams.append(places[0].stream)
            session.warm_up([places[0].stream])
        turns = [
            [session.measure([stream], bench.seconds / 4, MESSAGES_IN_FLIGHT) for stream in streams]
            for _ in range(2 if bench.quick else 5)
        ]
    figures = {
        metric: median(turn[0][metric] for turn in turns)
        for metric in ("cpu_us", "rate", "load_us")
    }
    if contender.ours:
        for at, name in ((1, "ten_def_us"), (2, "ten_async_us")):
            figures[name] = median(turn[at]["cpu_us"] - turn[0]["cpu_us"] for turn in turns)
        figures["empty_chain_us"] = empty_chain_us()
    return figures


EMPTY_CHAIN = """
from filtered_websocket import FilterBase, FilterMeta
class EmptyMeta(FilterMeta): pass
class Empty(FilterBase, metaclass=EmptyMeta): pass
run, data = Empty.run, bytearray(128)
"""


def empty_chain_us() -> float:
    """One run of a chain without a filter, in this process."""
    loops = 100_000
    return min(timeit.repeat("run(None, data)", EMPTY_CHAIN, number=loops, repeat=5)) / loops * 1e6


def connect(bench: Bench, contender: Contender) -> Figures:
    """Handshakes of logged-in users, from the first SYN to the last 101."""
    with bench.loaded(contender) as session:
        kind = "fan" if "fan" in contender.kinds else "echo"
        # The first ones import and open what all others use.
        session.load.connect(session.group(kind, "g", 50))
        pid = session.server.pid
        cpu = machine.cpu_seconds(pid)
        count, seconds = session.load.connect(session.group(kind, "g", 200 if bench.quick else 800))
        cpu = machine.cpu_seconds(pid) - cpu
        return {"connect_rate": count / seconds, "connect_cpu_us": cpu / count * 1e6}


def idle(bench: Bench, contender: Contender) -> Figures:
    """Memory that connections add while nothing happens."""
    clients = 1000 if bench.quick else 10_000
    with bench.loaded(contender) as session:
        kind = "fan" if "fan" in contender.kinds else "echo"
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


def redis_commands(clients: int) -> Measure:
    """What reaches Redis for one message, two processes sharing the clients of a group."""

    def measure(bench: Bench, contender: Contender) -> Figures:
        with bench.loaded(contender, processes=2) as session:
            places = session.group("fan", "g", clients)
            session.load.connect(places)
            stream = places[0].stream
            session.load.paced(stream, 3, 0.0, 10.0)
            before = bench.valkey.commands()
            run = session.load.paced(stream, 20 if bench.quick else 100, 0.0, 5.0)
            after = bench.valkey.commands()
        calls = {name: count - before.get(name, 0) for name, count in after.items()}
        return {
            "redis_commands": sum(calls.values()) / run.messages,
            **{f"redis {name}": n / run.messages for name, n in calls.items() if n},
        }

    return measure


SCENARIOS = (
    Scenario("self-1", "1 client in one group", to_itself, 3, excuse=needs_to_self),
    Scenario("fanout-200", "200 clients in one group", fan_out(200, 32, 30), 5),
    # Fewer at once: so many clients make a queue of every message.
    Scenario("fanout-3000", "3 000 clients in one group", fan_out(3000, 4, 30), 2),
    Scenario("groups-1000", "1 000 groups of 3", groups_of_three, 1, excuse=needs_groups),
    Scenario("echo", "echo, ours also through ten filters", echo, 3, (*ECHOING, "limit")),
    Scenario("connect", "800 connections", connect, 3, EVERYBODY),
    Scenario("idle-10000", "10 000 idle connections", idle, 1, EVERYBODY),
    Scenario("redis-400", "2 processes, 400 clients", redis_commands(400), 1, THROUGH_REDIS),
    Scenario("redis-4000", "2 processes, 4 000 clients", redis_commands(4000), 1, THROUGH_REDIS),
)
