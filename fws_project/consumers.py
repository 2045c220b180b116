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


class ChatConsumer(FilteredWebSocketConsumer):
    """
    Speaks the Centrifuge protocol: its clients subscribe to groups, see who is there, and get
    what they missed.
    """

    protocol = "centrifuge"
    group_rules = "fws_project.groups"
    filters = ("fws_project.filters.SayName", "fws_project.filters.TidySaid")
