"""A group with a history beside the others: what is published to it, and who has what of it."""

import asyncio
import itertools
from contextlib import suppress

from ...waiting import until
from ..history_site import AWAY, Client, Reader

NAMES = itertools.count()
#: So many are published together, and the pause after them, seconds.
TOGETHER, PAUSE = 3, 0.1


class Route:
    """A server whose clients connect to the route of groups with a history."""

    def __init__(self, server):
        self._server = server

    def ws(self, path):
        return self._server.ws("/kept/")


class Kept:
    """
    On each server one who publishes, one who reads all the time, and one who leaves at once and
    comes back at the end, to another server.
    """

    def __init__(self, servers):
        self.group = f"room:{next(NAMES)}"
        self._routes = {server: Route(server) for server in servers}
        self._numbers = itertools.count()
        self._is_talking = False
        self._talks = []
        #: Position -> text, of what was taken by Redis; and how many were not, or may not be.
        self.said = {}
        self.failed = 0

    async def begin(self):
        self._publishers, self._readers, self._leavers = {}, {}, []
        for server, route in self._routes.items():
            self._publishers[server] = await Client.open(route)
            self._readers[server] = await self._come(route)
            self._leavers.append(await self._come(route))
            await self._leavers[-1].go()

    async def _come(self, route):
        reader = Reader(self.group)
        await reader.come(lambda: route)
        return reader

    def go_on(self):
        self._is_talking = True
        self._talks = [asyncio.ensure_future(self._talk(one)) for one in self._publishers.values()]

    async def hush(self):
        """Nobody publishes, and everything is answered."""
        self._is_talking = False
        await asyncio.gather(*self._talks)

    async def _talk(self, publisher):
        with suppress(*AWAY):
            while self._is_talking:
                await self._publish(publisher, TOGETHER)
                await asyncio.sleep(PAUSE)

    async def _publish(self, publisher, count):
        """The position of the last one, or None."""
        texts = [str(next(self._numbers)) for _ in range(count)]
        positions, _ = await publisher.ask("attempt", self.group, texts)
        for position, text in zip(positions, texts, strict=True):
            if position is None:
                self.failed += 1
            else:
                self.said[tuple(position[:2])] = text
        return positions[-1] and tuple(positions[-1][:2])

    # The end

    async def finish(self, gone):
        """Publish a last one, wait until everybody has it, and have those who left come back."""
        alive = [server for server in self._routes if server not in gone]
        last = None
        while last is None:
            last = await self._publish(self._publishers[alive[0]], 1)
        self._left = [self._readers[server] for server in alive]
        await until(lambda: all(reader.at == last for reader in self._left))
        for number, leaver in enumerate(self._leavers, 1):
            await leaver.come(lambda n=number: self._routes[alive[n % len(alive)]])
        # A gap may be told later than what comes after it.
        with suppress(TimeoutError):
            await until(lambda: not self.flaws())

    @property
    def _all(self):
        return [*self._left, *self._leavers]

    @property
    def told(self):
        """To how many it was told that not all is there."""
        return sum(is_told(reader) for reader in self._all)

    @property
    def lost(self):
        """How many of what Redis had taken somebody has not got."""
        return len({place for reader in self._all for place in self.said.keys() - reader.got})

    def flaws(self):
        """What no fault may cause."""
        found = []
        for reader in self._all:
            wrong = [
                place for place, text in self.said.items() if reader.got.get(place, text) != text
            ]
            if wrong:
                found.append(f"other texts at {wrong}")
            if is_told(reader):
                continue
            if missing := sorted(self.said.keys() - reader.got):
                found.append(f"missing, untold: {missing}")
            if reader.jumps or len(set(reader.texts)) < len(reader.texts):
                found.append(f"jumps {reader.jumps}, repeated or not, untold")
        return found

    async def close(self):
        readers = [*self._readers.values(), *self._leavers]
        await asyncio.gather(
            *(reader.go() for reader in readers),
            *(publisher.close() for publisher in self._publishers.values()),
        )

    def __str__(self):
        return (
            f"history: published {len(self.said)}, failed {self.failed}, lost {self.lost},"
            f" told {self.told} of {len(self._all)}"
        )


def is_told(reader):
    return bool(reader.gaps or reader.refusals)
