"""WebSocket paths, as urls.py has HTTP's."""

from django.conf import settings
from django.urls import path

from filtered_websocket.routing import websocket_urlpatterns as site

from .consumers import ChatConsumer, RoomConsumer
from .tee import TeeConsumer

rooms = RoomConsumer.as_asgi()
chat = ChatConsumer.as_asgi()
#: Shows the pages what passes through their pipes, which is what everybody says.
tee = TeeConsumer.as_asgi() if settings.DEBUG else None

websocket_urlpatterns = [
    *site,
    path("rooms/<str:name>/", rooms),
    path("connection/websocket", chat),
]
if tee is not None:
    websocket_urlpatterns.append(path("debug/tee/", tee))
