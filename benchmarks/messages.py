"""What is measured of messages: each function starts one contender, loads it, returns figures."""

import time
import timeit
from collections.abc import Callable
from statistics import median

from .bench import INTERVAL, SETTLE, Bench, Figures, Session
from .clients import Place, Stream
from .contenders import Contender

Measure = Callable[[Bench, Contender], Figures]

MESSAGES_IN_FLIGHT = 32
ECHO_PATHS = ("echo", "echo-def", "echo-async")


def fan_out(clients: int, in_flight: int, paced: int) -> Measure:
    """One group: throughput first, then the next when all have the last, then a low rate."""

    def measure(bench: Bench, contender: Contender) -> Figures:
        with bench.loaded(contender) as session:
            places = session.group("fan", "g", clients)
            session.load.connect(places)
            stream = places[0].stream
            session.warm_up([stream], in_flight // 4)
            figures = session.measure([stream], bench.seconds, in_flight)
            figures["single_us"] = session.measure([stream], bench.seconds / 2, 1)["cpu_us"]
            count = bench.count(paced, 10)
            return figures | session.pace(stream, count, limit=count * INTERVAL * 2)

    return measure


def per_recipient(clients: int, in_flight: int) -> Measure:
    """
    One group: the same for all, JSON of its own for each recipient, and of ours through a
    send filter that changes nothing. They take turns on one server process.
    """

    def measure(bench: Bench, contender: Contender) -> Figures:
        names = {"self": "alike_us", "each": "each_us"}
        if contender.ours:
            names["look"] = "look_us"
        with bench.loaded(contender) as session:
            streams = {}
            for kind in names:
                places = session.group(kind, kind, bench.count(clients, clients))
                session.load.connect(places)
                streams[kind] = [places[0].stream]
                session.warm_up(streams[kind], in_flight // 4)
            turns = [
                {
                    name: session.measure(streams[kind], bench.seconds / 3, in_flight)["cpu_us"]
                    for kind, name in names.items()
                }
                for _ in range(bench.count(5, 2))
            ]
        return {name: median(turn[name] for turn in turns) for name in names.values()}

    return measure


def to_itself(bench: Bench, contender: Contender) -> Figures:
    with bench.loaded(contender) as session:
        places = session.group("self", "g", 1)
        session.load.connect(places)
        stream = places[0].stream
        session.warm_up([stream])
        figures = session.measure([stream], bench.seconds, MESSAGES_IN_FLIGHT)
        return figures | session.pace(stream, bench.count(20, 10), limit=3.0)


def groups_of_three(bench: Bench, contender: Contender) -> Figures:
    with bench.loaded(contender) as session:
        groups = [
            session.group("fan", f"g{number}", 3) for number in range(bench.count(1000, 1000))
        ]
        session.load.connect(place for group in groups for place in group)
        streams = [group[0].stream for group in groups]
        session.warm_up(streams)
        return session.measure(streams, bench.seconds, MESSAGES_IN_FLIGHT)


def published(**variables: str) -> Measure:
    """
    A group per client, and one message to each of them from another process: the first one
    that a client gets, the next, and where it can be said so, all in one go.
    """

    def measure(bench: Bench, contender: Contender) -> Figures:
        clients = bench.count(5000, 500)
        with (
            # Handshakes are not measured here: no lookup shall be too slow for one.
            bench.loaded(contender, anonymous=True, **variables) as session,
            bench.start_publisher(contender, clients) as other,
        ):
            streams = [Stream() for _ in range(clients)]
            port = session.server.port
            places = [
                Place(port, session.target("fan", f"g{n}"), stream, False, True)
                for n, stream in enumerate(streams)
            ]
            session.load.connect(places)

            def once(how: str) -> float:
                for stream in streams:
                    session.load.expect(stream)
                cpu = session.cpu_seconds()
                other.tell(how)
                session.load.receive(clients)
                other.has_sent()
                time.sleep(SETTLE)
                return (session.cpu_seconds() - cpu) / clients * 1e6

            figures = {"first_us": once("each"), "next_us": once("each")}
            if contender.publishes_all:
                figures["all_us"] = once("all")
            return figures

    return measure


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
            for _ in range(bench.count(5, 2))
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


def commands_of(session: Session, stream: Stream, count: int) -> Figures:
    """What reaches Redis for one message of a stream."""
    valkey = session.bench.valkey
    session.load.paced(stream, 3, 0.0, 10.0)
    before = valkey.commands()
    run = session.load.paced(stream, count, 0.0, 5.0)
    after = valkey.commands()
    calls = {name: number - before.get(name, 0) for name, number in after.items()}
    return {
        "redis_commands": sum(calls.values()) / run.messages,
        **{f"redis {name}": n / run.messages for name, n in calls.items() if n},
    }


def redis_commands(clients: int) -> Measure:
    """The same, two processes sharing the clients of a group."""

    def measure(bench: Bench, contender: Contender) -> Figures:
        with bench.loaded(contender, processes=2) as session:
            places = session.group("fan", "g", clients)
            session.load.connect(places)
            return commands_of(session, places[0].stream, bench.count(100, 20))

    return measure
