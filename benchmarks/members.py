"""
``python -m benchmarks.members``: what it costs Redis that groups have members: subscriptions,
and presence.

Commands leave a hundred at a time, as those of a busy process do. Counted is CPU time and
memory of Valkey alone, for each of them.
"""

import asyncio
import json
import os
import socket
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hiredis

from filtered_websocket.layer.envelope import group_key, new_origin
from filtered_websocket.layer.redis_connection import pack
from filtered_websocket.presence.base import MAX_CHANGES, Call, Info, pack_info
from filtered_websocket.presence.redis import Command, RedisStore
from filtered_websocket.presence.scripts import CHANGE

from . import machine
from .costs import SHARED
from .processes import Valkey

RESULTS = Path(__file__).resolve().parent / "results" / "members.json"
#: Of the package whose commands are sent.
SETTINGS = "benchmarks.servers.site_settings"
#: Groups of one member each, and members of one group.
COUNT = 20_000
AT_ONCE = 100
LEASE = 60.0


class Link:
    """One connection to a Valkey, as one process has it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))

    def close(self) -> None:
        self._socket.close()

    def ask(self, lines: Sequence[bytes]) -> list[Any]:
        """One answer for each."""
        replies: list[Any] = []
        for at in range(0, len(lines), AT_ONCE):
            self._socket.sendall(b"".join(lines[at : at + AT_ONCE]))
            wanted = min(at + AT_ONCE, len(lines))
            reader = hiredis.Reader()
            while len(replies) < wanted:
                reader.feed(self._socket.recv(1 << 20))
                while (reply := reader.gets()) is not False:
                    replies.append(reply)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies


class Host:
    """What :class:`.RedisStore` needs; what it sends in one turn of the loop leaves at its end."""

    is_plain = True

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: list[tuple[bytes, Callable[[Any], object]]] = []

    def channel_of(self, group: str) -> str:
        return f"asgi__group__{group}"

    def execute(self, group: str, command: Command, on_reply: Callable[[Any], object]) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append((pack(command), on_reply))

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        replies = self._link.ask([line for line, _ in waiting])
        for (_, on_reply), reply in zip(waiting, replies, strict=True):
            on_reply(reply)

    async def close(self) -> None:
        self._link.close()


class Meter:
    """CPU and memory of a Valkey, for each of ``count`` things."""

    def __init__(self, valkey: Valkey, count: int) -> None:
        self._pid = valkey.pid
        self._count = count
        self._link = Link(valkey.port)

    def close(self) -> None:
        self._link.close()

    def memory(self) -> int:
        [told] = self._link.ask([pack((b"INFO", b"memory"))])
        return int(told.partition(b"used_memory:")[2].split(b"\r\n")[0])

    def measure(self, act: Callable[[], object]) -> tuple[float, float]:
        """Microseconds and bytes."""
        memory, cpu = self.memory(), machine.cpu_seconds(self._pid)
        act()
        cpu = machine.cpu_seconds(self._pid) - cpu
        return cpu / self._count * 1e6, (self.memory() - memory) / self._count


def measure(valkey: Valkey, count: int = COUNT) -> dict[str, float]:
    meter = Meter(valkey, count)
    try:
        return {**_subscriptions(valkey, meter, count), **_presence(valkey, meter, count)}
    finally:
        meter.close()


def _subscriptions(valkey: Valkey, meter: Meter, count: int) -> dict[str, float]:
    """Of one process to groups of its own, and of a second one to the same groups."""
    channels = [f"asgi__group__{group_key(str(number))}".encode() for number in range(count)]
    first, second = Link(valkey.port), Link(valkey.port)

    def send(link: Link, name: bytes) -> Callable[[], object]:
        lines = [pack((name, channel)) for channel in channels]
        return lambda: link.ask(lines)

    subscribe, channel = meter.measure(send(first, b"SUBSCRIBE"))
    again, subscription = meter.measure(send(second, b"SUBSCRIBE"))
    unsubscribe, _ = meter.measure(send(second, b"UNSUBSCRIBE"))
    last, _ = meter.measure(send(first, b"UNSUBSCRIBE"))
    first.close()
    second.close()
    return {
        "subscribe_us": (subscribe + again) / 2,
        "unsubscribe_us": (unsubscribe + last) / 2,
        "channel_bytes": channel,
        "subscription_bytes": subscription,
    }


def _presence(valkey: Valkey, meter: Meter, count: int) -> dict[str, float]:
    """Of users who are in a group of their own each, and of as many in one group."""
    link = Link(valkey.port)
    link.ask([pack(("SCRIPT", "LOAD", CHANGE.text))])
    store = RedisStore(Host(link), LEASE)
    origin = new_origin()
    users = [(str(uuid.uuid4()), pack_info(Info(str(number)))) for number in range(count)]

    def change(calls: Sequence[Call], origin: str = origin) -> Callable[[], object]:
        async def send() -> None:
            for answer in await store.change(origin, calls):
                if isinstance(answer, Exception):
                    raise answer

        return lambda: asyncio.run(send())

    def apart(*changes: Sequence[tuple[str, str | None]], expires: bool = False) -> list[Call]:
        return [Call(str(number), one, expires, False) for number, one in enumerate(changes)]

    def renew_shared() -> None:
        for one in origins:
            change([Call(str(number), (), True, False) for number in shared], one)()

    join, alone = meter.measure(change(apart(*([user] for user in users))))
    renew, _ = meter.measure(change(apart(*([] for _ in users), expires=True)))
    leave, _ = meter.measure(change(apart(*([(name, None)] for name, _ in users))))
    together = [
        Call("crowd", users[at : at + MAX_CHANGES], False, False)
        for at in range(0, count, MAX_CHANGES)
    ]
    crowd, each = meter.measure(change(together))
    # As many calls as groups above: each of these processes renews each of these groups.
    origins, shared = [new_origin() for _ in range(SHARED)], range(count // SHARED)
    for one in origins:
        change([Call(str(number), [(one, "null\nnull")], False, False) for number in shared], one)()
    renew_each, _ = meter.measure(renew_shared)
    asyncio.run(store.close())
    return {
        "present_join_us": join,
        "present_renew_us": renew,
        "present_renew_shared_us": renew_each,
        "present_leave_us": leave,
        "present_alone_bytes": alone,
        "present_crowd_us": crowd,
        "present_crowd_bytes": each,
    }


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", SETTINGS)
    about = {"date": machine.now(), "machine": machine.describe()}
    with Valkey(machine.LOAD_CORE) as valkey:
        about["valkey"] = valkey.version()
        figures = {name: round(value, 3) for name, value in measure(valkey).items()}
    RESULTS.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
