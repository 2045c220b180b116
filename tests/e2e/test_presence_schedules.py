"""Who is in a group, while processes and Redis come and go at random."""

import asyncio
import random
import signal

import pytest
import pytest_asyncio

from filtered_websocket.publishing.direct import close_senders

from ..presence.test_reading import use_layer
from ..waiting import until
from .presence_pages import LEASE, ROOM, Page, Site, agree

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEEDS = range(4)


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
            await asyncio.to_thread(self.site.start)
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
            await asyncio.to_thread(self.site.start)

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

    async def finish(self):
        while self.stopped:
            await self.go_on()
        await self.join()
        pages = [page for page in self.pages if page.room is not None]
        await until(lambda: is_quiet(pages))
        await agree(pages)

    async def end(self):
        for page in self.pages:
            await page.close()
        await asyncio.to_thread(self.site.stop)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def schedules(database):
    """One for each seed, on sites of their own. All play at once: most of it is waiting."""
    begun = [Schedule(Site(database), seed) for seed in SEEDS]
    playing = [asyncio.create_task(schedule.play(40)) for schedule in begun]
    yield list(zip(begun, playing, strict=True))
    for task in playing:
        task.cancel()
    await asyncio.gather(*playing, return_exceptions=True)
    await asyncio.gather(*(schedule.end() for schedule in begun))


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_a_random_schedule_what_was_told_is_what_is(schedules, seed, settings):
    schedule, playing = schedules[seed]
    await playing
    use_layer(settings, "pubsub", schedule.site.valkey.url)
    try:
        await schedule.finish()
    finally:
        close_senders()


def is_quiet(pages):
    """Whether all pages of a room show those who are there."""
    truth = {page.room: set() for page in pages}
    for page in pages:
        truth[page.room].add(page.id)
    return all(set(page.present) == truth[page.room] for page in pages)
