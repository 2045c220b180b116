"""``websockets.broadcast`` on uvloop, no compression."""

import asyncio
import json
import os
from collections import defaultdict

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

groups: defaultdict[str, set[ServerConnection]] = defaultdict(set)


def encode(member: ServerConnection, message: str | bytes) -> str:
    """JSON of its own for each recipient."""
    fields = {"body": str(message)[:101], "to": str(member.id)[:8]}
    return json.dumps(fields, separators=(",", ":"))


async def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    _, kind, *rest = connection.request.path.split("/")
    members = groups[rest[0]]
    members.add(connection)
    try:
        async for message in connection:
            if kind == "echo":
                await connection.send(message)
            elif kind == "each":
                for member in members:
                    broadcast([member], encode(member, message))
            elif kind == "self":
                broadcast(members, message)
            else:
                broadcast([member for member in members if member is not connection], message)
    finally:
        members.discard(connection)


async def main() -> None:
    port = int(os.environ["PORT"])
    async with serve(handle, "127.0.0.1", port, compression=None, backlog=1024) as server:
        await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
