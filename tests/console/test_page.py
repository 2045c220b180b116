"""The console's page in Django's admin."""

import re

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client as Browser
from django.urls import clear_script_prefix, path, set_script_prefix

from filtered_websocket.console.actions import page_key
from filtered_websocket.console.page import ConsoleAdmin
from filtered_websocket.models import Console

from .conftest import make_staff

pytestmark = pytest.mark.django_db
PAGE = "/admin/filtered_websocket/console/"

#: A second admin of a site.
other = admin.AdminSite("other")
other.register(Console, ConsoleAdmin)
urlpatterns = [path("admin/", admin.site.urls), path("inside/", other.urls)]


def browser_of(user):
    browser = Browser(headers={"host": "localhost"})
    browser.force_login(user)
    return browser


@pytest.fixture
def boss():
    return User.objects.create_superuser("boss", password="secret")


def text_of(response):
    assert response.status_code == 200
    return response.content.decode()


def data_of(response):
    """What the page tells its script."""
    [tag] = re.findall(r'<div id="fws-console"[^>]*>', text_of(response))
    return dict(re.findall(r'data-([\w-]+)="([^"]*)"', tag))


def test_the_page_tells_its_script_where_to_connect(boss):
    data = data_of(browser_of(boss).get(PAGE))
    assert data["websocket-path"] == "/fws-console/"
    assert data["key"] == page_key(boss)
    assert data["client"].endswith("filtered_websocket/client.js")
    assert data["token-url"] == "/admin/filtered_websocket/token/"
    assert set(data["permitted"].split()) == {
        *("view_console", "tee_console", "close_console", "unsubscribe_console"),
        *("publish_console", "change_token"),
    }


def test_only_what_one_may_do_is_offered():
    data = data_of(browser_of(make_staff("view_console", "close_console")).get(PAGE))
    assert data["permitted"] == "view_console close_console"


def test_the_page_has_nothing_inline_and_no_cache_keeps_it(boss):
    """So that the strictest Content-Security-Policy lets it work."""
    response = browser_of(boss).get(PAGE)
    text = text_of(response)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)
    assert any("filtered_websocket/console.js" in attributes for attributes, _ in scripts)
    assert all("src=" in attributes and not code.strip() for attributes, code in scripts)
    assert "<style" not in text
    assert not re.search(r"<[^>]+\s(on\w+|style)=", text)
    assert "no-store" in response["Cache-Control"]
    assert response["X-Frame-Options"] == "DENY"


def test_it_is_on_the_index_of_the_admin_for_who_may_see_it(boss):
    link = f'<a href="{PAGE}"'
    assert text_of(browser_of(boss).get("/admin/")).count(link) >= 1
    assert link in text_of(browser_of(make_staff("view_console")).get("/admin/"))
    assert link not in text_of(browser_of(make_staff("close_console", name="kim")).get("/admin/"))


@pytest.mark.parametrize("permissions", [(), ("close_console", "tee_console", "view_token")])
def test_who_may_not_see_it_does_not(permissions):
    assert browser_of(make_staff(*permissions)).get(PAGE).status_code == 403


def test_who_does_not_work_here_has_to_log_in():
    user = make_staff("view_console")
    User.objects.filter(pk=user.pk).update(is_staff=False)
    assert browser_of(user).get(PAGE)["Location"].startswith("/admin/login/")
    assert Browser(headers={"host": "localhost"}).get(PAGE).status_code == 302


@pytest.mark.parametrize("step", ["add/", "1/change/", "1/delete/", "1/history/", "1/"])
def test_there_is_nothing_but_the_page(boss, step):
    assert browser_of(boss).get(PAGE + step).status_code == 404


def test_switched_off_the_page_says_so(boss, settings):
    settings.FILTERED_WEBSOCKET = {"CONSOLE": None}
    text = text_of(browser_of(boss).get(PAGE))
    assert "The console is switched off" in text and "console.js" not in text


def test_behind_a_prefix_the_path_has_it(boss, settings):
    settings.FILTERED_WEBSOCKET = {"CONSOLE": "ws/inside/"}
    set_script_prefix("/app/")
    try:
        data = data_of(browser_of(boss).get(PAGE))
    finally:
        clear_script_prefix()
    assert data["websocket-path"] == "/app/ws/inside/"


def test_it_works_in_an_admin_of_the_sites_own(boss, settings):
    settings.ROOT_URLCONF = __name__
    browser = browser_of(boss)
    where = "/inside/filtered_websocket/console/"
    assert f'<a href="{where}"' in text_of(browser.get("/inside/"))
    # Which has no page of tokens.
    data = data_of(browser.get(where))
    assert (data["websocket-path"], data["token-url"]) == ("/fws-console/", "")


def test_no_page_asks_for_rows_that_there_are_not(boss, django_assert_max_num_queries):
    browser = browser_of(boss)
    with django_assert_max_num_queries(4):
        browser.get(PAGE)
