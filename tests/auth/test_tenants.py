"""Which tenant a context belongs to."""

import re
import uuid
from contextvars import copy_context
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.db import models
from django.test.utils import override_settings

from filtered_websocket.auth import tenants
from filtered_websocket.auth.tenants import check_user, databases, load_tenant, tenant_of
from filtered_websocket.conf import SettingError


def test_the_default_is_the_databases_of_users_tokens_and_sessions():
    assert databases() == ("default", "default", "default")


@pytest.mark.parametrize(
    ("engine", "count"),
    [("cached_db", 3), ("cache", 2), ("file", 2), ("signed_cookies", 2)],
)
def test_sessions_count_where_they_are_rows(settings, engine, count):
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    assert len(databases()) == count


@pytest.mark.parametrize("apps", [[], ["django.contrib.contenttypes", "django.contrib.auth"]])
def test_apps_that_are_not_installed_have_no_database(apps):
    with override_settings(INSTALLED_APPS=apps):
        assert len(databases()) == len(apps) // 2


def test_a_tenant_is_what_the_function_says_in_a_context(settings):
    settings.FILTERED_WEBSOCKET = {"TENANT": lambda: 7}
    assert tenant_of(copy_context()) == 7
    settings.FILTERED_WEBSOCKET = {"TENANT": f"{__name__}.test_apps_that_are_not_installed"}
    with pytest.raises(SettingError, match="test_apps_that_are_not_installed"):
        load_tenant()


class Model:
    """A user model whose primary keys are of this kind."""

    def __init__(self, pk):
        self._meta = SimpleNamespace(pk=pk, label="people.Person")


ONE = "3f2b8f1c-3c43-4f0b-9d6c-2f0f7b8f9a11"


@pytest.mark.parametrize(
    ("pk", "good", "bad"),
    [
        (models.BigAutoField(), ["5", " 5"], ["bob", "5.5", "a@b.c"]),
        (models.UUIDField(), [ONE, ONE.replace("-", "")], ["bob", "5"]),
        (models.CharField(), ["bob", "5"], []),
    ],
)
def test_a_text_that_cannot_be_a_primary_key_is_an_error(monkeypatch, settings, pk, good, bad):
    model = Model(pk)
    monkeypatch.setattr(tenants, "get_user_model", lambda: model)
    for key in (*good, 5, None, "", uuid.UUID(ONE), User(pk="bob")):
        check_user(key)
    for key in bad:
        kind = type(pk).__name__
        words = f"'{key}' is no primary key of people.Person, whose keys are of the kind {kind}"
        with pytest.raises(ValueError, match=re.escape(words)):
            check_user(key)


@pytest.mark.parametrize(
    "chosen",
    [
        {"JWT_KEY": "k" * 32},
        {"PUSHER_APPS": [{"ID": "1", "KEY": "k", "SECRET": "s"}]},
        {"PUSHER_APPS_IN_ADMIN": True},
        {"AUTHENTICATORS": ["mysite.auth.Elsewhere"]},
    ],
)
def test_users_from_elsewhere_may_have_any_key(settings, chosen):
    settings.FILTERED_WEBSOCKET = {}
    with pytest.raises(ValueError, match="'bob' is no primary key of"):
        check_user("bob")
    settings.FILTERED_WEBSOCKET = chosen
    check_user("bob")


def test_a_site_without_users_has_no_kind_of_keys():
    with override_settings(INSTALLED_APPS=[]):
        check_user("bob")


def test_a_key_is_looked_at_once(monkeypatch):
    asked = []

    class Key(models.IntegerField):
        def to_python(self, value):
            asked.append(value)
            return super().to_python(value)

    model = Model(Key())
    monkeypatch.setattr(tenants, "get_user_model", lambda: model)
    for _ in range(3):
        check_user("7")
    assert asked == ["7"]
