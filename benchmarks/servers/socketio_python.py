"""python-socketio with its Redis manager; served by uvicorn."""

import os
from typing import Any
from urllib.parse import parse_qs

import socketio

sio = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(os.environ["REDIS_URL"]),
    transports=["websocket"],
    # Longer than any run, for both servers of this protocol: no heart beats in between.
    ping_interval=3600,
)
application = socketio.ASGIApp(sio)
#: Client -> kind and group of its path.
paths: dict[str, tuple[str, str]] = {}


@sio.event
async def connect(sid: str, environ: dict[str, Any], auth: Any = None) -> None:
    query = parse_qs(environ["QUERY_STRING"])
    group = query["group"][0]
    paths[sid] = query["kind"][0], group
    await sio.enter_room(sid, group)


@sio.event
async def disconnect(sid: str, reason: str) -> None:
    paths.pop(sid, None)


@sio.event
async def m(sid: str, message: str) -> None:
    kind, group = paths[sid]
    if kind == "echo":
        await sio.emit("m", message, to=sid)
    else:
        await sio.emit("m", message, room=group, skip_sid=None if kind == "self" else sid)
