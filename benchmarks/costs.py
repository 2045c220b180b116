"""What a connection, a group, a message and a delivery cost, from the figures of the last runs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .results import Results

RESULTS = Path(__file__).resolve().parent / "results"
#: Bytes around a message: its envelope, and with the command or the push that carries it.
ENVELOPE, FRAMED = 125, 208
#: Of an envelope and its message, that ``redis_deliver_us`` is for.
RELAYED = 256
#: Of a message in the scenario ``groups-1000``.
DELIVERIES = 2
#: In so many processes is a group whose renewal is measured.
SHARED = 40


@dataclass(frozen=True)
class Members:
    """Of Redis, as ``members.py`` measures it: microseconds of CPU, bytes of memory."""

    subscribe_us: float
    unsubscribe_us: float
    #: Of a group with its first process, and of each further one.
    channel_bytes: float
    subscription_bytes: float
    present_join_us: float
    present_leave_us: float
    #: Of a process that has a group alone, and of each of ``SHARED`` that share one.
    present_renew_us: float
    present_renew_shared_us: float
    #: A member alone in its group, and each of many in one call.
    present_alone_bytes: float
    present_crowd_us: float
    present_crowd_bytes: float

    def renew_us(self, spread: float) -> float:
        """Where so many processes have members of a group."""
        more = (self.present_renew_shared_us - self.present_renew_us) / (SHARED - 1)
        return self.present_renew_us + more * (spread - 1)


@dataclass(frozen=True)
class Costs:
    """Microseconds of CPU, KiB of memory."""

    #: Of a process: to take a message of a client and hand it to Redis.
    publish_us: float
    #: Of a process, for each message of a group that it has members of.
    receive_us: float
    #: A frame to a socket.
    deliver_us: float
    connect_us: float
    #: That a connection leaves a group with presence, and another one enters it.
    present_us: float
    process_kib: float
    connection_kib: float
    group_kib: float
    #: Of Redis: a PUBLISH, each process that hears it, each KiB of that; and in a cluster.
    redis_publish_us: float
    redis_deliver_us: float
    redis_kib_us: float
    cluster_publish_us: float
    cluster_hear_us: float
    #: The same where Redis has nothing else to do.
    redis_alone_us: float
    #: How many times as much with a history.
    history_cpu: float
    history_redis_cpu: float
    #: Of Redis: what it has of groups and their members.
    members: Members

    def push_us(self, size: float, messages: int = 1) -> float:
        """Of Redis, for a batch that one process hears."""
        more = max(0.0, ENVELOPE + messages * size - RELAYED)
        return self.redis_deliver_us + self.redis_kib_us * more / 1024


def measured_by(name: str) -> dict[str, Any]:
    """What ``relay``, ``members`` or ``comeback`` of this package measured, and on what."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def median(results: Results, scenario: str, contender: str, metric: str) -> float:
    spread = results.spread(scenario, contender, metric)
    if spread is None:
        raise LookupError(f"the last run has no {metric} of {contender} in {scenario}")
    return spread.median


def costs(server: str, results: Results | None = None) -> Costs:
    """Of ``daphne`` or ``uvicorn`` through Redis; LookupError for what was not measured."""
    results = results or Results.load(RESULTS / "latest.json")
    redis = measured_by("relay")["figures"]
    back = measured_by("comeback")["figures"][server]

    def of(scenario: str, metric: str) -> float:
        return median(results, scenario, f"ours-{server}-redis", metric)

    # The dearest of the curve, with 10 000 sockets that are not in the processor's cache.
    deliver = of("curve-members", "cpu_us@10000")
    # A message of another process to a group with one member here.
    receive = of("users-5000-gc", "next_us") - deliver
    # Groups of three, two of whom get what the third sends, all in one process.
    both = DELIVERIES * (of("groups-1000", "cpu_us") - deliver)
    connection = of("curve-connections", "memory_kb@9000")
    return Costs(
        publish_us=both - receive,
        receive_us=receive,
        deliver_us=deliver,
        connect_us=of("connect", "connect_cpu_us"),
        present_us=back["presence"]["process_us"] - back["no presence"]["process_us"],
        process_kib=of("curve-processes", "memory_kb@1"),
        connection_kib=connection,
        group_kib=of("curve-groups", "memory_kb@10000") - connection,
        redis_publish_us=redis["publish_us"],
        redis_deliver_us=redis["deliver_us"],
        redis_kib_us=redis["deliver_us_per_kib"],
        cluster_publish_us=redis["cluster_publish_us"],
        cluster_hear_us=redis["cluster_hear_us"],
        redis_alone_us=redis["deliver_alone_us"],
        history_cpu=of("history-50", "kept_ratio"),
        history_redis_cpu=of("history-50", "redis_ratio"),
        members=Members(**measured_by("members")["figures"]),
    )
