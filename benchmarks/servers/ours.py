"""This package as it is: the routes of :mod:`.before`, and those of what is new."""

from .before import HERE, ROUTES, TO_ALL, GroupConsumer, SelfConsumer, http  # isort: skip - sets up Django

from django.urls import path

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group
from filtered_websocket.routing import with_websockets

SENDING = "benchmarks.servers.send_filters"


#: Of the routes whose clients name their groups.
RULES = (
    group("kept:<str:name>", publish=True, history=History(size=100, ttl=300)),
    group("<str:name>", publish=True),
)


class LookConsumer(GroupConsumer):
    """Through a send filter that changes nothing."""

    filters = (TO_ALL, f"{SENDING}.Look")


class EachConsumer(GroupConsumer):
    """Every recipient gets something else."""

    filters = (TO_ALL, f"{SENDING}.Each")


class KeptConsumer(SelfConsumer):
    """The last messages of each group are kept."""

    group_rules = (group("<str:name>", publish=True, history=History(size=100, ttl=300)),)


class ThereConsumer(SelfConsumer):
    """With presence, of which nobody is told."""

    group_rules = (group("<str:name>", publish=True, presence=True),)


class RuledConsumer(SelfConsumer):
    """With the rules that the route of the protocol has."""

    group_rules = RULES


class BackConsumer(KeptConsumer):
    """Joins with a position when the client says something."""

    filters = (f"{HERE}.Back",)

    def get_groups(self) -> list[str]:
        return []


application = with_websockets(
    http,
    [
        *ROUTES,
        path("kept/<str:group>/", KeptConsumer.as_asgi()),
        path("back/<str:group>/", BackConsumer.as_asgi()),
        path("there/<str:group>/", ThereConsumer.as_asgi()),
        path("ruled/<str:group>/", RuledConsumer.as_asgi()),
        path(
            "connection/websocket",
            FilteredWebSocketConsumer.as_asgi(
                protocol="centrifuge", filters=(), group_rules=RULES, personal=False
            ),
        ),
        path(
            "app/<path:key>",
            FilteredWebSocketConsumer.as_asgi(protocol="pusher", filters=(), group_rules=RULES),
        ),
        path("look/<str:group>/", LookConsumer.as_asgi()),
        path("each/<str:group>/", EachConsumer.as_asgi()),
    ],
    protocols=True,
)
