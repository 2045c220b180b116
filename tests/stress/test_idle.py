"""Thousands of idle clients and one that floods: the others are not slowed down."""

import pytest

from benchmarks.crowd import Crowd

from .conftest import MIB, mib, ms, p99

pytestmark = pytest.mark.timeout(600)
HEARERS, SIZE = 50, 128
#: How often each latency is measured: in one of them the machine may do something else.
ROUNDS = 3


def test_a_flood_beside_idle_connections_hurts_nobody(serve, apart, kind, cookie, sizes, show):
    rounds, count, interval = (ROUNDS, 300, 0.02) if sizes.full else (1, 20, 0.01)
    site = serve()
    apart(site)
    with Crowd(site.port, cookie) as crowd:
        sender, *hearers = crowd.join("talk", HEARERS + 1)
        crowd.talk(sender, hearers, 20, SIZE)

        def measure():
            """Latencies of the middle one of some rounds, by their p99."""
            talks = []
            for _ in range(rounds):
                talks.append(crowd.talk(sender, hearers, count, SIZE, interval=interval))
            return sorted(talks, key=p99)[rounds // 2]

        alone, empty = measure(), site.memory
        idle = crowd.join("idle", sizes.idle)
        beside_idle, idle_memory = measure(), site.memory
        [flooding] = crowd.join("flood", 1)
        site.forget_peak()
        crowd.start_flood(flooding, b"x" * SIZE)
        beside_flood = measure()
        flooded = site.peak
        flood = crowd.end_flood()
        after = measure()
        crowd.leave(idle)
        assert site.settles(lambda: sum(map(site.ended, (1005, 1006))) == sizes.idle + 1, 60)
        left = site.memory
        show(
            f"{kind}, {sizes.idle} idle connections and a flood of {flood} messages:"
            f"\n    memory: {mib(empty)} before, {mib(idle_memory)} with the idle ones"
            f" ({(idle_memory - empty) / sizes.idle / 1024:.1f} KiB each),"
            f" {mib(flooded)} at most during the flood, {mib(left)} when all had gone"
            f"\n    {HEARERS} hearers: alone {ms(alone)}; beside idle ones {ms(beside_idle)};"
            f" beside the flood, too, {ms(beside_flood)}; after it {ms(after)}"
        )
        assert idle_memory - empty < sizes.idle * 49_152 + 8 * MIB
        assert flooded - idle_memory < 32 * MIB
        assert flood > 100
        assert "Traceback" not in site.output
        if sizes.full:
            assert p99(beside_idle) < 2 * p99(alone)
            assert p99(beside_flood) < 2 * p99(alone)
