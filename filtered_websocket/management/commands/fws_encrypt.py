"""``manage.py fws_encrypt``: encrypt what is stored again, after ``SECRET_KEY`` has changed."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ...logs import printable
from ...pusher.apps import app_rows


class Command(BaseCommand):
    help = (
        "Encrypts the secrets of the Pusher apps in the database with SECRET_KEY, where one of"
        " SECRET_KEY_FALLBACKS is needed to read them. Then that one may be removed."
    )
    # What is wrong elsewhere does not matter here.
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        apps = list(app_rows())
        done = lost = 0
        for app in apps:
            try:
                done += app.encrypt_again()
            except ValueError as error:
                lost += 1
                self.stderr.write(printable(f"the Pusher app {str(app)!r}: {error}"), str)
        self.stdout.write(f"encrypted {done} of {len(apps)} secrets again")
        if lost:
            raise CommandError(f"{lost} of {len(apps)} secrets cannot be decrypted")
