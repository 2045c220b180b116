"""What this package promises about its speed, each with its bound."""

from dataclasses import dataclass
from typing import Any

from .needs import BEFORE as COMMIT
from .results import Results
from .stats import Spread


@dataclass(frozen=True)
class Claim:
    """
    A figure of one contender: as it is, ``over`` that of another, or ``less`` it.

    Compared in each round, so that what disturbs the machine disturbs both.
    """

    words: str
    scenario: str
    metric: str
    of: str
    over: str | None = None
    less: str | None = None
    bound: float = 0.0
    at_least: bool = False

    def measure(self, results: Results) -> Spread | None:
        """None if too little was measured."""
        values = results.rounds(self.scenario, self.of, self.metric)
        if self.over is not None:
            others = results.rounds(self.scenario, self.over, self.metric)
            return Spread.of([values[n] / others[n] for n in values.keys() & others.keys()])
        if self.less is not None:
            others = results.rounds(self.scenario, self.less, self.metric)
            return Spread.of([values[n] - others[n] for n in values.keys() & others.keys()])
        return Spread.of([*values.values()])

    def is_met(self, spread: Spread) -> bool:
        """Whether the median keeps the bound."""
        return spread.median >= self.bound if self.at_least else spread.median <= self.bound


def on_both(
    words: str,
    scenario: str,
    metric: str,
    of: str = "ours-{}",
    over: str | None = None,
    **more: Any,
) -> tuple[Claim, Claim]:
    """The same claim on daphne and on uvicorn; ``{}`` is the server."""
    daphne, uvicorn = (
        Claim(
            words.format(server),
            scenario,
            metric,
            of.format(server),
            None if over is None else over.format(server),
            **{name: f.format(server) if isinstance(f, str) else f for name, f in more.items()},
        )
        for server in ("daphne", "uvicorn")
    )
    return daphne, uvicorn


def through_protocol(words: str, scenario: str) -> list[Claim]:
    """The same through the Centrifuge protocol, in each format and on each server."""
    return [
        claim
        for title, name in (("JSON", "json"), ("Protobuf", "protobuf"))
        for claim in on_both(
            f"{words}: ours on {{}} through Redis, Centrifuge protocol in {title} / plain route",
            *(scenario, f"{name}_ratio", REDIS),
            bound=1.15,
        )
    ]


def through_pusher(words: str, scenario: str) -> tuple[Claim, Claim]:
    """The same through the Pusher protocol, on each server."""
    return on_both(
        f"{words}: ours on {{}} through Redis, Pusher protocol / plain route",
        *(scenario, "pusher_ratio", REDIS),
        bound=1.15,
    )


def by_http(metric: str, words: str, **bounds: float) -> list[Claim]:
    """By an HTTP stream, or server-sent events, beside a WebSocket of the same server."""
    return [
        Claim(
            f"{words} on {server} / WebSocket", "streams-200", metric, f"ours-{server}", bound=one
        )
        for server, one in bounds.items()
    ]


