"""``manage.py filters``: every route's pipeline, written as shell pipes."""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from ...checks.application import load_application
from ...pipelines.route import Route, known_routes


def _routes() -> list[Route]:
    """Routes with a known path, and those that the site made, for a router of its own."""
    return [
        route
        for route in known_routes()
        # The one that this package offers is built by system checks, also if nobody serves it.
        if (route.paths or (route.built and not route.is_offered)) and not route.is_own
    ]


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
