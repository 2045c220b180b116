"""WebSocket paths, as urls.py has HTTP's."""

from django.urls import path

from filtered_websocket.routing import websocket_urlpatterns as site

from .consumers import ChatConsumer, RoomConsumer

rooms = RoomConsumer.as_asgi()
chat = ChatConsumer.as_asgi()

websocket_urlpatterns = [
    *site,
    path("rooms/<str:name>/", rooms),
    path("connection/websocket", chat),
]
