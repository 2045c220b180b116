"""Clients that never read among clients that do, in one group."""

import os

import pytest

from benchmarks.crowd import Crowd

from ..waiting import Watch
from .conftest import MIB, mib, ms, p99

pytestmark = pytest.mark.timeout(900)
SIZE = 16_384
#: So few bytes fit into a client's socket that the server keeps the rest.
TINY = 4096
MAX_OUTBOX = MIB


def descriptors(site):
    return len(os.listdir(f"/proc/{site.pid}/fd"))


def test_clients_that_never_read_are_closed_and_no_other_is_hurt(serve, kind, cookie, sizes, show):
    count, interval = (100, 0.15) if sizes.full else (10, 0.01)
    site = serve()
    with Crowd(site.port, cookie) as crowd:
        sender, *readers = crowd.join("room", sizes.readers + 1)
        crowd.talk(sender, readers, 5, SIZE)
        alone = crowd.talk(sender, readers, count, SIZE, interval=interval)
        empty, open_files = site.memory, descriptors(site)
        silent = crowd.join("room", sizes.non_readers, buffer=TINY, reads=False)
        joined = site.memory
        site.forget_peak()
        beside, messages, watch = [], 0, Watch(300)
        while site.ended(4101) < sizes.non_readers:
            beside += crowd.talk(sender, readers, 10, SIZE, interval=interval)
            messages += 10
            # A close frame behind a full buffer has five seconds under uvicorn.
            assert not watch.is_over, f"only {site.ended(4101)} were closed with 4101"
        took = watch.seconds
        # And those that did not take their close frame are dropped.
        gone = site.settles(lambda: descriptors(site) <= open_files)
        fates = crowd.fates(silent)
        peak, left = site.peak, site.memory
        after = crowd.talk(sender, readers, count, SIZE, interval=interval)
        show(
            f"{kind}, {sizes.readers} that read and {sizes.non_readers} that do not,"
            f" {messages} messages of {SIZE // 1024} KiB in {took:.1f} s:"
            f"\n    {site.ended(4101)} closed with 4101 (their sockets: {dict(fates)})"
            f"\n    memory: {mib(empty)} without them, {mib(joined)} with them,"
            f" {mib(peak)} at most ({(peak - joined) / sizes.non_readers / 1024:.0f} KiB each),"
            f" {mib(left)} when they had gone"
            f"\n    those that read: alone {ms(alone)}; beside the others {ms(beside)};"
            f" after them {ms(after)}"
        )
        assert gone and site.ended(4101) == sizes.non_readers
        assert sum(fates.values()) == sizes.non_readers and "still open" not in fates
        bound = sizes.non_readers * MAX_OUTBOX
        assert peak - joined < bound * 1.25 + 16 * MIB
        # Of few, the allocator may keep as much as it had to give.
        assert left - empty < bound * (0.25 if sizes.full else 1.25) + 16 * MIB
        assert "Traceback" not in site.output
        if sizes.full:
            assert p99(beside) < 2 * p99(alone)
