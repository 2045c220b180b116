"""Who is in a group, while processes and Redis come and go at random."""

import asyncio
import random
import signal

import pytest

from ..waiting import until
from .presence_pages import LEASE, ROOM, Page, agree, run_site


@pytest.fixture
def site(database, settings):
    with run_site(database, settings) as site:
        yield site


class Schedule:
    """What happens to a site, at random."""

    ACTIONS = ["join"] * 5 + ["leave"] * 4 + ["close"] * 2
    FAULTS = ["kill", "stop", "go_on", "restart_redis"]

    def __init__(self, site, seed):
        self.site = site
        self.rng = random.Random(seed)
        self.pages = []
        self.stopped = []

    @property
    def running(self):
        return [one for one in self.site.servers if one not in self.stopped]

    async def play(self, steps):
        for _ in range(3):
            self.site.start()
        for _ in range(steps):
            await getattr(self, self.rng.choice(self.ACTIONS * 2 + self.FAULTS))()
            # Now and then long enough for a lease to end, or for the layer to come back.
            await asyncio.sleep(self.rng.choice([0, 0, 0, 0.01, 0.3, LEASE]))

    def pick(self, condition):
        some = [one for one in self.pages if one.server in self.running and condition(one)]
        return self.rng.choice(some) if some else None

    async def join(self):
        page = self.pick(lambda page: page.room is None)
        if page is None or len(self.pages) < 8:
            user = self.rng.choice([1, 2, 3, None])
            page = await Page.open(self.rng.choice(self.running), user)
            self.pages.append(page)
        await page.join(self.rng.choice([ROOM, "room:2"]))

    async def leave(self):
        if page := self.pick(lambda page: page.room is not None):
            await page.leave()

    async def close(self):
        if page := self.pick(lambda page: True):
            self.pages.remove(page)
            await page.close()

    async def kill(self):
        if len(self.site.servers) > 1 and self.running[1:]:
            server = self.rng.choice(self.running)
            server.signal(signal.SIGKILL)
            await asyncio.to_thread(server.wait)
            await self.remove(server)
            self.site.start()

    async def remove(self, server):
        self.site.servers.remove(server)
        for page in [page for page in self.pages if page.server is server]:
            self.pages.remove(page)
            await page.close()

    async def stop(self):
        if len(self.running) > 1:
            server = self.rng.choice(self.running)
            server.signal(signal.SIGSTOP)
            self.stopped.append(server)

    async def go_on(self):
        if self.stopped:
            self.stopped.pop().signal(signal.SIGCONT)

    async def restart_redis(self):
        self.site.valkey = await asyncio.to_thread(self.site.valkey.restart)


@pytest.mark.parametrize("seed", range(4))
async def test_after_a_random_schedule_what_was_told_is_what_is(site, seed):
    schedule = Schedule(site, seed)
    try:
        await schedule.play(40)
        while schedule.stopped:
            await schedule.go_on()
        await schedule.join()
        pages = [page for page in schedule.pages if page.room is not None]
        await until(lambda: is_quiet(pages))
        await agree(pages)
    finally:
        for page in schedule.pages:
            await page.close()


def is_quiet(pages):
    """Whether all pages of a room show those who are there."""
    truth = {page.room: set() for page in pages}
    for page in pages:
        truth[page.room].add(page.id)
    return all(set(page.present) == truth[page.room] for page in pages)
