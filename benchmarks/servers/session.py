"""
Make the site's database with users who are logged in, as many as the first argument says or
one, and print the values of their cookies, one a line.
"""

import os
import sys
from importlib import import_module

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.servers.site_settings")


def main() -> None:
    django.setup()
    from django.conf import settings
    from django.contrib import auth
    from django.core.management import call_command
    from django.db import transaction

    call_command("migrate", verbosity=0)
    User = auth.get_user_model()
    names = ["ann", *(f"user{number}" for number in range(1, int((sys.argv[1:] or ["1"])[0])))]
    store = import_module(settings.SESSION_ENGINE).SessionStore
    with transaction.atomic():
        # What a login writes, without a request for each.
        for user in User.objects.bulk_create([User(username=name) for name in names]):
            session = store()
            session[auth.SESSION_KEY] = str(user.pk)
            session[auth.BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
            session[auth.HASH_SESSION_KEY] = user.get_session_auth_hash()
            session.create()
            print(session.session_key)


if __name__ == "__main__":
    main()
