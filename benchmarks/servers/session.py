"""Make the site's database with one logged-in user, and print the value of the cookie."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.servers.site_settings")


def main() -> None:
    django.setup()
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.test import Client

    call_command("migrate", verbosity=0)
    client = Client()
    client.force_login(get_user_model().objects.create_user("ann"))
    print(client.cookies[settings.SESSION_COOKIE_NAME].value)


if __name__ == "__main__":
    main()
