"""Who may call the HTTP API of Pusher Channels: signed requests."""

import time
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from django.db import transaction
from django.test import Client
from django.urls import include, path, resolve

from filtered_websocket.api import pusher
from filtered_websocket.api.pusher import urlpatterns as api
from filtered_websocket.api.requests import ApiError

from .pusher_calling import SITE, URLS, answer, call, get, post, sign, signed

urlpatterns = [path("ws/", include(api))]


@pytest.fixture(autouse=True)
def site(settings):
    settings.FILTERED_WEBSOCKET = SITE
    settings.ROOT_URLCONF = URLS


BODY = {"name": "e", "data": "{}", "channel": "news"}


def test_the_vector_of_the_documentation():
    query = {
        "auth_key": "278d425bdf160c739803",
        "auth_timestamp": "1353088179",
        "auth_version": "1.0",
        "body_md5": "ec365a775a4cd0599faeb73354201b6f",
    }
    signature = sign("POST", "/apps/3/events", query, "7ad3773142a6692b25b8")
    assert signature == "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"


def test_a_signed_request_passes_without_a_login_and_a_csrf_token(db):
    assert answer(post("/apps/1/events", BODY)) == {}
    assert answer(get("/apps/1/channels")) == {"channels": {}}
    view = resolve("/apps/1/events").func
    assert view.login_required is False and view._non_atomic_requests == {"default"}
    query = urlencode(signed("GET", "/apps/1/channels"))
    strict = Client(enforce_csrf_checks=True)
    assert strict.get(f"/apps/1/channels?{query}")["Cache-Control"].count("no-store")
    assert strict.delete(f"/apps/1/channels?{query}").status_code == 405
    assert transaction.get_connection().in_atomic_block


WRONG = [
    ({"auth_key": "other-key"}, 401),
    ({"auth_key": None}, 401),
    ({"auth_version": "2.0"}, 401),
    ({"auth_version": None}, 401),
    ({"auth_timestamp": str(int(time.time()) - 3600)}, 401),
    ({"auth_timestamp": "soon"}, 401),
    ({"auth_timestamp": None}, 401),
    ({"auth_timestamp": "9" * 30}, 401),
    ({"body_md5": "0" * 32}, 401),
    ({"body_md5": "ü"}, 401),
    ({"body_md5": None}, 401),
]


@pytest.mark.parametrize(("query", "status"), WRONG)
def test_a_request_that_is_not_signed_well(query, status):
    assert call("POST", "/apps/1/events", BODY, **query).status_code == status


@pytest.mark.parametrize("fraction", [0.0, 0.9])
@pytest.mark.parametrize(
    ("ahead", "status"),
    [(-601, 401), (-600, 200), (-599, 200), (0, 200), (599, 200), (600, 200), (601, 401)],
)
def test_a_signature_is_good_for_600_seconds_before_and_after(ahead, status, fraction, monkeypatch):
    now = 1_800_000_000
    monkeypatch.setattr(pusher, "time", SimpleNamespace(time=lambda: now + fraction))
    response = get("/apps/1/channels", auth_timestamp=str(now + ahead))
    assert response.status_code == status
    if status == 401:
        said = f"auth_timestamp is {now + ahead}, and our clock {now}\n"
        assert response.content.decode() == said


def test_a_signature_of_another_request_or_app():
    for query in (
        signed("GET", "/apps/1/channels/news"),
        signed("POST", "/apps/1/channels"),
        {**signed("GET", "/apps/1/channels"), "more": "1"},
        {**signed("GET", "/apps/1/channels"), "auth_signature": "ü"},
        {**signed("GET", "/apps/1/channels", app=2)},
        {},
    ):
        response = Client().get(f"/apps/1/channels?{urlencode(query)}")
        assert response.status_code == 401
    assert get("/apps/9/channels", app=1).status_code == 404
    assert get("/apps/3/channels", app=3).status_code == 403
    assert get("/apps/2/channels", app=2).status_code == 200


def test_whatever_parameters_came_are_signed():
    """Packages sign the body of a GET, and fields that the server does not know."""
    empty = "d41d8cd98f00b204e9800998ecf8427e"
    assert answer(get("/apps/1/channels", body_md5=empty, Zeta="a b&=", info="")) == {
        "channels": {}
    }
    query = signed("GET", "/apps/1/channels", **{"info": "user_count,subscription_count"})
    several = urlencode({key: value for key, value in query.items() if key != "info"})
    several += "&filter_by_prefix=&info=user_count&info=subscription_count"
    response = Client().get(f"/apps/1/channels?{several}")
    assert response.status_code == 401  # filter_by_prefix is signed as well
    query = signed(
        "GET",
        "/apps/1/channels",
        **{"info": "user_count,subscription_count", "filter_by_prefix": "presence-"},
    )
    several = urlencode({key: value for key, value in query.items() if key != "info"})
    several += "&info=user_count&info=subscription_count"
    assert answer(Client().get(f"/apps/1/channels?{several}")) == {"channels": {}}


def test_below_another_path_that_is_signed_or_not(settings):
    settings.ROOT_URLCONF = __name__
    assert answer(get("/apps/1/channels", prefix="/ws")) == {"channels": {}}
    assert answer(get("/ws/apps/1/channels")) == {"channels": {}}


def test_a_body_that_is_no_json_object_or_too_long(settings):
    for body in (b"{", b"[]", b"\xff"):
        query = urlencode(signed("POST", "/apps/1/events", body))
        response = Client().post(f"/apps/1/events?{query}", body, "application/json")
        assert response.status_code == 400
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
    assert post("/apps/1/events", BODY).status_code == 413


@pytest.mark.parametrize("error", [ApiError(100, "away"), ConnectionError("away")])
def test_a_layer_that_does_not_answer(monkeypatch, error, caplog):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(pusher.calls, "presence", fail)
    monkeypatch.setattr(pusher, "_throttle", pusher.LogThrottle())
    for _ in range(2):
        response = get("/apps/1/channels/presence-a/users")
        assert response.status_code == 503 and b"away" in response.content
    assert caplog.text.count("the Pusher API's call users failed") == 1
