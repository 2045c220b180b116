"""Who may call the API."""

import datetime

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from filtered_websocket.api import keys
from filtered_websocket.auth.throttle import Throttle
from filtered_websocket.models import Token

from .calling import KEY, SITE, ask, error, post, result


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(keys, "_throttle", Throttle())
    keys._known.clear()
    keys._buckets.cache_clear()


def status(**headers):
    return post("info", key=None, **headers).status_code


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": KEY},
        {"Authorization": f"apikey {KEY}"},
        {"Authorization": f"APIKey  {KEY} "},
        {"X-API-Key": KEY, "Authorization": "Basic eA=="},
    ],
)
def test_the_key_is_given_in_either_header(headers):
    assert status(**headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": KEY[:-1]},
        {"X-API-Key": KEY.upper()},
        {"Authorization": f"Bearer {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "apikey"},
        # The first one counts.
        {"X-API-Key": "other", "Authorization": f"apikey {KEY}"},
    ],
)
def test_without_a_good_key_the_answer_is_401(headers):
    response = post("info", key=None, **headers)
    assert (response.status_code, response["WWW-Authenticate"]) == (401, "apikey")
    assert KEY[:-1] not in response.content.decode()


def test_a_key_in_the_address_is_none():
    assert post(f"info?api_key={KEY}", key=None).status_code == 401


@pytest.mark.parametrize("configured", [None, [], "", [""]])
def test_without_a_key_in_the_settings_nobody_has_one(site, configured):
    site.FILTERED_WEBSOCKET = SITE | {"API_KEY": configured}
    assert status(**{"X-API-Key": KEY}) == 401 and status(**{"X-API-Key": ""}) == 401


def test_there_may_be_several_keys_while_one_is_replaced(site):
    site.FILTERED_WEBSOCKET = SITE | {"API_KEY": ["new-key", KEY]}
    assert status(**{"X-API-Key": KEY}) == status(**{"X-API-Key": "new-key"}) == 200
    assert status(**{"X-API-Key": "other"}) == 401


def test_all_keys_are_compared_in_constant_time(site, monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(keys, "constant_time_compare", compare)
    site.FILTERED_WEBSOCKET = SITE | {"API_KEY": [KEY, "a", "longer than the others"]}
    assert status(**{"X-API-Key": KEY}) == 200
    assert len(compared) == 3 and {len(text) for pair in compared for text in pair} == {64}


def test_bad_keys_are_limited_by_address_and_good_ones_are_not(site):
    site.FILTERED_WEBSOCKET = SITE | {"GUESS_LIMIT": 3}
    assert [status(**{"X-API-Key": f"guess {n}"}) for n in range(5)] == [401] * 3 + [429] * 2
    assert status(**{"X-API-Key": KEY}) == 200
    # Nobody has guessed anything: a key is missing.
    assert status() == 401


def test_addresses_are_told_apart_behind_a_proxy(site):
    site.FILTERED_WEBSOCKET = SITE | {"GUESS_LIMIT": 1, "TRUSTED_PROXIES": 1}
    bad = {"X-API-Key": "bad"}
    assert [status(**bad, **{"X-Forwarded-For": "192.0.2.1"}) for _ in range(2)] == [401, 429]
    assert status(**bad, **{"X-Forwarded-For": "192.0.2.2"}) == 401


# Tokens


@pytest.fixture
def make(db):
    def make(**fields):
        return Token.objects.create_key(name="backend", **{"can_call_api": True, **fields})

    return make


def test_a_token_that_may_call_the_api_has_a_good_key(make):
    token, key = make()
    assert ask_with(key).status_code == 200
    token.refresh_from_db()
    assert token.last_used is not None


def ask_with(key):
    return post("info", key=key)


def test_when_a_token_was_used_is_written_once_a_minute(make, django_assert_num_queries):
    _, key = make()
    ask_with(key)
    with django_assert_num_queries(1):
        ask_with(key)
    Token.objects.update(last_used=timezone.now() - datetime.timedelta(minutes=2))
    with django_assert_num_queries(2):
        ask_with(key)


def test_other_tokens_may_not(make):
    _, key = make(can_call_api=False)
    assert ask_with(key).status_code == 401
    token, key = make()
    token.revoke()
    assert ask_with(key).status_code == 401
    user = User.objects.create(username="ann", is_active=False)
    assert ask_with(make(user=user)[1]).status_code == 401
    assert not Token.objects.exclude(last_used=None).exists()


def test_a_key_that_does_not_look_like_one_is_never_looked_up(db, django_assert_num_queries):
    with django_assert_num_queries(0):
        assert ask_with("not a key of a token").status_code == 401


def test_who_guesses_keeps_no_token_out_that_was_used_before(site, make, monkeypatch):
    site.FILTERED_WEBSOCKET = SITE | {"GUESS_LIMIT": 1}
    monkeypatch.setattr(keys, "MAX_KNOWN", 1)
    token, key = make()
    _, other = make()
    assert ask_with(other).status_code == ask_with(key).status_code == 200
    assert ask_with("a guess").status_code == 401
    assert (ask_with(key).status_code, ask_with(other).status_code) == (200, 429)
    token.revoke()
    assert (ask_with(key).status_code, ask_with(key).status_code) == (401, 429)


def test_while_the_database_is_away_the_answer_says_so_and_no_log_has_the_key(
    make, monkeypatch, caplog
):
    _, key = make()

    def find(text):
        raise ConnectionError("no database")

    monkeypatch.setattr(Token.objects, "find", find)
    response = ask_with(key)
    assert (response.status_code, str(key) in response.content.decode()) == (503, False)
    assert "no database" in caplog.text and str(key) not in caplog.text


# How many commands


def test_a_caller_gets_error_111_above_the_rate(site):
    site.FILTERED_WEBSOCKET = SITE | {"API_RATE": "2/h"}
    assert [list(ask("info")) for _ in range(2)] == [["result"]] * 2
    code, message = error("info")
    assert code == 111 and "API_RATE" in message
    commands = [{"info": {}}]
    assert ask("batch", commands=commands)["replies"][0]["error"]["code"] == 111


def test_each_caller_has_a_rate_of_its_own(site, make):
    site.FILTERED_WEBSOCKET = SITE | {"API_RATE": "1/h"}
    _, key = make()
    assert list(ask("info")) == list(ask_with(key).json()) == ["result"]
    assert list(ask("info")) == list(ask_with(key).json()) == ["error"]


def test_without_a_rate_there_is_no_limit(site):
    site.FILTERED_WEBSOCKET = SITE | {"API_RATE": None}
    commands = [{"info": {}}] * 1200
    replies = ask("batch", commands=commands)["replies"]
    assert replies == [{"info": result("info")}] * 1200
