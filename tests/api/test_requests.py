"""Fields of requests, and what is wrong with them."""

import pytest

from .calling import error, result

WRONG = [
    ("publish", {"channel": 3, "data": 1}, "'channel' is a text, not 3"),
    ("publish", {"data": 1}, "'channel' is missing"),
    ("publish", {"channel": "", "data": 1}, "'channel' is missing"),
    ("publish", {"channel": "news"}, "'data' is missing"),
    ("publish", {"channel": "news", "data": 1, "skip_history": 1}, "is true or false, not 1"),
    ("publish", {"channel": "news", "data": 1, "tags": ["a"]}, "'tags' is an object of texts"),
    ("publish", {"channel": "news", "data": 1, "tags": {"a": 1}}, "'a' is 1"),
    ("publish", {"channel": "news", "b64data": "%"}, "'b64data' is not base64"),
    ("publish", {"channel": "news", "b64data": "\u00e9"}, "'b64data' is not base64"),
    ("broadcast", {"data": 1}, "'channels' is missing"),
    ("broadcast", {"data": 1, "channels": "news"}, "'channels' is a list, not 'news'"),
    ("broadcast", {"data": 1, "channels": ["news", 3]}, "is a list of texts: 3 is none"),
    ("history", {"channel": "kept:a", "limit": "1"}, "'limit' is a whole number, not '1'"),
    ("history", {"channel": "kept:a", "limit": True}, "'limit' is a whole number, not True"),
    ("history", {"channel": "kept:a", "since": 5}, "'since' is a JSON object, not 5"),
    ("history", {"channel": "kept:a", "since": {"epoch": 5}}, "'epoch' is a text, not 5"),
    ("disconnect", {}, "'user' is missing"),
    ("disconnect", {"user": "1", "code": 1006}, "close code 1006"),
    ("disconnect", {"user": "1", "code": 4000, "reason": "x" * 124}, "over 123 bytes"),
    ("disconnect", {"user": "1", "disconnect": []}, "'disconnect' is a JSON object"),
    ("disconnect", {"user": "1", "whitelist": [1]}, "is a list of texts"),
    ("refresh", {"user": "1", "expire_at": -1}, "'expire_at' is a Unix time in seconds, not -1"),
    ("refresh", {"user": "1", "expire_at": 10**12}, "'expire_at' is a Unix time"),
    ("subscribe", {"channel": "news"}, "'user' is missing"),
    ("subscribe", {"user": "1"}, "'channel' is missing"),
    ("batch", {}, "'commands' is missing"),
    ("batch", {"commands": {}}, "'commands' is a list, not {}"),
]


@pytest.mark.parametrize(("method", "fields", "words"), WRONG)
def test_what_is_wrong_with_a_field_is_said(method, fields, words):
    code, message = error(method, **fields)
    assert code == 107 and message.startswith("bad request: ") and words in message


UNSERVED = [
    ("publish", {"channel": "news", "data": 1}, ["version", "version_epoch"]),
    ("disconnect", {"user": "1"}, ["session"]),
    ("unsubscribe", {"user": "1", "channel": "news"}, ["session"]),
    ("refresh", {"user": "1"}, ["session", "info"]),
    (
        "subscribe",
        {"user": "1", "channel": "news"},
        [
            *("info", "b64info", "data", "b64data", "recover_since", "override", "session"),
            "expire_at",
        ],
    ),
]


@pytest.mark.parametrize(
    ("method", "fields", "name"),
    [(method, fields, name) for method, fields, names in UNSERVED for name in names],
)
def test_a_field_that_would_have_no_effect_is_refused(method, fields, name):
    code, message = error(method, **fields, **{name: "something"})
    assert code == 108 and repr(name) in message
    assert result(method, **fields, **{name: None}) == {}
