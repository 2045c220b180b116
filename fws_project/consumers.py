"""A second route: rooms, whose name is in the URL."""

from filtered_websocket.consumers import FilteredWebSocketConsumer


class RoomConsumer(FilteredWebSocketConsumer):
    """A pipeline of its own; every connection's home group is its room."""

    filters = (
        "fws_project.filters.Tidy",
        "fws_project.filters.Shout",
        "filtered_websocket.filters.broadcast_messages",
    )

    def get_groups(self) -> list[str]:
        return [f"room:{self.scope['url_route']['kwargs']['name']}"]
