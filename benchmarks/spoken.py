"""
What a protocol costs: the same messages through the Centrifuge protocol, in each format, or the
Pusher protocol, and through a plain route with the same group rules, on one server process;
beside them socket.io.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from statistics import median

from .bench import Bench, Figures, Session
from .centrifuge import formats, wire_of
from .clients import STALL, Client, LoadError, Place, Stream
from .contenders import PAYLOAD, Contender
from .messages import Measure
from .pusher import pusher_wire
from .wire import ReturningWire, take_frames

#: What ours is compared with, and what others have alone.
PLAIN, PUSHER = "plain", "pusher"
#: Names of groups that have a history on the route of the protocol.
KEPT = "kept:"
#: Who comes back at once.
RETURNING = 1000


def ways_of(contender: Contender) -> list[str]:
    """In how many ways its clients speak."""
    return [PLAIN, *formats()] if contender.ours else [PLAIN]


def ways_of_pusher(contender: Contender) -> list[str]:
    """The same, where some speak the Pusher protocol."""
    return [PLAIN, PUSHER] if contender.ours else [PLAIN]


def with_ratios(turn: Figures) -> Figures:
    """Each way's figure over that of the plain one."""
    ratios = {
        f"{name.removesuffix('_us')}_ratio": cost / turn["plain_us"]
        for name, cost in turn.items()
        if name != "plain_us"
    }
    return turn | ratios


def medians(turns: list[Figures]) -> Figures:
    return {name: median(turn[name] for turn in turns) for name in turns[0]}


def members_of(session: Session, way: str, name: str, members: int, keeps: bool) -> list[Place]:
    """The members of a group, who all receive, and the first of whom sends."""
    if way == PLAIN:
        kind = ("kept" if keeps else "ruled") if session.contender.ours else "self"
        return session.group(kind, name, members)
    stream, port = Stream(), session.server.port
    if way == PUSHER:
        # Nobody gets back what they send: one more, so that as many receive.
        said = pusher_wire(name)
        target = said.target("", "")
        sender = Place(port, target, stream, True, False, said)
        return [sender, *[Place(port, target, stream, False, True, said)] * members]
    wire = wire_of(way, name, keeps=keeps)
    target = wire.target("", "")
    return [Place(port, target, stream, number == 0, True, wire) for number in range(members)]


def spoken(
    groups: int,
    members: int,
    in_flight: int,
    keeps: bool = False,
    ways: Callable[[Contender], list[str]] = ways_of,
) -> Measure:
    """
    So many groups of so many, one of whom sends to all, itself too: CPU per delivery. The
    ways take turns.
    """

    def measure(bench: Bench, contender: Contender) -> Figures:
        count = bench.count(members, members)
        with bench.loaded(contender) as session:
            streams = {}
            for way in ways(contender):
                names = [
                    f"{KEPT if keeps else ''}{way}{n:04}"
                    for n in range(bench.count(groups, groups))
                ]
                rooms = [members_of(session, way, name, count, keeps) for name in names]
                session.load.connect(place for room in rooms for place in room)
                streams[way] = [room[0].stream for room in rooms]
                session.warm_up(streams[way])
            turns = [
                with_ratios(
                    {
                        f"{way}_us": session.measure(streams[way], bench.seconds / 2, in_flight)[
                            "cpu_us"
                        ]
                        for way in streams
                    }
                )
                for _ in range(bench.count(3, 2))
            ]
        return medians(turns)

    return measure


def returning(bench: Bench, contender: Contender) -> Figures:
    """Clients that come back at once, to the only message that they have missed: CPU of each."""
    clients = bench.count(RETURNING, 200)
    with bench.loaded(contender) as session:
        if not contender.ours:
            return {"plain_us": cost_of_restored(session, clients)}
        name = f"{KEPT}room"
        [sender] = session.group("kept", name, 1)
        session.load.connect([sender])
        session.load.send(sender.stream)
        session.load.receive(1)

        def places(way: str) -> Iterator[Place]:
            wire = None if way == PLAIN else wire_of(way, name, returns=True)
            for _ in range(clients):
                target = session.target("back", name) if wire is None else wire.target("", "")
                yield Place(session.server.port, target, Stream(), True, True, wire)

        ways = ways_of(contender)
        for way in ways:
            # The first ones load the script, and what the server needs for it.
            cost_of(session, [*places(way)][:50])
        turns = [
            with_ratios({f"{way}_us": cost_of(session, [*places(way)]) for way in ways})
            for _ in range(bench.count(2, 1))
        ]
    return medians(turns)


def cost_of(session: Session, places: list[Place]) -> float:
    """CPU per client of what they ask for all at once; the handshakes are not in it."""
    load = session.load
    load.connect(places)
    cpu = session.cpu_seconds()
    for place in places:
        load.send(place.stream)
    load.receive(len(places))
    cpu = session.cpu_seconds() - cpu
    return cpu / len(places) * 1e6


# socket.io: who comes back says who it was, and the place of the last message that it had.


def cost_of_restored(session: Session, clients: int) -> float:
    """CPU per client of those that were cut, and come back all at once."""
    cost = 0.0
    # Twice: compilers are not done any sooner.
    for count in (max(1, clients // 2), clients):
        [sender] = session.group("self", f"room{count}", 1)
        session.load.connect([sender])
        known = cut(session, sender, count)
        session.load.send(sender.stream)
        session.load.receive(1)
        places = [
            Place(session.server.port, sender.target, Stream(), True, True, wire) for wire in known
        ]
        cost = cost_of(session, places)
    return cost


def cut(session: Session, sender: Place, count: int) -> list[ReturningWire]:
    """So many clients get a message and are gone; how each comes back."""
    valkey, load = session.bench.valkey, session.load
    before = valkey.commands().get("set", 0)
    present = [enter(session, sender.target, number) for number in range(count)]
    load.send(sender.stream)
    load.receive(1)
    known = []
    for client, name in present:
        while not (frames := take_frames(client.tail)):
            client.tail += client.socket.recv(65_536)
        offset = json.loads(frames[0][1].removeprefix(b"42"))[2]
        known.append(ReturningWire(PAYLOAD, name, offset))
        client.socket.close()
    limit = time.monotonic() + STALL
    while valkey.commands().get("set", 0) - before < count:
        if time.monotonic() > limit:
            raise LoadError("the server has not kept the sessions of all who are gone")
        time.sleep(0.02)
    return known


def enter(session: Session, target: str, number: int) -> tuple[Client, str]:
    """One client, and the name of its session."""
    wire, cookies = session.contender.wire, session.bench.cookies
    client = Client(Place(session.server.port, target, Stream(), False, True), wire)
    cookie = cookies[number % len(cookies)]
    client.socket.sendall(wire.request(target, session.server.port, cookie))
    said = bytearray()
    is_in = False
    while not is_in:
        data = client.socket.recv(65_536)
        said += data
        is_in = client.greet(data)
    found = re.search(rb'"pid":"([^"]+)"', said)
    assert found is not None, "the server recovers no sessions"
    return client, found[1].decode()
