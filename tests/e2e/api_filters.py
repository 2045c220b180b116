"""A client joins the groups of its query, and is told its id."""

from django.urls import include, path

from filtered_websocket import WebSocketConnectFilter
from filtered_websocket.groups import History, group

urlpatterns = [path("api/", include("filtered_websocket.api.urls"))]
grouppatterns = [
    group("news"),
    group("room:<slug:name>", presence=True),
    group("kept:<slug:name>", history=History(size=10, ttl=60)),
]


class JoinNamed(WebSocketConnectFilter):
    @classmethod
    async def filter(cls, connection):
        for name in connection.scope["query_string"].decode().split("&"):
            await connection.join(name)
        connection.push({"id": connection.id})
