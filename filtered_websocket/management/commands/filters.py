"""``manage.py filters``: every route's pipeline, as one would type it."""

from typing import Any

from channels.routing import get_default_application
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from filtered_websocket.filters.pipeline import known_routes


class Command(BaseCommand):
    help = "Prints every WebSocket route's pipeline as pipes, and its home group."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            get_default_application()
            lines = [line for route in known_routes() if route.paths for line in route.lines()]
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if not lines:
            raise CommandError(
                "no WebSocket routes: wrap the application in asgi.py with"
                " filtered_websocket.routing.with_websockets()"
            )
        self.stdout.write("\n".join(lines))
