"""JSON Web Tokens: who connects, and what may be subscribed."""

import base64
import datetime
import time

import pytest
from django.test import override_settings

from filtered_websocket.codecs.data import Data
from filtered_websocket.conf import SettingError
from filtered_websocket.protocols import tokens
from filtered_websocket.protocols.codes import ReplyError
from filtered_websocket.protocols.tokens import InvalidToken, load_users, read_token
from filtered_websocket.types import TokenUser

jwt = pytest.importorskip("jwt")

KEY = "a key that is long enough for HS256, and for HS512 as well, which takes 64 bytes"


@pytest.fixture(autouse=True)
def key():
    with override_settings(FILTERED_WEBSOCKET={"JWT_KEY": KEY}):
        yield


def token(algorithm="HS256", key=KEY, **claims):
    return jwt.encode(claims, key, algorithm=algorithm)


def test_claims_are_read():
    claims = read_token(
        token(sub="42", channel="a", info={"x": 1}, channels=["b"], subs={"c": {}}, exp=2**40)
    )
    assert claims == ("42", "a", 2**40, Data(b'{"x":1}'), ("b", "c"))


def test_a_token_may_be_empty():
    assert read_token(token()) == ("", "", None, None, ())


def test_info_may_be_bytes():
    assert read_token(token(b64info=base64.b64encode(b"\xff").decode())).info == Data(b"\xff", "b")


@pytest.mark.parametrize(
    "claims",
    [
        *[{"channels": "a"}, {"channels": [1]}, {"subs": [1]}, {"channel": 1}],
        *[{"b64info": "%"}, {"b64info": 5}],
    ],
)
def test_claims_of_other_types_are_refused(claims):
    with pytest.raises(InvalidToken):
        read_token(token(**claims))


def test_an_expired_token_has_an_error_of_its_own():
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)
    with pytest.raises(ReplyError) as raised:
        read_token(token(sub="42", exp=past))
    assert raised.value.code == 109


@pytest.mark.parametrize("algorithm", ["HS512", "none"])
def test_the_algorithm_is_that_of_the_settings(algorithm):
    with pytest.raises(InvalidToken):
        read_token(token(algorithm, None if algorithm == "none" else KEY))


def test_a_token_with_another_key_is_refused():
    with pytest.raises(InvalidToken):
        read_token(token(key=KEY[::-1]))


def test_without_a_key_or_pyjwt_no_token_is_good(monkeypatch):
    good = token(sub="42")
    monkeypatch.setattr(tokens, "find_spec", lambda name: None)
    with pytest.raises(InvalidToken):
        read_token(good)
    monkeypatch.undo()
    with override_settings(FILTERED_WEBSOCKET={}), pytest.raises(InvalidToken):
        read_token(good)


def test_what_is_left_is_at_least_a_second():
    claims = read_token(token(exp=int(time.time()) + 100))
    assert claims.left(claims.expires - 60) == 60
    assert claims.left(claims.expires + 60) == 1


def test_no_client_is_told_more_than_32_bits():
    assert read_token(token(exp=2**70)).left(0) == read_token(token()).left(0) == tokens.MAX_TTL


@pytest.mark.parametrize("chosen", [None, len, "math.floor"])
def test_what_finds_users_is_a_function(chosen):
    with override_settings(FILTERED_WEBSOCKET={"JWT_USER": chosen}):
        found = load_users()
    assert found is None if chosen is None else callable(found)


@pytest.mark.parametrize(
    ("path", "word"), [("math.pi", "math.pi"), ("math.no", "no"), ("nowhere.at_all", "nowhere")]
)
def test_what_does_not_find_users_is_named(path, word):
    with (
        override_settings(FILTERED_WEBSOCKET={"JWT_USER": path}),
        pytest.raises(SettingError, match=word),
    ):
        load_users()


def test_the_user_of_a_token_is_logged_in_and_has_no_permissions():
    user = TokenUser("42", {"a": 1})
    assert (str(user), user.pk, user.is_authenticated, user.info) == ("42", "42", True, {"a": 1})
    assert not user.has_perm("board.view_board")
