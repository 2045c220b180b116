"""
How costs grow: each curve grows one thing in one server, and measures at every size.

A figure at a size has the name ``metric@size``. One message is on its way at a time, so
that no size has messages that share a write where another has none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from .arrivals import BEFOREHAND
from .bench import Bench, Figures, Session
from .clients import Stream
from .contenders import Contender
from .messages import commands_of
from .wire import Wire

IN_MEMORY = ("ours-daphne", "ours-uvicorn", "node-ws")
IN_REDIS = ("ours-daphne-redis", "ours-uvicorn-redis")
#: What the sockets of the system cost: where those of many rise, so do all.
LIMIT = "limit"
#: Who gets messages where something else grows.
MEMBERS = 100
PER_PROCESS = 200
#: Of fewer, memory says more of the allocator than of them.
ENOUGH = 100
#: So often CPU is measured at each size: something else may disturb one of them.
TURNS = 3

#: Has a session grow from a size to the next; the streams whose messages are measured.
Grow = Callable[[Session, int, int], list[Stream]]


@dataclass(frozen=True)
class Curve:
    name: str
    title: str
    #: What grows, on the axis.
    unit: str
    sizes: tuple[int, ...]
    #: Starts afresh for each contender.
    start: Callable[[], Grow]
    names: tuple[str, ...] = (*IN_MEMORY, *IN_REDIS)
    #: The exponent that a cost may have as a power of the size: 0 is flat, 1 proportional.
    exponent: float = 0.0

    @property
    def memory(self) -> str:
        """What the metric ``memory_kb`` is measured of."""
        return "process" if self.unit in ("bytes", "processes") else self.unit.removesuffix("s")

    def measure(self, bench: Bench, contender: Contender) -> Figures:
        figures: Figures = {}
        grow = self.start()
        with bench.loaded(contender) as session:
            session.load.connect(session.group("fan", "first", BEFOREHAND))
            empty, last = session.resident_bytes(), 0
            for size in self.sizes[: bench.count(len(self.sizes), 3)]:
                streams = grow(session, last, size)
                if not last:
                    session.warm_up(streams)
                last = size
                self._warm_up(session, streams)
                figures[f"cpu_us@{size}"] = median(
                    session.measure(streams, bench.seconds / TURNS, 1)["cpu_us"]
                    for _ in range(TURNS)
                )
                if self.memory == "process":
                    each = session.resident_bytes() / len(session.servers)
                    figures[f"memory_kb@{size}"] = each / 1024
                elif size >= ENOUGH:
                    each = (session.resident_bytes() - empty) / size
                    figures[f"memory_kb@{size}"] = each / 1024
                if contender.redis:
                    commands = commands_of(session, streams[0], 20)
                    figures[f"redis_commands@{size}"] = commands["redis_commands"]
        return figures

    def _warm_up(self, session: Session, streams: list[Stream]) -> None:
        """One message of each, a few at a time: only the first one to a client is slower."""
        for first in range(0, len(streams), 32):
            some = streams[first : first + 32]
            session.load.throughput(some, 0.0, len(some))


def connections() -> Grow:
    """Others who are connected beside a group of 100."""
    talk: list[Stream] = []

    def grow(session: Session, last: int, size: int) -> list[Stream]:
        if not talk:
            places = session.group("fan", "talk", MEMBERS + 1)
            session.load.connect(places)
            talk.append(places[0].stream)
        session.load.connect(session.group("fan", "idle", size - last))
        return talk

    return grow


def groups() -> Grow:
    """Groups of one client, who gets what it sends."""
    streams: list[Stream] = []

    def grow(session: Session, last: int, size: int) -> list[Stream]:
        places = [session.group("self", f"g{number}", 1)[0] for number in range(last, size)]
        session.load.connect(places)
        streams.extend(place.stream for place in places)
        return streams

    return grow


def members() -> Grow:
    """Members of one group, beside who sends."""
    joined: list[Stream] = []

    def grow(session: Session, last: int, size: int) -> list[Stream]:
        if not joined:
            [sender] = session.group("fan", "g", 1)
            session.load.connect([sender])
            joined.append(sender.stream)
        session.load.connect(session.more("g", joined[0], size - last))
        return joined

    return grow


def sizes() -> Grow:
    """Bytes of a message to a group of 20."""
    talk: list[Stream] = []

    def grow(session: Session, last: int, size: int) -> list[Stream]:
        if not talk:
            places = session.group("fan", "talk", 21)
            session.load.connect(places)
            talk.append(places[0].stream)
        session.load.speak(Wire(b"x" * size))
        return talk

    return grow


def processes() -> Grow:
    """Processes, each with 200 members of one group."""
    joined: list[Stream] = []

    def grow(session: Session, last: int, size: int) -> list[Stream]:
        if not joined:
            [sender] = session.group("fan", "g", 1)
            session.load.connect([sender])
            joined.append(sender.stream)
        for number in range(last, size):
            server = session.servers[0] if number == 0 else session.add_server()
            session.load.connect(session.more("g", joined[0], PER_PROCESS, server.port))
        return joined

    return grow


CURVES = (
    Curve(
        "curve-connections",
        "connections, 100 of which get messages",
        "connections",
        (100, 300, 1000, 3000, 9000),
        connections,
    ),
    Curve("curve-groups", "groups of one", "groups", (1, 10, 100, 1000, 10_000), groups),
    Curve(
        "curve-members",
        "members of a group",
        "members",
        (1, 10, 100, 1000, 10_000),
        members,
        (*IN_MEMORY, *IN_REDIS, LIMIT),
    ),
    Curve(
        "curve-bytes",
        "bytes of a message to 20",
        "bytes",
        (16, 256, 4096, 65_536, 262_144),
        sizes,
        exponent=1.0,
    ),
    Curve(
        "curve-processes",
        "processes with 200 members each",
        "processes",
        (1, 2, 3, 4),
        processes,
        IN_REDIS,
    ),
)
