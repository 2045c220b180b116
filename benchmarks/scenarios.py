"""The scenarios: what is measured of whom, and how often."""

from collections.abc import Callable
from dataclasses import dataclass

from .arrivals import connect, crowd, drain, idle
from .contenders import BY_NAME, CONTENDERS, Contender
from .curves import CURVES
from .kept import recovery, with_history
from .messages import (
    Measure,
    echo,
    fan_out,
    groups_of_three,
    per_recipient,
    published,
    redis_commands,
    to_itself,
)
from .spoken import returning, spoken, ways_of_pusher
from .streams import streams

#: Why a contender has no figures in a scenario, or None.
Excuse = Callable[[Contender], str | None]

TODAY = tuple(one for one in CONTENDERS if not (one.former or one.is_apart))
EVERYBODY = tuple(contender.name for contender in TODAY)
#: The bare servers only echo: they show what a connection costs, or one message.
SENDS_TO_GROUPS = tuple(contender.name for contender in TODAY if "fan" in contender.kinds)
THROUGH_REDIS = tuple(contender.name for contender in TODAY if contender.redis)
OURS_THROUGH_REDIS = ("ours-daphne-redis", "ours-uvicorn-redis")
AS_IT_WAS = (*OURS_THROUGH_REDIS, "before-daphne-redis", "before-uvicorn-redis")
OTHERS_IN_MEMORY = ("websockets", "node-ws", "bun")
SPEAKING = (*OURS_THROUGH_REDIS, "node-socketio-recovery")
SPEAKING_PUSHER = (*OURS_THROUGH_REDIS, "node-socketio")
SERVERS = ("ours-daphne", "ours-uvicorn", "bare-daphne", "bare-uvicorn")
PUBLISHING = tuple(contender.name for contender in CONTENDERS if contender.publisher)


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


SCENARIOS = (
    Scenario("self-1", "1 client in one group", to_itself, 3, excuse=needs_to_self),
    Scenario("fanout-200", "200 clients in one group", fan_out(200, 32, 30), 3),
    Scenario("fanout-before", "the same, as it was", fan_out(200, 32, 5), 3, AS_IT_WAS),
    Scenario(
        "recipients-200",
        "200 clients, each of whom gets something else",
        per_recipient(200, 32),
        3,
        ("ours-daphne", "ours-uvicorn", "websockets", "node-ws"),
    ),
    Scenario(
        "history-50",
        "50 rooms of 4, with history and without",
        with_history,
        3,
        OURS_THROUGH_REDIS,
    ),
    Scenario(
        "recover-1000",
        "1 000 clients catch up at once",
        recovery,
        2,
        OURS_THROUGH_REDIS,
    ),
    Scenario(
        "spoken-200",
        "200 clients in one group, plain and by the Centrifuge protocol",
        spoken(1, 200, 32),
        3,
        SPEAKING,
    ),
    Scenario(
        "spoken-groups",
        "500 groups of 3, plain and by the Centrifuge protocol",
        spoken(500, 3, 32),
        2,
        SPEAKING,
    ),
    Scenario(
        "spoken-history",
        "50 rooms of 4 with a history, plain and by the Centrifuge protocol",
        spoken(50, 4, 32, keeps=True),
        2,
        SPEAKING,
    ),
    Scenario(
        "spoken-recovery",
        "1 000 clients catch up at once, plain and by the Centrifuge protocol",
        returning,
        2,
        SPEAKING,
    ),
    Scenario(
        "pusher-200",
        "200 clients in one group, plain and by the Pusher protocol",
        spoken(1, 200, 32, ways=ways_of_pusher),
        3,
        SPEAKING_PUSHER,
    ),
    Scenario(
        "pusher-groups",
        "500 groups of 3, plain and by the Pusher protocol",
        spoken(500, 3, 32, ways=ways_of_pusher),
        2,
        SPEAKING_PUSHER,
    ),
    Scenario(
        "streams-200",
        "200 clients of the Centrifuge protocol, by WebSockets and by HTTP",
        streams,
        2,
        ("ours-daphne", "ours-uvicorn"),
    ),
    # Fewer at once: so many clients make a queue of every message.
    Scenario("fanout-3000", "3 000 clients in one group", fan_out(3000, 4, 30), 2),
    Scenario("groups-1000", "1 000 groups of 3", groups_of_three, 2, excuse=needs_groups),
    Scenario("users-5000", "5 000 groups of 1, from another process", published(), 2, PUBLISHING),
    Scenario(
        "users-5000-gc",
        "the same with Python's own garbage collection",
        published(BENCH_GC="python"),
        2,
        AS_IT_WAS,
    ),
    Scenario(
        "echo",
        "echo, ours also through ten filters",
        echo,
        3,
        (*SERVERS, *OTHERS_IN_MEMORY, "limit"),
    ),
    Scenario("connect", "800 connections", connect(800), 3, EVERYBODY),
    Scenario(
        "anonymous",
        "1 600 connections without a session",
        connect(1600, anonymous=True),
        3,
        (*SERVERS, *OTHERS_IN_MEMORY),
    ),
    Scenario("idle-10000", "10 000 idle connections", idle, 1, EVERYBODY),
    Scenario("drain-5000", "5 000 come back after a drain", drain, 1, OURS_THROUGH_REDIS),
    Scenario(
        "crowd-10000",
        "50 clients beside 10 000 idle ones and a flood",
        crowd,
        1,
        (*OURS_THROUGH_REDIS, "node-ws"),
    ),
    Scenario("redis-400", "2 processes, 400 clients", redis_commands(400), 1, THROUGH_REDIS),
    Scenario("redis-4000", "2 processes, 4 000 clients", redis_commands(4000), 1, THROUGH_REDIS),
    *(Scenario(curve.name, curve.title, curve.measure, 1, curve.names) for curve in CURVES),
)
