"""
``python -m benchmarks.sizing``: how many processes and Redis hosts a site needs, on paper.

The costs are those of the last measurements (``costs.py``). A cost per delivery is flat, and
so is one per message, whatever the number of connections, groups and processes: the curves of
docs/performance.md show it. ``--simulate`` counts the traffic of the layer message by message
instead (``fleet.py``).
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from filtered_websocket.conf import DEFAULTS

from . import fleet
from .costs import FRAMED, Costs, costs
from .tables import number

MIB = 1024.0
#: Seconds between two renewals of a process in a group with presence: a third of the lease.
RENEWAL = DEFAULTS["PRESENCE_LEASE"] / 3


@dataclass(frozen=True)
class Site:
    connections: float
    #: Published messages per second, of all clients together.
    rate: float
    #: Of a group, and groups of a connection.
    members: float
    groups: float
    #: Of a message.
    size: float
    #: How busy a core may be, and how many connections a process may have.
    busy: float
    most: float
    history: bool = False
    presence: bool = False

    @property
    def entries(self) -> float:
        """Each connection in each of its groups."""
        return self.connections * self.groups

    @property
    def all_groups(self) -> float:
        return self.entries / self.members

    def spread(self, processes: float) -> float:
        """In how many processes a group has members, on average: any may be in any."""
        return processes * (1 - (1 - 1 / processes) ** self.members)


@dataclass(frozen=True)
class Plan:
    """What each of so many processes has to do, and Redis."""

    site: Site
    costs: Costs
    processes: int

    @property
    def spread(self) -> float:
        return self.site.spread(self.processes)

    @property
    def process_busy(self) -> float:
        """Share of a core."""
        one = self.costs
        kept = one.history_cpu if self.site.history else 1.0
        message = (one.publish_us + self.spread * one.receive_us) * kept
        deliveries = self.site.members * one.deliver_us
        return self.site.rate * (message + deliveries) / self.processes / 1e6

    @property
    def process_mib(self) -> float:
        here = self.site.all_groups * self.spread / self.processes
        connections = self.site.connections / self.processes * self.costs.connection_kib
        return (self.costs.process_kib + connections + here * self.costs.group_kib) / MIB

    @property
    def subscriptions(self) -> float:
        return self.site.all_groups * self.spread

    @property
    def out_mib(self) -> float:
        """From Redis to all processes, each second."""
        return self.site.rate * self.spread * (self.site.size + FRAMED) / MIB**2

    @property
    def _pushes_us(self) -> float:
        """Of Redis, for all processes that hear a message."""
        return self.spread * self.costs.push_us(self.site.size)

    @property
    def redis_busy(self) -> float:
        """Share of a core, where one Redis has all of it."""
        kept = self.costs.history_redis_cpu if self.site.history else 1.0
        message = self.costs.redis_publish_us * kept + self._pushes_us
        return self.site.rate * message / 1e6 + self.presence_busy

    @property
    def presence_busy(self) -> float:
        """Share of a core of Redis: every process renews each of its groups."""
        if not self.site.presence:
            return 0.0
        return self.subscriptions * self.costs.members.renew_us(self.spread) / RENEWAL / 1e6

    @property
    def redis_mib(self) -> float:
        """What Redis has of subscriptions, and of who is there."""
        one, site = self.costs.members, self.site
        more = self.subscriptions - site.all_groups
        used = site.all_groups * one.channel_bytes + more * one.subscription_bytes
        if site.presence:
            keys = one.present_alone_bytes - one.present_crowd_bytes
            used += site.all_groups * keys + site.entries * one.present_crowd_bytes
        return used / MIB**2

    @property
    def hosts(self) -> int:
        return max(1, math.ceil(self.redis_busy / self.site.busy))

    def node_busy(self, nodes: int) -> float:
        """Share of a core, of each node of a cluster, which hears every message."""
        one = self.costs
        own = one.cluster_publish_us + (nodes - 1) * one.cluster_hear_us
        busy = self.site.rate * (own + self._pushes_us) / 1e6
        return (busy + self.presence_busy) / nodes

    @property
    def nodes(self) -> int | None:
        """Of a cluster; None where no number is enough."""
        enough = (n for n in range(3, 1001) if self.node_busy(n) <= self.site.busy)
        return next(enough, None)

    @property
    def back_s(self) -> float:
        """Until the others have taken the clients of a process that ended, all cores busy."""
        here = self.site.connections / self.processes
        return here * self._back_us / max(1.0, self.processes - 1) / 1e6

    @property
    def all_back_s(self) -> float:
        """The same after all connections were lost at once, as by the proxy."""
        return self.site.connections * self._back_us / self.processes / 1e6

    @property
    def _back_us(self) -> float:
        """Of a process, for a client that comes back."""
        present = self.site.groups * self.costs.present_us if self.site.presence else 0.0
        return self.costs.connect_us + present

    @property
    def redis_back_s(self) -> float:
        """How long one Redis is busy then, with groups that are left and joined."""
        one = self.costs.members
        work = self.subscriptions * (one.subscribe_us + one.unsubscribe_us)
        if self.site.presence:
            work += self.site.entries * (one.present_join_us + one.present_leave_us)
        return work / 1e6


def plan(site: Site, one: Costs, processes: int = 0) -> Plan:
    """With the fewest processes that are enough, unless told how many."""
    if not processes:
        processes = max(1, math.ceil(site.connections / site.most))
        while Plan(site, one, processes).process_busy > site.busy:
            processes += max(1, processes // 100)
    return Plan(site, one, processes)


def lines(found: Plan) -> Iterator[tuple[str, str]]:
    """What is told, in words and figures."""
    site = found.site
    yield "processes", str(found.processes)
    yield "connections of each", number(site.connections / found.processes)
    yield "a process: busy, % of a core", number(found.process_busy * 100)
    yield "a process: memory, MiB", number(found.process_mib)
    yield "all processes: memory, GiB", number(found.process_mib * found.processes / MIB)
    yield "a group is in so many processes", number(found.spread)
    yield "Redis: PUBLISH / s, at most", number(site.rate)
    yield "Redis: messages to processes / s", number(site.rate * found.spread)
    yield "Redis: MiB / s in, out", f"{number(_mib_in(site))}, {number(found.out_mib)}"
    yield "Redis: subscriptions", number(found.subscriptions)
    yield "Redis: memory of them, MiB", number(found.redis_mib)
    yield "one Redis: busy, % of a core", number(found.redis_busy * 100)
    yield "Redis hosts", str(found.hosts)
    yield "or nodes of a cluster", str(found.nodes or "no number is enough")
    yield "one process ends: the others are busy for, s", number(found.back_s)
    yield "all reconnect at once: all are busy for, s", number(found.all_back_s)
    yield "all reconnect at once: one Redis is busy for, s", number(found.redis_back_s)


def presence_lines(found: Plan) -> Iterator[tuple[str, str]]:
    """What presence in all groups adds, where the plan has it."""
    yield "with presence, Redis: memory, MiB", number(found.redis_mib)
    yield "with presence: renewals / s", number(found.subscriptions / RENEWAL)
    yield "with presence, one Redis: renewals, % of a core", number(found.presence_busy * 100)
    yield "with presence: Redis hosts", str(found.hosts)
    yield "with presence, all reconnect: all are busy for, s", number(found.all_back_s)
    yield "with presence, all reconnect: Redis is busy for, s, at most", number(found.redis_back_s)


def _mib_in(site: Site) -> float:
    return site.rate * (site.size + FRAMED) / MIB**2


#: Uses of a site, each with a million connections.
PROFILES = {
    "notifications": {"members": 1.0, "rate": 1e6 / 60, "size": 256.0},
    "chat": {"members": 50.0, "rate": 1e6 / 60, "size": 256.0},
    "dashboards": {"members": 1000.0, "rate": 1000.0, "size": 1024.0},
    "everybody": {"members": 1e6, "rate": 1.0, "size": 1024.0},
}


def amount(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return value


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sizing", description="How many processes and Redis hosts."
    )
    parser.add_argument("--connections", type=amount, default=1e6, help="at once (1e6)")
    parser.add_argument("--profile", choices=[*PROFILES], help="what else is said by default")
    parser.add_argument("--rate", type=amount, help="published messages per second, in all")
    parser.add_argument("--members", type=amount, help="of a group, on average")
    parser.add_argument("--groups", type=amount, default=1.0, help="of a connection (1)")
    parser.add_argument("--size", type=amount, help="bytes of a message")
    parser.add_argument("--history", action="store_true", help="each group keeps one")
    parser.add_argument("--presence", action="store_true", help="each group tells who is there")
    parser.add_argument("--processes", type=int, default=0, help="(as few as are enough)")
    parser.add_argument("--server", choices=["daphne", "uvicorn"], default="uvicorn")
    parser.add_argument("--busy", type=amount, default=0.6, help="share of a core in use (0.6)")
    parser.add_argument("--most", type=amount, default=10_000, help="of a process (10 000)")
    parser.add_argument("--simulate", action="store_true", help="count the layer's traffic")
    parser.add_argument("--hosts", type=int, default=0, help="Redis hosts of the simulation")
    options = parser.parse_args(arguments)
    defaults = PROFILES[options.profile or "chat"]
    for name, value in defaults.items():
        if getattr(options, name) is None:
            share = options.connections / 1e6 if name == "rate" else 1.0
            setattr(options, name, value * share)
    options.members = min(options.members, options.connections * options.groups)
    return options


def site_of(options: argparse.Namespace) -> Site:
    return Site(**{field.name: getattr(options, field.name) for field in fields(Site)})


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    found = plan(site_of(options), costs(options.server), options.processes)
    told = [*lines(found), *(presence_lines(found) if options.presence else ())]
    if options.simulate:
        hosts = options.hosts or found.hosts
        told += fleet.lines(fleet.simulate(found, hosts))
    width = max(len(words) for words, _ in told)
    for words, figure in told:
        print(f"{words:{width}}  {figure}")


if __name__ == "__main__":
    main()
