"""Where clients of Pusher have their subscriptions signed."""

import base64
import json

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings
from django.urls import include, path

from filtered_websocket import NotAllowed
from filtered_websocket.auth.throttle import Throttle
from filtered_websocket.groups import group
from filtered_websocket.models import Token
from filtered_websocket.pusher import views
from filtered_websocket.pusher.apps import app_of_id

from .clients import with_app

MASTER = base64.b64encode(bytes(32)).decode()


def is_ann(connection, **captured):
    if captured.get("room") == "never":
        raise NotAllowed("never")
    return connection.user.username == "ann"


async def is_ann_later(connection):
    return connection.user.username == "ann"


def is_ann_blocking(connection):
    return User.objects.filter(pk=connection.user.pk, username="ann").exists()


def is_device(connection):
    return connection.token is not None and connection.token.name == "device"


is_ann_blocking.blocking = True
grouppatterns = [
    group("private-room-<room>", join=is_ann),
    group("private-later", join=is_ann_later),
    group("private-blocking", join=is_ann_blocking),
    group("private-permitted", join="auth.view_user"),
    group("private-closed", join=False),
    group("private-device", join=is_device),
    group("private-encrypted-a"),
    group("private-open"),
    group("presence-open"),
    group("2:private-room-<room>", join=is_ann),
]
urlpatterns = [
    path("pusher/", include("filtered_websocket.pusher.views")),
    path("other/", include("filtered_websocket.pusher.views"), {"app_id": "2"}),
    path("none/", include("filtered_websocket.pusher.views"), {"app_id": "9"}),
]
SOCKET = "1234.1234"


@pytest.fixture(autouse=True)
def site(settings, db, monkeypatch):
    monkeypatch.setattr(views, "_throttle", Throttle())
    settings.ROOT_URLCONF = __name__
    settings.FILTERED_WEBSOCKET = with_app(site={"GROUPS": __name__})


@pytest.fixture
def ann():
    return logged_in("ann")


def logged_in(name, **options):
    client = Client(**options)
    client.force_login(User.objects.create_user(name))
    return client


def ask(client, channel, where="/pusher/auth", socket_id=SOCKET, **more):
    return client.post(where, {"socket_id": socket_id, "channel_name": channel}, **more)


@pytest.mark.parametrize(
    "channel", ["private-room-1", "private-later", "private-blocking", "private-permitted"]
)
def test_the_rule_of_the_group_says_who_may_subscribe(ann, channel):
    user = User.objects.get(username="ann")
    user.user_permissions.add(Permission.objects.get(codename="view_user"))
    response = ask(ann, channel)
    assert response.status_code == 200
    auth = app_of_id("1").authorize(f"{SOCKET}:{channel}")
    assert response.json() == {"auth": auth}
    assert ask(logged_in("bob"), channel).status_code == 403
    assert ask(Client(), channel).status_code == 403


def test_who_may_not_subscribe(ann):
    assert ask(ann, "private-closed").content == b"not allowed\n"
    assert ask(ann, "private-room-never").status_code == 403
    refused = ask(ann, "private-undeclared")
    assert refused.status_code == 403 and b"no group rule in GROUPS names" in refused.content
    with override_settings(FILTERED_WEBSOCKET=with_app()):
        assert ask(ann, "private-open").status_code == 403


def test_mistakes_in_a_request(ann):
    assert ask(ann, "news").status_code == 400
    assert ask(ann, "private-a b").status_code == 400
    assert ask(ann, "private-open", socket_id="1234").status_code == 400
    assert ann.get("/pusher/auth").status_code == 405
    assert ask(ann, "private-open", "/none/auth").status_code == 404
    with override_settings(FILTERED_WEBSOCKET={"PUSHER_APPS": []}):
        assert ask(ann, "private-open").status_code == 404


def test_in_a_channel_with_presence_a_user_is_named(ann):
    user = User.objects.get(username="ann")
    answer = ask(ann, "presence-open").json()
    assert json.loads(answer["channel_data"]) == {"user_id": str(user.pk)}
    signed = f"{SOCKET}:presence-open:{answer['channel_data']}"
    assert answer["auth"] == app_of_id("1").authorize(signed)
    assert ask(Client(), "presence-open").status_code == 403
    shown = with_app(USER_INFO=lambda user: {"name": user.username}, site={"GROUPS": __name__})
    with override_settings(FILTERED_WEBSOCKET=shown):
        answer = ask(ann, "presence-open").json()
    assert json.loads(answer["channel_data"])["user_info"] == {"name": "ann"}


def test_an_encrypted_channel_has_a_key(ann, settings):
    assert ask(ann, "private-encrypted-a").status_code == 400
    settings.FILTERED_WEBSOCKET = with_app(ENCRYPTION_MASTER_KEY=MASTER, site={"GROUPS": __name__})
    answer = ask(ann, "private-encrypted-a").json()
    assert answer["shared_secret"] == app_of_id("1").shared_secret("private-encrypted-a")


