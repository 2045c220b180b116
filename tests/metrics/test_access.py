"""Who sees the metrics."""

import pytest
from django.contrib.auth.models import Permission, User
from django.test import AsyncClient, Client

from filtered_websocket.logs import LogThrottle
from filtered_websocket.metrics import access

from ..snippets import named

pytestmark = [pytest.mark.urls("filtered_websocket.urls"), pytest.mark.django_db]


def status(client=None, **meta):
    return (client or Client()).get("/metrics", **meta).status_code


def test_by_default_nobody_does():
    assert status() == 404
    assert Client().head("/metrics").status_code == 404


def test_who_is_in_an_allowed_network_does(settings):
    settings.FILTERED_WEBSOCKET = {"METRICS_ALLOWED": ["192.0.2.0/24", "10.0.0.7", "fd00::/16"]}
    for address, answer in {
        "192.0.2.77": 200,
        "192.0.3.1": 404,
        "10.0.0.7": 200,
        "10.0.0.8": 404,
        "::ffff:10.0.0.7": 200,
        "fd00::1": 200,
        "fd01::1": 404,
        "": 404,
        "nonsense": 404,
    }.items():
        assert status(REMOTE_ADDR=address) == answer, address
    answer = Client().get("/metrics", REMOTE_ADDR="10.0.0.7")
    assert answer["Cache-Control"] == "no-store" and answer["Content-Type"].startswith("text/plain")
    assert "fws_connections" in answer.content.decode()
    assert Client().post("/metrics", REMOTE_ADDR="10.0.0.7").status_code == 405
    assert Client().head("/metrics", REMOTE_ADDR="10.0.0.7").status_code == 200


async def test_on_an_event_loop_too(settings):
    settings.FILTERED_WEBSOCKET = {"METRICS_ALLOWED": ["127.0.0.0/8"]}
    answer = await AsyncClient().get("/metrics")
    assert answer.status_code == 200 and b"fws_connections" in answer.content


def test_one_address_of_a_network_of_ipv6_is_not_all_of_it(settings):
    settings.FILTERED_WEBSOCKET = {"METRICS_ALLOWED": ["2001:db8::7"]}
    assert status(REMOTE_ADDR="2001:db8::7") == 200
    assert status(REMOTE_ADDR="2001:db8::8") == 404


def test_behind_a_proxy_the_address_is_the_one_that_it_saw(settings):
    chosen = {"METRICS_ALLOWED": ["10.0.0.7", "127.0.0.1"]}
    settings.FILTERED_WEBSOCKET = {**chosen, "TRUSTED_PROXIES": 1}
    assert status(HTTP_X_FORWARDED_FOR="10.0.0.7") == 200
    assert status(HTTP_X_FORWARDED_FOR="10.0.0.7, 198.51.100.1") == 404
    assert status(HTTP_X_FORWARDED_FOR="198.51.100.1, 10.0.0.7") == 200
    # It came past the proxy.
    assert status() == 200


def test_who_comes_through_a_proxy_that_nobody_has_told_of_is_in_no_network(settings):
    settings.FILTERED_WEBSOCKET = {"METRICS_ALLOWED": ["0.0.0.0/0"]}
    assert status() == 200
    assert status(HTTP_X_FORWARDED_FOR="127.0.0.1") == 404


@pytest.mark.parametrize(
    ("is_staff", "is_active", "has_permission", "answer"),
    [
        (True, True, True, 200),
        (False, True, True, 404),
        (True, False, True, 404),
        (True, True, False, 404),
    ],
)
def test_staff_with_the_permission_does(is_staff, is_active, has_permission, answer):
    ann = User.objects.create(username="ann", is_staff=is_staff, is_active=is_active)
    if has_permission:
        ann.user_permissions.add(Permission.objects.get(codename="view_console"))
    client = Client()
    client.force_login(ann)
    assert status(client, HTTP_X_FORWARDED_FOR="192.0.2.1") == answer


def test_without_users_nobody_is_staff(rf, settings):
    assert not access.may_see(rf.get("/metrics"))


def test_where_nothing_is_installed_who_may_see_them_gets_404_and_the_log_a_line(
    settings, monkeypatch, caplog
):
    monkeypatch.setattr(access, "find_spec", lambda name: None)
    monkeypatch.setattr(access, "_throttle", LogThrottle())
    assert status() == 404
    settings.FILTERED_WEBSOCKET = {"METRICS_ALLOWED": ["127.0.0.1"]}
    assert status() == status() == 404
    lines = [one.getMessage() for one in caplog.records if one.name == access.__name__]
    assert lines == [
        "no metrics are shown: prometheus-client is not installed"
        " (pip install 'filtered-websocket[metrics]')"
    ]


def test_the_documented_settings_are_enough(settings):
    blocks = named("docs/metrics.md")
    exec(blocks["metrics: urls.py"], urls := {})
    exec(blocks["metrics: settings.py"], chosen := {})
    settings.FILTERED_WEBSOCKET = chosen["FILTERED_WEBSOCKET"]
    settings.ROOT_URLCONF = type("urls", (), {"urlpatterns": urls["urlpatterns"]})
    answer = Client().get("/fws/metrics", REMOTE_ADDR="10.20.30.40")
    assert answer.status_code == 200
