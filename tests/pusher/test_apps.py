"""Apps of the Pusher protocol: their options, and what they sign."""

import base64
import hashlib

import pytest

from filtered_websocket.conf import SettingError
from filtered_websocket.pusher.apps import App, app_of_id, app_of_key, make_app, site_apps

from .clients import APP, OTHER, with_app

APP_OF_DOCS = App(id="1", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        (
            "1234.1234:private-foobar",
            "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
        ),
        (
            '1234.1234::user::{"id":"12345"}',
            "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
        ),
        (
            '1234.1234:presence-foobar:{"user_id":10,"user_info":{"name":"Mr. Channels"}}',
            "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
        ),
    ],
)
def test_the_vectors_of_the_documentation(text, signature):
    assert APP_OF_DOCS.sign(text) == signature
    assert APP_OF_DOCS.has_authorized(f"{APP_OF_DOCS.key}:{signature}", text)


def test_apps_are_found_by_key_and_id(settings):
    settings.FILTERED_WEBSOCKET = with_app()
    assert app_of_key("app-key").id == "1" and app_of_key("app-key").is_first
    assert app_of_id("2").key == "other-key" and not app_of_id("2").is_first
    assert app_of_key("nobody") is app_of_id("9") is None


def test_a_secret_is_in_no_repr_and_no_message():
    app = make_app({**APP, "SECRET": "hidden-secret"}, 0)
    assert "hidden-secret" not in repr(app)
    with pytest.raises(SettingError) as raised:
        make_app({**APP, "SECRET": ["hidden-secret"]}, 0)
    assert "hidden-secret" not in str(raised.value)


WRONG = [
    ("nonsense", "entry 0, is 'nonsense'"),
    ({**APP, "COLOUR": 1}, "has no option 'COLOUR'"),
    ({"KEY": "a", "SECRET": "b"}, "has no ID"),
    ({**APP, "ID": "one"}, "has ID 'one'. It must be a text of digits"),
    ({**APP, "ID": 1}, "has ID 1"),
    ({**APP, "KEY": "a b"}, "has KEY 'a b'"),
    ({**APP, "SECRET": ""}, "has SECRET of another kind"),
    ({**APP, "MAX_CONNECTIONS": 0}, "has MAX_CONNECTIONS 0"),
    ({**APP, "CLIENT_EVENT_RATE": "many"}, "has CLIENT_EVENT_RATE 'many'"),
    ({**APP, "ALLOWED_ORIGINS": "https://a.example"}, "has ALLOWED_ORIGINS"),
    ({**APP, "ALLOWED_ORIGINS": ["a.example"]}, "'a.example' is no origin"),
    ({**APP, "ENCRYPTION_MASTER_KEY": "short"}, "has ENCRYPTION_MASTER_KEY of another kind"),
    ({**APP, "ENCRYPTION_MASTER_KEY": "***"}, "32 bytes in base64"),
    ({**APP, "USER_INFO": 5}, "has USER_INFO 5"),
    ({**APP, "WEBHOOKS": "https://a.example"}, "has WEBHOOKS"),
    ({**APP, "WEBHOOKS": ["https://a.example"]}, "Write a dict with a URL"),
    ({**APP, "WEBHOOKS": [{"EVENTS": None}]}, "Write a dict with a URL"),
    ({**APP, "WEBHOOKS": [{"URL": "ftp://a.example"}]}, "in WEBHOOKS has URL"),
    ({**APP, "WEBHOOKS": [{"URL": "https://a.example", "EVENTS": ["x"]}]}, "has EVENTS ['x']"),
    ({**APP, "WEBHOOKS": [{"URL": "https://a.example", "HEADERS": {"a": 1}}]}, "has HEADERS"),
    ({**APP, "WEBHOOKS": [{"URL": "https://a.example", "COLOUR": 1}]}, "no option 'COLOUR'"),
]


@pytest.mark.parametrize(("entry", "words"), WRONG)
def test_a_mistake_is_named(entry, words):
    with pytest.raises(SettingError) as raised:
        make_app(entry, 0)
    assert words in str(raised.value)


def test_any_origin():
    assert make_app({**APP, "ALLOWED_ORIGINS": ["*", "https://a.example"]}, 0).allowed_origins


def test_a_list_of_apps_with_a_mistake(settings):
    for wrong, words in (
        (7, "is 7. It must be a list"),
        ([APP, {**OTHER, "ID": "1"}], "two apps with ID '1'"),
        ([APP, {**OTHER, "KEY": "app-key"}], "two apps with KEY 'app-key'"),
    ):
        settings.FILTERED_WEBSOCKET = {"PUSHER_APPS": wrong}
        with pytest.raises(SettingError) as raised:
            site_apps()
        assert words in str(raised.value)


def test_the_key_of_an_encrypted_channel():
    master = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    app = make_app({**APP, "ENCRYPTION_MASTER_KEY": master}, 0)
    key = base64.b64decode(app.shared_secret("private-encrypted-a"))
    assert key == hashlib.sha256(b"private-encrypted-a0123456789abcdef0123456789abcdef").digest()
    assert make_app(APP, 0).shared_secret("private-encrypted-a") is None


def test_what_others_see_of_a_user():
    assert make_app(APP, 0).info_of("ann") is None
    assert make_app({**APP, "USER_INFO": str.upper}, 0).info_of("ann") == "ANN"
    assert make_app({**APP, "USER_INFO": "builtins.repr"}, 0).info_of("ann") == "'ann'"
