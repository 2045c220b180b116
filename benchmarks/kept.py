"""What a history costs: publishing with one beside without, and a crowd that catches up."""

from statistics import median

from .bench import Bench, Figures
from .clients import Place, Stream
from .contenders import Contender

#: Rooms, the members of each, and the messages that are on their way in all of them.
ROOMS, MEMBERS, IN_FLIGHT = 50, 4, 32
#: Who comes back at once.
RETURNING = 1000
#: Figure without a history, figure with it, and their ratio.
RATIOS = (
    ("plain_us", "kept_us", "kept_ratio"),
    ("plain_redis_us", "kept_redis_us", "redis_ratio"),
)


def with_history(bench: Bench, contender: Contender) -> Figures:
    """
    Small rooms with a history, and as many without: CPU of the server and of Redis per
    message. They take turns on one server process. How many publications are in one batch is
    what the server makes of those that come together.
    """
    with bench.loaded(contender) as session:
        rooms: dict[str, list[Stream]] = {}
        for kind, name in (("self", "plain"), ("kept", "kept")):
            places = [
                session.group(kind, f"{name}{number}", MEMBERS)
                for number in range(bench.count(ROOMS, ROOMS))
            ]
            session.load.connect(place for room in places for place in room)
            rooms[name] = [room[0].stream for room in places]
            session.warm_up(rooms[name])
        turns = []
        for _ in range(bench.count(5, 2)):
            turn = {}
            for name, streams in rooms.items():
                figures = session.measure(streams, bench.seconds / 2, IN_FLIGHT)
                turn[f"{name}_us"] = figures["cpu_us"] * MEMBERS
                turn[f"{name}_redis_us"] = figures["valkey_us"] * MEMBERS
            turns.append(turn | {name: turn[kept] / turn[plain] for plain, kept, name in RATIOS})
    return {name: median(turn[name] for turn in turns) for name in turns[0]}


def recovery(bench: Bench, contender: Contender) -> Figures:
    """
    Connections that join a room all at once, each with a position before its only message:
    the calls of a script for each, and the CPU of the server.
    """
    clients = bench.count(RETURNING, 200)
    with bench.loaded(contender) as session:
        load, valkey = session.load, bench.valkey
        [sender] = session.group("kept", "room", 1)
        load.connect([sender])
        load.send(sender.stream)
        load.receive(1)
        target = session.target("back", "room")
        places = [
            Place(session.server.port, target, Stream(), True, True) for _ in range(clients + 1)
        ]
        load.connect(places)
        # The first one loads the script, and what the server needs for it.
        load.send(places[0].stream)
        load.receive(1)
        before, cpu = valkey.commands(), session.cpu_seconds()
        for place in places[1:]:
            load.send(place.stream)
        load.receive(clients)
        calls, cpu = valkey.commands(), session.cpu_seconds() - cpu
        scripts = sum(calls.get(name, 0) - before.get(name, 0) for name in ("eval", "evalsha"))
    return {"script_calls": scripts / clients, "recover_us": cpu / clients * 1e6}
