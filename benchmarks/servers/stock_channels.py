"""Stock Channels, as its tutorial has it: a consumer that sends to its group."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.servers.site_settings")
http = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402


class GroupConsumer(AsyncWebsocketConsumer):
    """To every other member of the group, or to all of them."""

    to_self = False

    async def connect(self) -> None:
        self.group = self.scope["url_route"]["kwargs"]["group"]
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        event = {"type": "group.message", "text": text_data, "sender": self.channel_name}
        await self.channel_layer.group_send(self.group, event)

    async def group_message(self, event: dict[str, str]) -> None:
        if self.to_self or event["sender"] != self.channel_name:
            await self.send(text_data=event["text"])


class SelfConsumer(GroupConsumer):
    to_self = True


class EchoConsumer(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data)


routes = [
    path("fan/<str:group>/", GroupConsumer.as_asgi()),
    path("self/<str:group>/", SelfConsumer.as_asgi()),
    path("echo/", EchoConsumer.as_asgi()),
]
application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(routes))),
    }
)
