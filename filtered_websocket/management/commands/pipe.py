"""``manage.py pipe FILTER...``: runs standard input through filters, one message per line."""

import asyncio
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ...pipe import add_arguments, run


class Command(BaseCommand):
    help = "Runs standard input through filters, one message per line, and prints the result."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        sys.exit(asyncio.run(run(options["filters"], options["chain"], options["protocol"])))
