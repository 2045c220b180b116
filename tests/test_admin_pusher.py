"""Apps of the Pusher protocol in Django's admin."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User

from filtered_websocket.models import PusherApp

from .secrecy import database_dump, every_log_line
from .test_admin import admin as admin
from .test_admin import browser_of, notices, staff, text_of

pytestmark = pytest.mark.django_db
LIST = "/admin/filtered_websocket/pusherapp/"
ADD = LIST + "add/"
SITE = {"PUSHER_APPS_IN_ADMIN": True}


@pytest.fixture(autouse=True)
def site(settings):
    settings.FILTERED_WEBSOCKET = SITE


@pytest.fixture
def app():
    return PusherApp.objects.create_app(name="shop", app_id="77", key="shop-key")[0]


def page(app, step="change"):
    return f"{LIST}{app.pk}/{step}/"


def form(**fields):
    written = {
        "name": "shop",
        "app_id": "77",
        "key": "shop-key",
        "enabled": "on",
        "client_event_rate": "10/s",
        "max_event_size": "10240",
        "max_members": "100",
        "activity_timeout": "30",
        "webhooks": "[]",
    }
    return {**written, **fields}


def shown_secret(response):
    secrets = re.findall(r"fws_[A-Za-z0-9_-]{43}", text_of(response))
    assert len(secrets) == 1
    return secrets[0]


@pytest.mark.repeats
def test_the_answer_to_creating_an_app_shows_its_secret_once(admin, caplog):
    with every_log_line(caplog) as lines:
        response = admin.post(ADD, form())
    app, secret = PusherApp.objects.get(), shown_secret(response)
    assert app.secret == secret and app.encryption_master_key in text_of(response)
    assert app.key in text_of(response) and app.app_id in text_of(response)
    assert "no-store" in response["Cache-Control"]
    pages = [admin.get(url).content.decode() for url in (LIST, page(app), page(app, "secret"))]
    assert secret not in "\n".join([*pages, *lines, database_dump()])


def test_a_new_app_is_offered_with_an_id_and_a_key_and_one_way_of_saving(admin):
    shown = text_of(admin.get(ADD))
    assert re.search(r'name="app_id" value="\d{10,11}"', shown)
    assert re.search(r'name="key" value="[0-9a-f]{20}"', shown)
    assert "_continue" not in shown and 'name="_save"' in shown


def test_what_an_app_of_the_settings_has_is_not_given_again(admin, settings):
    apps = [{"ID": "1", "KEY": "app-key", "SECRET": "s" * 32}]
    settings.FILTERED_WEBSOCKET = {**SITE, "PUSHER_APPS": apps}
    shown = text_of(admin.post(ADD, form(app_id="1", key="app-key")))
    assert shown.count("An app of PUSHER_APPS has it.") == 2
    assert not PusherApp.objects.exists()
    shown = text_of(admin.post(ADD, form(key="")))
    assert "An app of PUSHER_APPS" not in shown and "errorlist" in shown


def test_id_key_and_secret_are_not_changed_with_the_rest(admin, app):
    stored = app.encrypted_secret
    response = admin.post(page(app), form(name="market", app_id="78", key="other"))
    assert response.status_code == 302
    again = PusherApp.objects.get()
    assert (again.name, again.app_id, again.key) == ("market", "77", "shop-key")
    assert again.encrypted_secret == stored


def test_a_change_does_not_undo_what_happens_meanwhile(admin, app, monkeypatch):
    save = PusherApp.save

    def late_save(self, **how):
        PusherApp.objects.update(enabled=False)
        save(self, **how)

    monkeypatch.setattr(PusherApp, "save", late_save)
    admin.post(page(app), form(name="market"))
    again = PusherApp.objects.get()
    assert (again.name, again.enabled) == ("market", False)


def test_a_new_secret_is_asked_for_first_and_shown_once(admin, app):
    assert page(app, "secret") in text_of(admin.get(page(app)))
    assert "what the old one has signed" in text_of(admin.get(page(app, "secret"))).lower()
    assert PusherApp.objects.get().encrypted_secret == app.encrypted_secret
    response = admin.post(page(app, "secret"))
    assert PusherApp.objects.get().secret == shown_secret(response)
    assert [entry.change_message for entry in LogEntry.objects.all()] == ["Made a new secret."]


def test_a_lost_secret_is_replaced_and_its_app_can_be_changed(admin, app, settings):
    settings.SECRET_KEY = "another"
    browser = browser_of(admin_user("second"))
    assert browser.post(page(app), form(name="market")).status_code == 302
    assert PusherApp.objects.get().name == "market"
    secret = shown_secret(browser.post(page(app, "secret")))
    assert PusherApp.objects.get().secret == secret


def test_saving_encrypts_a_secret_again_that_an_old_key_has_encrypted(admin, app, settings):
    secret = app.secret
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    browser = browser_of(admin_user("second"))
    browser.post(page(app), form())
    settings.SECRET_KEY_FALLBACKS = []
    assert PusherApp.objects.get().secret == secret


def test_the_secrets_of_many_apps_are_encrypted_again(app, settings):
    other, secret = PusherApp.objects.create_app(name="market")
    old, settings.SECRET_KEY = settings.SECRET_KEY, "another"
    new, _ = PusherApp.objects.create_app(name="new")
    settings.SECRET_KEY_FALLBACKS = [old]
    stored = PusherApp.objects.get(pk=new.pk).encrypted_secret
    PusherApp.objects.filter(pk=app.pk).update(encrypted_secret="lost")
    chosen = {
        "action": "encrypt_selected",
        "_selected_action": [one.pk for one in (app, other, new)],
    }
    response = browser_of(admin_user("second")).post(LIST, chosen)
    assert notices(response) == [
        "“shop (77)” needs a new secret: its own cannot be decrypted.",
        "1 secret was encrypted again.",
    ]
    settings.SECRET_KEY_FALLBACKS = []
    assert PusherApp.objects.get(pk=other.pk).secret == secret
    assert PusherApp.objects.get(pk=new.pk).encrypted_secret == stored
    told = [(one.object_id, one.change_message) for one in LogEntry.objects.all()]
    assert told == [(str(other.pk), "Encrypted its secret again.")]
    viewer = staff("view_pusherapp")
    assert "encrypt_selected" not in text_of(viewer.get(LIST))


def test_that_does_not_undo_a_new_secret(admin, app, settings, monkeypatch):
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "another"
    browser, save, made = browser_of(admin_user("second")), PusherApp.save, []

    def late_save(self, **how):
        monkeypatch.undo()
        other = PusherApp.objects.get()
        made.append(other.set_new_secret())
        save(other, update_fields=["encrypted_secret"])
        save(self, **how)

    monkeypatch.setattr(PusherApp, "save", late_save)
    browser.post(page(app), form(name="market"))
    again = PusherApp.objects.get()
    assert [again.secret] == made and again.name == "market"


def admin_user(name):
    return User.objects.create_superuser(name)


@pytest.mark.parametrize("ask", ["get", "post"])
def test_a_new_secret_needs_the_permission_to_change_the_app(app, ask):
    stored = app.encrypted_secret
    viewer = staff("view_pusherapp", "add_pusherapp", "delete_pusherapp")
    assert getattr(viewer, ask)(page(app, "secret")).status_code == 403
    assert page(app, "secret") not in text_of(viewer.get(page(app)))
    assert PusherApp.objects.get().encrypted_secret == stored


def test_an_app_that_is_not_there_is_not_found(admin):
    assert admin.get(LIST + "7/secret/").status_code == 404


def test_who_may_not_see_apps_is_led_to_the_index():
    assert 'href="/admin/">Done' in text_of(staff("add_pusherapp").post(ADD, form()))


def test_it_is_offered_only_where_the_site_has_such_apps(admin, app, settings):
    assert "Pusher apps" in text_of(admin.get("/admin/"))
    settings.FILTERED_WEBSOCKET = {}
    assert "Pusher apps" not in text_of(admin.get("/admin/"))
    for path in (LIST, ADD, page(app), page(app, "secret"), page(app, "delete")):
        assert admin.get(path).status_code == 403


def test_a_mistake_in_the_settings_is_told_in_the_form(admin, settings):
    settings.FILTERED_WEBSOCKET = {**SITE, "PUSHER_APPS": [{"ID": 7}]}
    response = admin.post(ADD, form())
    assert response.status_code == 200 and "PUSHER_APPS" in text_of(response)
    assert not PusherApp.objects.exists()


def test_a_mistake_makes_no_app_and_no_notice(admin):
    response = admin.post(ADD, form(webhooks='[{"URL": "ftp://a"}]'))
    assert "Write a list of webhooks" in text_of(response) and notices(response) == []
    assert not PusherApp.objects.exists()


@pytest.mark.parametrize("text", ["", "null", "[]"])
def test_an_app_may_have_no_webhooks(admin, app, text):
    assert admin.post(page(app), form(name="market", webhooks=text)).status_code == 302
    again = PusherApp.objects.get()
    assert (again.name, again.webhooks) == ("market", [])
    assert shown_secret(admin.post(ADD, form(app_id="78", key="other", webhooks=text)))
    assert PusherApp.objects.get(app_id="78").webhooks == []
