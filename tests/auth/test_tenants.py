"""Which tenant a context belongs to."""

from contextvars import copy_context

import pytest
from django.test.utils import override_settings

from filtered_websocket.auth.tenants import databases, load_tenant, tenant_of
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
