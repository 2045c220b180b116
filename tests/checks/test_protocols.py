"""System checks of protocols, and of the tokens that their clients send."""

import weakref

import pytest

from filtered_websocket.checks import protocols
from filtered_websocket.checks.protocols import check_protocols
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import group
from filtered_websocket.pipelines import route as route_module
from filtered_websocket.pipelines.route import known_routes

pytest.importorskip("jwt")

RULES = [group("news")]
SECRET = "s" * 64


@pytest.fixture(autouse=True)
def no_other_routes(monkeypatch):
    monkeypatch.setattr(route_module, "_routes", weakref.WeakSet())


def found():
    return [(message.id.partition(".")[2], message.msg) for message in check_protocols()]


def route(**options):
    return FilteredWebSocketConsumer.as_asgi(filters=[], protocol="centrifuge", **options)


def test_a_route_with_rules_and_a_good_key_are_no_mistake(settings):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": SECRET, "JWT_USER": len}
    kept = route(group_rules=RULES), FilteredWebSocketConsumer.as_asgi(filters=[])
    assert kept and found() == []


def test_a_route_without_rules_is_named(settings):
    kept = route()
    [(number, message)] = found()
    assert number == "W021" and "a route speak 'centrifuge'" in message
    assert kept


def test_a_path_is_named():
    kept = route()
    [known] = [one for one in known_routes() if one.protocol is not None]
    known.paths.append("/connection/websocket")
    [(_, message)] = found()
    assert "the route at /connection/websocket speak" in message
    assert kept


def test_a_codec_is_not_used():
    kept = route(group_rules=RULES, codec="filtered_websocket.json_codec.JSONCodec")
    [(number, message)] = found()
    assert number == "W022" and "codec" in message
    assert kept


def test_what_cannot_be_built_is_reported_by_another_check():
    kept = route(group_rules=[3], build=False)
    assert found() == []
    assert kept


@pytest.mark.parametrize(("algorithm", "size"), [("HS256", 31), ("HS384", 47), ("HS512", 63)])
def test_a_short_secret_is_a_warning(settings, algorithm, size):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": "s" * size, "JWT_ALGORITHM": algorithm}
    [(number, message)] = found()
    assert number == "W020" and f"has {size} bytes" in message and "sss" not in message
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": "s" * (size + 1), "JWT_ALGORITHM": algorithm}
    assert found() == []


PUBLIC = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [("RS256", SECRET), ("ES256", SECRET), ("EdDSA", SECRET), ("HS256", PUBLIC)],
)
def test_a_key_that_does_not_fit_is_an_error(settings, algorithm, key):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": key, "JWT_ALGORITHM": algorithm}
    [(number, message)] = found()
    assert number == "E028" and repr(algorithm) in message and key not in message


def test_a_key_without_pyjwt_is_an_error(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": SECRET}
    monkeypatch.setattr(protocols, "has_jwt", lambda: False)
    assert [number for number, _ in found()] == ["E027"]


def test_what_finds_users_has_to_be_there(settings):
    settings.FILTERED_WEBSOCKET = {"JWT_USER": "nowhere.find"}
    [(number, message)] = found()
    assert number == "E029" and "nowhere" in message


def test_a_value_of_another_type_is_reported_by_another_check(settings):
    settings.FILTERED_WEBSOCKET = {"JWT_KEY": 5, "JWT_USER": "nowhere.find"}
    assert found() == []
