"""
``manage.py filters``: every route's pipeline, written as shell pipes; with ``--schema``, what
filters declare of messages, as AsyncAPI.
"""

import json
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...checks.application import load_application
from ...pipelines.route import Route, known_routes
from ..asyncapi import document


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

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--schema",
            action="store_true",
            help="print what filters declare of messages, as AsyncAPI 3.0 in JSON, instead",
        )
        parser.add_argument("--title", help="of the document; the name of the project if not given")
        parser.add_argument("--api-version", default="1.0.0", help="that the document has")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            load_application()
            routes = _routes()
            lines = [line for route in routes for line in route.lines()]
            if options["schema"] and lines:
                title = options["title"] or _project()
                made = document(routes, title, options["api_version"])
                lines = [json.dumps(made, indent=2, ensure_ascii=False)]
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if not lines:
            raise CommandError(
                "no WebSocket routes: wrap the application in asgi.py with"
                " filtered_websocket.routing.with_websockets()"
            )
        self.stdout.write("\n".join(lines))


def _project() -> str:
    path: str = getattr(settings, "ASGI_APPLICATION", None) or "WebSockets"
    return path.partition(".")[0]
