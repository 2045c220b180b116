"""``manage.py fws_encrypt``."""

import io

import pytest
from django.core.management import CommandError, call_command

from filtered_websocket.models import PusherApp

from ..snippets import ROOT, named

pytestmark = pytest.mark.django_db


def run():
    out, errors = io.StringIO(), io.StringIO()
    try:
        call_command("fws_encrypt", stdout=out, stderr=errors)
    except CommandError as error:
        errors.write(f"CommandError: {error}\n")
    return out.getvalue(), errors.getvalue()


def test_after_it_the_old_key_is_not_needed(settings):
    made = [PusherApp.objects.create_app(name=name) for name in "ab"]
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    shown = named(ROOT / "docs/pusher.md")["fws_encrypt"]
    assert run() == (shown.partition("fws_encrypt\n")[2], "")
    assert run() == ("encrypted 0 of 2 secrets again\n", "")
    settings.SECRET_KEY_FALLBACKS = []
    for app, secret in made:
        assert PusherApp.objects.get(pk=app.pk).secret == secret


def test_what_is_lost_is_named_and_the_others_are_encrypted(settings):
    PusherApp.objects.create_app(name="lost\n", app_id="7")
    settings.SECRET_KEY = "second"
    PusherApp.objects.create_app(name="kept")
    settings.SECRET_KEY_FALLBACKS = ["second"]
    settings.SECRET_KEY = "third"
    said, errors = run()
    assert said == "encrypted 1 of 2 secrets again\n"
    first, second = errors.splitlines()
    assert first.startswith(r"the Pusher app 'lost\n (7)': its secret cannot be decrypted")
    assert second == "CommandError: 1 of 2 secrets cannot be decrypted"
