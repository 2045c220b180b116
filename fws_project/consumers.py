"""A second route: chat rooms, with their name in the URL."""

from filtered_websocket.consumers import FilteredWebSocketConsumer


class RoomConsumer(FilteredWebSocketConsumer):
    """Has its own pipeline. The home group of a connection is its room."""

    filters = (
        "fws_project.filters.Tidy",
        "fws_project.filters.Shout",
        "filtered_websocket.filters.broadcast_messages",
    )

    def get_groups(self) -> list[str]:
        return [f"room:{self.scope['url_route']['kwargs']['name']}"]