REDIS, BEFORE = "ours-{}-redis", "before-{}-redis"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "200 clients, CPU per delivery: ours / stock Channels, both daphne, Redis pubsub",
        *("fanout-200", "cpu_us", "ours-daphne-redis", "channels-pubsub"),
        bound=1 / 25,
    ),
    Claim(
        "200 clients, CPU per delivery: ours on daphne / socket.io, both through Redis",
        *("fanout-200", "cpu_us", "ours-daphne-redis", "node-socketio"),
        bound=0.75,
    ),
    Claim(
        "200 clients, CPU per delivery: ours on daphne / Node `ws`, in memory",
        *("fanout-200", "cpu_us", "ours-daphne", "node-ws"),
        bound=1.0,
    ),
    Claim(
        "200 clients, CPU per delivery: ours on uvicorn / the limit, in memory",
        *("fanout-200", "cpu_us", "ours-uvicorn", "limit"),
        bound=1.25,
    ),
    Claim(
        "200 clients, CPU per delivery: ours on daphne / the limit, in memory",
        *("fanout-200", "cpu_us", "ours-daphne", "limit"),
        bound=1.4,
    ),
    Claim(
        "1 client to itself, CPU per message: ours on daphne / socket.io, both through Redis",
        *("self-1", "cpu_us", "ours-daphne-redis", "node-socketio"),
        bound=1.3,
    ),
    Claim(
        "Redis commands per broadcast: ours on daphne, 2 processes, 400 clients",
        *("redis-400", "redis_commands", "ours-daphne-redis"),
        bound=3,
    ),
    Claim(
        "Redis commands per broadcast: ours on daphne, 2 processes, 4 000 clients",
        *("redis-4000", "redis_commands", "ours-daphne-redis"),
        bound=3,
    ),
    Claim(
        "200 clients, one message at a time, CPU per delivery: ours on daphne / Bun, in memory",
        *("fanout-200", "single_us", "ours-daphne", "bun"),
        bound=1.15,
    ),
    *on_both(
        "200 clients, without a send filter, CPU per delivery: ours on {} through Redis"
        f" / as of {COMMIT}",
        *("fanout-before", "cpu_us", REDIS, BEFORE),
        bound=1.0,
    ),
    *on_both(
        "3 000 clients, median fan-out time: ours on {} / Node `ws`, in memory",
        *("fanout-3000", "fanout_p50_ms"),
        over="node-ws",
        bound=1.0,
    ),
    *on_both(
        "1 000 groups of 3, CPU per delivery: ours on {} / Node `ws`, in memory",
        *("groups-1000", "cpu_us"),
        over="node-ws",
        bound=1.0,
    ),
    *on_both(
        "1 000 groups of 3, CPU per delivery: ours on {} / socket.io, both through Redis",
        *("groups-1000", "cpu_us", REDIS, "node-socketio"),
        bound=0.5,
    ),
    *on_both(
        "1 000 groups of 3, CPU per delivery: ours on {} through Redis / Node `ws` in memory",
        *("groups-1000", "cpu_us", REDIS, "node-ws"),
        bound=1.5,
    ),
    *on_both(
        "5 000 groups of 1, from another process, with Python's own garbage collection,"
        f" CPU of the first delivery: ours on {{}} through Redis / as of {COMMIT}",
        *("users-5000-gc", "first_us", REDIS, BEFORE),
        bound=0.3,
    ),
    *on_both(
        "5 000 groups of 1, from another process, with garbage collection as advised,"
        f" CPU of the first delivery: ours on {{}} through Redis / as of {COMMIT}",
        *("users-5000", "first_us", REDIS, BEFORE),
        bound=0.3,
    ),
    *on_both(
        "5 000 groups of 1, from another process, with Python's own garbage collection,"
        f" all in one go, CPU per delivery: ours on {{}} through Redis / as of {COMMIT}",
        *("users-5000-gc", "all_us", REDIS, BEFORE),
        bound=0.3,
    ),
    *on_both(
        "5 000 groups of 1, from another process, with garbage collection as advised,"
        f" all in one go, CPU per delivery: ours on {{}} through Redis / as of {COMMIT}",
        *("users-5000", "all_us", REDIS, BEFORE),
        bound=0.3,
    ),
    *on_both(
        "1 client to itself, CPU per message: ours on {} / `websockets`, in memory",
        *("self-1", "cpu_us"),
        over="websockets",
        bound=1.0,
    ),
    *on_both(
        "an echo, CPU per message: ours on {} / Node `ws`",
        *("echo", "cpu_us"),
        over="node-ws",
        bound=1.5,
    ),
    Claim(
        "an anonymous handshake, CPU: ours on daphne / bare ASGI, daphne",
        *("anonymous", "connect_cpu_us", "ours-daphne", "bare-daphne"),
        bound=1.25,
    ),
    Claim(
        "an anonymous handshake, CPU: ours on uvicorn / bare ASGI, uvicorn",
        *("anonymous", "connect_cpu_us", "ours-uvicorn", "bare-uvicorn"),
        bound=1.4,
    ),
    *on_both(
        "connections per second: ours with session and user, {}, Redis / python-socketio",
        *("connect", "connect_rate", REDIS, "socketio-python"),
        bound=1.0,
        at_least=True,
    ),
    Claim(
        "connections per second: ours / stock Channels, both daphne, Redis pubsub",
        *("connect", "connect_rate", "ours-daphne-redis", "channels-pubsub"),
        bound=1.25,
        at_least=True,
    ),
    Claim(
        "connections per second: ours through Redis / bare ASGI with the same middleware, daphne",
        *("connect", "connect_rate", "ours-daphne-redis", "bare-middleware"),
        bound=0.9,
        at_least=True,
    ),
    Claim(
        "an empty chain, us per run",
        *("echo", "empty_chain_us", "ours-daphne"),
        bound=0.3,
    ),
    Claim(
        "ten no-op `def` filters, us per message, daphne",
        *("echo", "ten_def_us", "ours-daphne"),
        bound=3,
    ),
    Claim(
        "ten no-op `async def` filters, us per message, daphne",
        *("echo", "ten_async_us", "ours-daphne"),
        bound=10,
    ),
    *on_both(
        "an idle connection, KiB: ours less bare ASGI echo, both {}",
        *("idle-10000", "memory_kb"),
        less="bare-{}",
        bound=4,
    ),
    *on_both(
        "5 000 clients with sessions all back after a drain, {}, Redis:"
        " seconds / those of their first connections",
        *("drain-5000", "back_ratio", REDIS),
        bound=2,
    ),
    *on_both(
        "50 rooms of 4, {}, Redis: CPU per message with history / without",
        *("history-50", "kept_ratio", REDIS),
        bound=1.5,
    ),
    *on_both(
        "50 rooms of 4, {}: CPU of Redis per message with history / without",
        *("history-50", "redis_ratio", REDIS),
        bound=4,
    ),
    *on_both(
        "1 000 clients catch up at once, {}, Redis: script calls per client",
        *("recover-1000", "script_calls", REDIS),
        bound=1,
    ),
    *through_protocol("200 clients, CPU per delivery", "spoken-200"),
    *through_protocol("500 groups of 3, CPU per delivery", "spoken-groups"),
    *through_protocol("50 rooms of 4 with a history, CPU per delivery", "spoken-history"),
    *through_protocol("1 000 clients catch up at once, CPU per client", "spoken-recovery"),
    *through_pusher("200 clients, CPU per delivery of a client event", "pusher-200"),
    *through_pusher("500 groups of 3, CPU per delivery of a client event", "pusher-groups"),
    *by_http("stream_ratio", "CPU per delivery: HTTP stream", daphne=4, uvicorn=2.5),
    *by_http("sse_ratio", "CPU per delivery: server-sent events", daphne=4.5, uvicorn=2.75),
    *by_http("stream_kb_ratio", "an idle connection: HTTP stream", daphne=1.6, uvicorn=1.1),
    *by_http("sse_kb_ratio", "an idle connection: server-sent events", daphne=1.3, uvicorn=1.1),
    *on_both(
        "50 clients beside 10 000 idle ones, {}, Redis: 99th percentile of latency / alone",
        *("crowd-10000", "idle_ratio", REDIS),
        bound=2,
    ),
    *on_both(
        "50 clients beside 10 000 idle ones and a flood, {}, Redis:"
        " 99th percentile of latency / alone",
        *("crowd-10000", "flood_ratio", REDIS),
        bound=2,
    ),
)
