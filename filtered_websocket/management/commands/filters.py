"""``manage.py filters``: every route's pipeline, written as shell pipes."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from ...checks.application import load_application
from ...pipelines.route import Route, known_routes


def _routes() -> list[Route]:
    """Routes with a known path, and routes that the site's own router serves."""
    return [route for route in known_routes() if route.paths or route.built]


class Command(BaseCommand):
    help = "Prints every WebSocket route's pipeline as pipes, and its home group."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            load_application()
            lines = [line for route in _routes() for line in route.lines()]
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if not lines:
            raise CommandError(
                "no WebSocket routes: wrap the application in asgi.py with"
                " filtered_websocket.routing.with_websockets()"
            )
        self.stdout.write("\n".join(lines))
