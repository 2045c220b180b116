"""Keys of tokens, as text."""

import hashlib
import re

import pytest

from filtered_websocket.auth.keys import KEY_LENGTH, Key, digest_of, is_key, new_key, shorten


def test_a_key_is_256_bits_of_base64url_behind_its_start():
    assert re.fullmatch(r"fws_[A-Za-z0-9_-]{43}", new_key())
    assert len(new_key()) == KEY_LENGTH


def test_no_key_is_made_twice():
    assert len({new_key() for _ in range(1000)}) == 1000


def test_what_is_made_is_a_key():
    assert all(is_key(new_key()) for _ in range(1000))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fws_",
        "fws_" + "a" * 42,
        "fws_" + "a" * 44,
        "FWS_" + "a" * 43,
        "fws_" + "a" * 42 + "\n",
        "fws_" + "a" * 42 + "=",
        "fws_" + "a" * 42 + "ä",
        "fws_" + "a" * 42 + "٣",
        "a" * 47,
        "0" * 64,
    ],
)
def test_what_has_not_its_form_is_no_key(text):
    assert not is_key(text)


def test_a_digest_is_sha_256_in_hex():
    assert digest_of("fws_a") == hashlib.sha256(b"fws_a").hexdigest()


def test_a_digest_is_no_key():
    assert not is_key(digest_of(new_key()))


def test_text_that_utf_8_cannot_hold_has_a_digest_too():
    assert digest_of("\ud800") != digest_of("\ud801")


def test_the_repr_of_a_new_key_is_its_prefix():
    key = new_key()
    assert repr(key) == f"<key {key[:12]}…>"
    assert key not in f"{key!r} {[key]} { {'key': key} }"


def test_a_new_key_is_text_where_it_is_meant_to_be_read():
    key = Key("fws_" + "a" * 43)
    assert str(key) == f"{key}" == "fws_" + "a" * 43
    assert type(str(key)) is str


def test_shortening_leaves_of_a_key_what_may_be_shown():
    one, two = new_key(), new_key()
    assert shorten(f"--name={one}, {two}!") == f"--name={one[:12]}, {two[:12]}!"
    assert shorten(one[:-1]) == shorten(one[:32]) == one[:12]


@pytest.mark.parametrize(
    "text", ["", "fws_", "fws_abcdefgh", "fws_abcdefgh…", "fws_of_the_production_site", "x" * 47]
)
def test_shortening_leaves_alone_what_is_no_key(text):
    assert shorten(text) == text
