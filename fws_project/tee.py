"""
For pages with DEBUG: what passes through the pipe of a route, as records of a tee.

``routing`` has a route for it with DEBUG only, as nobody is asked who they are: the records show
what everybody says.
"""

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

from django.conf import settings

from filtered_websocket import WebSocketConnectFilter, WebSocketDisconnectFilter
from filtered_websocket.console.tee import Tee, on_route
from filtered_websocket.consumers import FilteredWebSocketConsumer


class Watch(WebSocketConnectFilter):
    """Begin to send the records of ``?route=``, which is one as ``manage.py filters`` shows it."""

    @classmethod
    def filter(cls, web_socket_instance: Any, handshake: Any) -> None:
        route = parse_qs(handshake.query_string).get("route", [""])[0]
        sending = asyncio.ensure_future(send_records(web_socket_instance, route))
        web_socket_instance.state["sending"] = sending


class Unwatch(WebSocketDisconnectFilter):
    """The page has gone, or looks no more."""

    @classmethod
    async def filter(cls, web_socket_instance: Any, data: Any) -> None:
        sending = web_socket_instance.state.get("sending")
        if sending is not None:
            sending.cancel()
            await asyncio.wait([sending])


async def send_records(connection: Any, route: str) -> None:
    """For ten minutes, or 2000 records; then close the connection."""
    layer = settings.CHANNEL_LAYERS["default"]["BACKEND"].rpartition(".")[2]
    connection.push({"is": "layer", "name": layer})
    with suppress(TimeoutError):  # Redis is away
        async with Tee(
            on_route(route),
            seconds=600,
            messages=2000,
            size=1024,
            total=4_194_304,
            payloads=True,
            skip=[connection.id],
        ) as tee:
            async for record in tee:
                await connection.send(record)
    connection.close(1000, "the tee is over")


class TeeConsumer(FilteredWebSocketConsumer):
    """What pages say here is heard by nobody."""

    filters = ("fws_project.tee.Watch", "fws_project.tee.Unwatch")
    groups = ("tee",)
