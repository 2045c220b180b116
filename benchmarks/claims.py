"""What this package promises about its speed, each with its bound."""

from dataclasses import dataclass

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
        "3 000 clients, median fan-out time: ours on daphne / Node `ws`, in memory",
        *("fanout-3000", "fanout_p50_ms", "ours-daphne", "node-ws"),
        bound=1.2,
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
    Claim(
        "an idle connection, KiB: ours less bare ASGI echo, both daphne",
        *("idle-10000", "memory_kb", "ours-daphne"),
        less="bare-daphne",
        bound=12,
    ),
)
