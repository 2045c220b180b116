"""An application with a route that cannot be built."""

from filtered_websocket.consumers import FilteredWebSocketConsumer

application = FilteredWebSocketConsumer.as_asgi(filters=["no.such.module"])