def test_users_sign_in(ann):
    user = User.objects.get(username="ann")
    answer = ann.post("/pusher/user-auth", {"socket_id": SOCKET}).json()
    assert json.loads(answer["user_data"]) == {"id": str(user.pk)}
    signed = f"{SOCKET}::user::{answer['user_data']}"
    assert answer["auth"] == app_of_id("1").authorize(signed)
    assert Client().post("/pusher/user-auth", {"socket_id": SOCKET}).status_code == 403


def test_another_app_signs_with_its_own_secret(ann):
    answer = ask(ann, "private-room-1", "/other/auth").json()
    assert answer["auth"] == app_of_id("2").authorize(f"{SOCKET}:private-room-1")


@pytest.mark.parametrize("header", ["X-CSRFToken", "X-CSRF-TOKEN"])
def test_a_page_sends_its_token_in_either_header(header):
    client = logged_in("ann", enforce_csrf_checks=True)
    assert ask(client, "private-room-1").status_code == 403
    token = "a" * 32
    client.cookies["csrftoken"] = token
    good = ask(client, "private-room-1", headers={header: token})
    assert good.status_code == 200
    bad = ask(client, "private-room-1", headers={header: "b" * 32})
    assert bad.status_code == 403


def test_answers_are_kept_nowhere(ann):
    assert "no-store" in ask(ann, "private-open")["Cache-Control"]
    assert views.auth.login_required is False


# A token instead of a cookie


def by_token(key, channel="presence-open", scheme="Bearer", **options):
    client = Client(enforce_csrf_checks=True, **options)
    return ask(client, channel, headers={"authorization": f"{scheme} {key}"})


@pytest.mark.parametrize("scheme", ["Bearer", "Token", "bearer"])
def test_an_app_without_cookies_sends_a_token(scheme):
    ann = User.objects.create_user("ann")
    _, key = Token.objects.create_key(name="app", user=ann)
    answer = by_token(key, scheme=scheme).json()
    assert json.loads(answer["channel_data"]) == {"user_id": str(ann.pk)}
    assert by_token(key, "private-room-1", scheme).status_code == 200
    assert by_token(key, "private-closed", scheme).status_code == 403


def test_a_token_comes_before_a_session(ann):
    bob = User.objects.create_user("bob")
    _, key = Token.objects.create_key(name="app", user=bob)
    answer = ask(ann, "presence-open", headers={"authorization": f"Bearer {key}"}).json()
    assert json.loads(answer["channel_data"]) == {"user_id": str(bob.pk)}


def test_rules_see_the_token():
    token, key = Token.objects.create_key(name="device")
    assert by_token(key, "private-device").status_code == 200
    token.name = "other"
    token.save()
    assert by_token(key, "private-device").status_code == 403
    assert by_token(key).content == b"nobody is logged in\n"


def test_a_token_that_is_not_valid_is_refused_whoever_is_logged_in(ann, caplog):
    token, key = Token.objects.create_key(name="app", user=User.objects.get())
    token.revoke()
    for bad in (key, "nonsense", ""):
        response = ask(ann, "presence-open", headers={"authorization": f"Bearer {bad}"})
        assert (response.status_code, response.content) == (401, b"the token is not valid\n")
    assert str(key) not in caplog.text


def test_a_token_that_may_not_subscribe():
    _, key = Token.objects.create_key(name="sensor", can_subscribe=False)
    assert by_token(key, "private-open").content == b"this token may not subscribe\n"


def test_another_scheme_is_no_token(ann):
    assert ask(ann, "presence-open", headers={"authorization": "Basic YTpi"}).status_code == 200
    assert by_token("YTpi", scheme="Basic").status_code == 403  # and needs the CSRF token


def test_who_guesses_is_refused_without_a_query(settings, django_assert_num_queries):
    settings.FILTERED_WEBSOCKET = with_app(site={"GROUPS": __name__, "GUESS_LIMIT": 2})
    for _ in range(2):
        assert by_token("fws_" + "a" * 43).status_code == 401
    with django_assert_num_queries(0):
        assert by_token("fws_" + "b" * 43).status_code == 429


def test_where_the_site_takes_no_tokens_in_headers_none_is_looked_at(settings):
    site = {"GROUPS": __name__, "AUTHENTICATORS": ["filtered_websocket.auth.SessionAuthenticator"]}
    settings.FILTERED_WEBSOCKET = with_app(site=site)
    _, key = Token.objects.create_key(name="app", user=User.objects.create_user("ann"))
    assert by_token(key).status_code == 403


def test_where_the_database_does_not_answer_nobody_is_refused_for_good(monkeypatch, caplog):
    monkeypatch.setattr(Token.objects, "find", lambda key: 1 / 0)
    _, key = Token.objects.create_key(name="app")
    assert by_token(key).status_code == 503
    assert "cannot look a token up" in caplog.text and str(key) not in caplog.text
