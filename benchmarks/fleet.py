"""
The traffic of the channel layer, message by message: who publishes, which Redis carries it,
which processes hear it.

Connections are placed at random, as a proxy does. A process has one batch of a group on its way
at a time, as the package does: what is published meanwhile leaves with the next. Redis is
counted, not run; what it needs for each command was measured (``relay.py``).
"""

import random
from binascii import crc32
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .costs import FRAMED
from .tables import number

if TYPE_CHECKING:
    from .sizing import Plan

#: Simulated seconds, at most so many messages, and the time of a PUBLISH until its answer.
SECONDS, MOST, ROUND_TRIP = 10.0, 10_000, 0.001
MIB = 1024.0**2


@dataclass
class Traffic:
    plan: "Plan"
    hosts: int
    #: Simulated seconds.
    length: float = 0.0
    messages: int = 0
    #: By host: commands, messages to processes, and their bytes.
    commands: Counter[int] = field(default_factory=Counter)
    pushes: Counter[int] = field(default_factory=Counter)
    bytes_out: Counter[int] = field(default_factory=Counter)
    #: By host: microseconds of CPU.
    cpu_us: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    #: By process: batches that it hears.
    heard: Counter[int] = field(default_factory=Counter)

    def busy(self, host: int) -> float:
        """Share of a core."""
        return self.cpu_us[host] / self.length / 1e6

    def alone(self, host: int) -> float:
        """The same with a write to the socket for each: what a Redis shows that is not full."""
        costs = self.plan.costs
        pushed = self.pushes[host] * costs.redis_alone_us
        return (self.commands[host] * costs.redis_publish_us + pushed) / self.length / 1e6


def host_of(group: int, hosts: int) -> int:
    """As channels_redis chooses it, by the name of the group."""
    return int((crc32(b"group %d" % group) & 0xFFF) / (4096 / hosts))


def members_of(group: int, members: int, processes: int) -> set[int]:
    """The processes with members: the same ones for each message."""
    if members > 20 * processes:
        return set(range(processes))
    return set(random.Random(group).choices(range(processes), k=members))


def simulate(plan: "Plan", hosts: int, seed: int = 1) -> Traffic:
    chance = random.Random(seed)
    site, processes = plan.site, plan.processes
    traffic = Traffic(plan, hosts)
    groups, members = max(1, round(site.all_groups)), round(site.members)
    where: dict[int, set[int]] = {}
    #: Process and group -> when its batch is answered, and how many wait.
    sent: dict[tuple[int, int], float] = {}
    waiting: Counter[tuple[int, int]] = Counter()
    while traffic.length < SECONDS and traffic.messages < MOST:
        traffic.length += chance.expovariate(site.rate)
        traffic.messages += 1
        group, publisher = chance.randrange(groups), chance.randrange(processes)
        if traffic.length < sent.get((publisher, group), 0.0):
            waiting[publisher, group] += 1
            continue
        count = 1 + waiting.pop((publisher, group), 0)
        sent[publisher, group] = traffic.length + ROUND_TRIP
        if group not in where:
            where[group] = members_of(group, members, processes)
        send(traffic, group, where[group], count)
    return traffic


def send(traffic: Traffic, group: int, hearers: set[int], count: int) -> None:
    """A batch of ``count`` messages."""
    host = host_of(group, traffic.hosts)
    size = round(traffic.plan.site.size)
    traffic.commands[host] += 1
    traffic.pushes[host] += len(hearers)
    traffic.bytes_out[host] += len(hearers) * (FRAMED + count * size)
    costs = traffic.plan.costs
    traffic.cpu_us[host] += costs.redis_publish_us + len(hearers) * costs.push_us(size, count)
    traffic.heard.update(hearers)


def lines(traffic: Traffic) -> Iterator[tuple[str, str]]:
    hosts, seconds = traffic.hosts, traffic.length
    busiest = max(range(hosts), key=traffic.busy)
    heard = [traffic.heard[one] for one in range(traffic.plan.processes)]
    yield f"simulated with {hosts} Redis: messages", number(traffic.messages)
    yield "simulated: PUBLISH / s", number(traffic.commands.total() / seconds)
    yield "simulated: messages to processes / s", number(traffic.pushes.total() / seconds)
    yield "simulated: MiB / s out", number(traffic.bytes_out.total() / seconds / MIB)
    yield "simulated: the busiest Redis, % of a core", number(traffic.busy(busiest) * 100)
    yield "... which it shows where it is not full", number(min(1.0, traffic.alone(busiest)) * 100)
    yield (
        "simulated: a process hears / s, mean and most",
        (f"{number(sum(heard) / len(heard) / seconds)}, {number(max(heard) / seconds)}"),
    )
