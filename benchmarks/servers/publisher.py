"""
Another process of the site, without a connection of its own, that publishes.

``python -m benchmarks.servers.publisher LIBRARY GROUPS``: for each line that it reads, one
message to each of so many groups, in the way that the line says, and a line when they are
sent.

``each``  one after the other, as a view or a task does; the next when Redis has the last
``all``   in one go, as a coroutine can that has many people to tell
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

PAYLOAD = "x" * int(os.environ["BENCH_PAYLOAD"])


@dataclass(frozen=True)
class Library:
    """How one message is sent."""

    each: Callable[[str], object]
    all: Callable[[str], Awaitable[object]] | None = None


def ours() -> Library:
    from filtered_websocket.publish import apublish, publish

    return Library(lambda group: publish(PAYLOAD, group), lambda group: apublish(PAYLOAD, group))


def stock() -> Library:
    from asgiref.sync import async_to_sync
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    assert layer is not None
    event = {"type": "group.message", "text": PAYLOAD, "sender": ""}
    send = async_to_sync(layer.group_send)
    return Library(lambda group: send(group, event), lambda group: layer.group_send(group, event))


def socketio() -> Library:
    from socketio import RedisManager

    manager = RedisManager(os.environ["REDIS_URL"], write_only=True)
    return Library(lambda group: manager.emit("m", PAYLOAD, room=group))


LIBRARIES = {"ours": ours, "stock": stock, "socketio": socketio}


async def send_all(library: Library, groups: list[str]) -> None:
    assert library.all is not None, "it has no way to send many at once"
    await asyncio.gather(*map(library.all, groups))


def main() -> None:
    import django

    django.setup()
    library = LIBRARIES[sys.argv[1]]()
    groups = [f"g{number}" for number in range(int(sys.argv[2]))]
    with asyncio.Runner() as runner:
        print("ready", flush=True)
        for line in sys.stdin:
            if line.strip() == "all":
                runner.run(send_all(library, groups))
            else:
                for group in groups:
                    library.each(group)
            print("sent", flush=True)


if __name__ == "__main__":
    main()
