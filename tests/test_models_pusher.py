"""Apps of the Pusher protocol that are made in the admin: their secrets, and what they accept."""

import base64
import json

import pytest
from django.core import serializers
from django.core.exceptions import ValidationError
from django.db.utils import IntegrityError

from filtered_websocket.models import PusherApp
from filtered_websocket.models import pusher as module
from filtered_websocket.pusher.apps import make_app_of

from .secrecy import PLAIN_KEY, database_dump, failing_database, report_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def made():
    return PusherApp.objects.create_app(name="shop")


def test_a_new_app_has_an_id_a_key_and_a_secret_of_its_own(made):
    app, secret = made
    other, another = PusherApp.objects.create_app(name="shop")
    assert app.app_id.isdigit() and len(app.key) == 20 and len(secret) >= 40
    assert (app.app_id, app.key, secret) != (other.app_id, other.key, another)
    assert secret not in repr(secret) and str(app) == f"shop ({app.app_id})"


def test_a_dump_of_the_database_does_not_have_the_secret(made):
    _, secret = made
    assert str(secret) not in database_dump()
    assert str(secret) not in serializers.serialize("json", PusherApp.objects.all())
    assert PusherApp.objects.get().secret == secret


@pytest.fixture
def plain(monkeypatch):
    """New secrets are this one, whose ``repr`` hides nothing."""
    monkeypatch.setattr(module, "new_key", lambda: PLAIN_KEY)
    monkeypatch.setattr(module, "Key", str)
    return PLAIN_KEY


@pytest.mark.parametrize("verb", ["SELECT", "INSERT"])
def test_no_report_of_a_creation_that_fails_has_the_secret(plain, verb):
    with failing_database(verb):
        report = report_of(PusherApp.objects.create_app, name="a")
    assert f"{verb} fails" in report and plain not in report


def test_no_report_of_what_fails_has_the_secret(plain, monkeypatch):
    report = report_of(PusherApp.objects.create_app, name="x" * 101)
    assert "ValidationError" in report and plain not in report
    app, _ = PusherApp.objects.create_app(name="a")
    monkeypatch.setattr(module, "hashlib", None)
    report = report_of(lambda: app.encryption_master_key)
    assert "AttributeError" in report and plain not in report
    monkeypatch.setattr(module, "MultiFernet", None)
    report = report_of(app.set_new_secret)
    assert "TypeError" in report and plain not in report


def test_of_two_apps_none_has_the_id_or_key_of_the_other(made):
    app, _ = made
    for field in ("app_id", "key"):
        with pytest.raises(ValidationError):
            PusherApp.objects.create_app(name="b", **{field: getattr(app, field)})
    with pytest.raises(IntegrityError):
        PusherApp.objects.create(name="b", key=app.key)


def test_another_secret_key_decrypts_it_only_as_a_fallback(made, settings):
    app, secret = made
    old = settings.SECRET_KEY
    assert not app.is_of_an_old_key
    settings.SECRET_KEY = "another"
    with pytest.raises(ValueError, match=r"SECRET_KEY .* make a new secret in the admin"):
        _ = app.secret
    settings.SECRET_KEY_FALLBACKS = ["not this", old]
    assert app.secret == secret and app.is_of_an_old_key
    assert app.encrypt_again() and not PusherApp.objects.get().encrypt_again()
    settings.SECRET_KEY_FALLBACKS = []
    app = PusherApp.objects.get()
    assert app.secret == secret and not app.is_of_an_old_key
    settings.SECRET_KEY = "a third one"
    with pytest.raises(ValueError, match="SECRET_KEY"):
        app.encrypt_again()


def test_what_is_stored_of_one_app_is_of_no_use_in_the_row_of_another(made):
    app, _ = made
    other, _ = PusherApp.objects.create_app(name="b")
    other.encrypted_secret = app.encrypted_secret
    with pytest.raises(ValueError, match="that of another key"):
        _ = other.secret


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("app_id", "one"),
        ("app_id", "1" * 21),
        ("key", "a b"),
        ("client_event_rate", "many"),
        ("max_event_size", 0),
        ("max_connections", 0),
        ("max_members", 0),
        ("activity_timeout", 0),
        ("allowed_origins", "https://a.example\na.example"),
        ("webhooks", "https://a.example"),
        ("webhooks", ["https://a.example"]),
        ("webhooks", [{"EVENTS": ["cache_miss"]}]),
        ("webhooks", [{"URL": "ftp://a.example"}]),
        ("webhooks", [{"URL": "https://a.example", "EVENTS": ["x"]}]),
        ("webhooks", [{"URL": "https://a.example", "HEADERS": {"X-Secret": "a"}}]),
    ],
)
def test_what_an_app_does_not_accept_is_named(field, value):
    with pytest.raises(ValidationError) as raised:
        PusherApp.objects.create_app(name="a", **{field: value})
    assert list(raised.value.message_dict) == [field]


def test_it_is_an_app_as_those_of_the_settings_are():
    hook = {"URL": "https://a.example", "EVENTS": ["cache_miss"], "PREFIX": "a"}
    row, secret = PusherApp.objects.create_app(
        name="shop",
        client_events=True,
        max_connections=7,
        allowed_origins="https://a.example\n*",
        webhooks=[hook],
    )
    app = make_app_of(PusherApp.objects.get())
    assert (app.id, app.key, app.secret) == (row.app_id, row.key, str(secret))
    assert app.enabled and app.client_events and not app.is_first and not app.tls_only
    assert (app.client_event_rate, app.max_event_size, app.max_connections) == ("10/s", 10_240, 7)
    assert (app.max_members, app.activity_timeout) == (100, 30)
    assert app.allowed_origins == ["https://a.example", "*"]
    assert (app.webhooks[0].url, app.webhooks[0].prefix) == ("https://a.example", "a")


def test_its_master_key_comes_of_the_secret_and_is_32_bytes(made):
    app, _ = made
    master = app.encryption_master_key
    assert len(base64.b64decode(master)) == 32 and master not in repr(master)
    assert make_app_of(app).shared_secret("private-encrypted-a") is not None
    app.set_new_secret()
    assert app.encryption_master_key != master


def test_the_bytes_that_are_stored_are_read_by_later_versions(settings):
    settings.SECRET_KEY = "golden"
    app = PusherApp(app_id="5", key="golden-key", encrypted_secret=GOLDEN)
    assert app.secret == "golden-secret"
    assert json.loads(json.dumps(app.options()))["SECRET"] == "golden-secret"


GOLDEN = (
    "gAAAAABrCjADKT05tEl_R-AH7FuXyVQ4wpgSBOhZ0X0LobUyUal4W9-7ZrOt"
    "7ESROqvHudvfxRJtF9sxOJjL0thqCKfreTWOKtUlS56kUEuroB-uY_ovS-0="
)
