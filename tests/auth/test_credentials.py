"""The credentials of a handshake, and the handshake without them."""

import pytest

from filtered_websocket.auth.credentials import (
    Credential,
    clean_query,
    credentials,
    without_credentials,
)
from filtered_websocket.auth.keys import new_key

from ..costs import ends, is_linear

KEY = new_key()
SECRET = KEY.encode()


def handshake(*authorizations, offered=(), query=b""):
    """A scope as servers make it."""
    headers = [(b"host", b"testserver"), *((b"authorization", one) for one in authorizations)]
    if offered:
        headers.append((b"sec-websocket-protocol", ", ".join(offered).encode()))
    return {
        "type": "websocket",
        "path": "/",
        "headers": headers,
        "subprotocols": list(offered),
        "query_string": query,
    }


NOTHING = handshake()

GOOD = [
    (handshake(b"Token " + SECRET), "header"),
    (handshake(b"Bearer " + SECRET), "header"),
    (handshake(b"bEARER   " + SECRET + b" "), "header"),
    (handshake(b" token\t" + SECRET), "header"),
    (handshake(offered=["fws", f"fws.token.{KEY}"]), "subprotocol"),
    (handshake(offered=[f"fws.token.{KEY}"]), "subprotocol"),
    (handshake(query=b"ticket=" + SECRET), "ticket"),
    (handshake(query=b"token=" + SECRET), "query"),
    (handshake(query=b"a=1&tok%65n=" + SECRET.replace(b"_", b"%5F")), "query"),
]
BADLY_WRITTEN = [
    (handshake(b"Token"), "header"),
    (handshake(b"Token "), "header"),
    (handshake(b"Token:" + SECRET), "header"),
    (handshake(b"Bearer=" + SECRET), "header"),
    (handshake(b"Bearer: x"), "header"),
    (handshake(SECRET), "header"),
    (handshake(b"Tokn " + SECRET), "header"),
    (handshake(b"ApiKey " + SECRET), "header"),
    # What daphne makes of two headers of one name.
    (handshake(b"Basic YTpi,Token " + SECRET), "header"),
    (handshake(b"Basic YTpi, bearer x"), "header"),
    (handshake(offered=["FWS.Token." + KEY]), "subprotocol"),
    (handshake(offered=["fws.token."]), "subprotocol"),
    (handshake(offered=["fws.token"]), "subprotocol"),
    (handshake(offered=[" fws.token." + KEY]), "subprotocol"),
    (handshake(offered=["fws.token=" + KEY]), "subprotocol"),
    (handshake(offered=["fws", KEY]), "subprotocol"),
    (handshake(query=b"ticket"), "ticket"),
    (handshake(query=b"ticket="), "ticket"),
    (handshake(query=b"Ticket=" + SECRET), "ticket"),
    (handshake(query=b"token="), "query"),
    (handshake(query=b"TOKEN=" + SECRET), "query"),
    (handshake(query=b"+token=" + SECRET), "query"),
    (handshake(query=b"key=" + SECRET), "query"),
    (handshake(query=SECRET), "query"),
    (handshake(query=b"?token=" + SECRET), "query"),
    (handshake(query=b"a=1;token=" + SECRET), "query"),
]
NOT_OURS = [
    handshake(b"Basic dG9rZW46Ynk="),
    handshake(b"Basic token"),
    handshake(b'Digest username="bearer", realm="token"'),
    handshake(b"Tokenish " + b"x" * 47),
    handshake(b""),
    handshake(b"\xff\xfe"),
    handshake(offered=["fws", "chat", "fws.v2"]),
    handshake(query=b"a=token&b=ticket&tickets=3&fws_=1"),
    handshake(query=b"room=fws_team"),
    {},
]


@pytest.mark.parametrize(("scope", "kind"), GOOD)
def test_each_way_gives_its_kind_and_the_key_as_it_was_sent(scope, kind):
    assert [tuple(one) for one in credentials(scope)] == [(kind, KEY)]


@pytest.mark.parametrize(("scope", "kind"), BADLY_WRITTEN)
def test_what_is_badly_written_is_a_credential_that_opens_nothing(scope, kind):
    [credential] = credentials(scope)
    assert credential.kind == kind and credential.secret != KEY


@pytest.mark.parametrize("scope", NOT_OURS)
def test_what_is_not_ours_is_no_credential_and_stays(scope):
    assert credentials(scope) == []
    clean = without_credentials(scope)
    assert sorted(clean["headers"]) == sorted(scope.get("headers", []))
    assert clean["subprotocols"] == scope.get("subprotocols", [])
    assert clean["query_string"] == scope.get("query_string", b"")


@pytest.mark.parametrize(
    ("scope", "kinds"),
    [
        (handshake(b"Token " + SECRET, b"Token " + SECRET), ["header"] * 2),
        (handshake(offered=[f"fws.token.{KEY}"] * 2), ["subprotocol"] * 2),
        (handshake(query=b"ticket=a&ticket=b"), ["ticket"] * 2),
        (handshake(query=b"token=a&TOKEN=b"), ["query"] * 2),
        (
            handshake(b"Token a", offered=["fws.token.b"], query=b"ticket=c&token=d"),
            ["header", "query", "subprotocol", "ticket"],
        ),
    ],
)
def test_each_of_many_is_found_so_that_more_than_one_can_be_refused(scope, kinds):
    assert sorted(one.kind for one in credentials(scope)) == kinds


def test_two_keys_in_one_header_as_daphne_joins_them_are_not_either_of_them():
    [credential] = credentials(handshake(b"Token " + SECRET + b",Token " + SECRET))
    assert credential.secret != KEY


def test_nothing_that_prints_a_credential_prints_its_secret():
    credential = Credential("header", KEY)
    assert repr(credential) == str(credential) == f"{credential}" == "<Credential header>"
    assert KEY not in repr([credential])


@pytest.mark.parametrize("scope", [scope for scope, _ in GOOD + BADLY_WRITTEN])
def test_nothing_is_left_of_a_credential(scope):
    before = repr(scope)
    clean = without_credentials(scope)
    assert credentials(clean) == []
    assert KEY not in repr(clean) and KEY[4:] not in repr(clean)
    assert repr(scope) == before, "the server's own scope has changed"
    assert clean["path"] == "/" and (b"host", b"testserver") in clean["headers"]


def test_other_subprotocols_stay_in_their_order_under_one_header():
    scope = handshake(offered=["chat", f"fws.token.{KEY}", "fws"])
    scope["headers"].append((b"sec-websocket-protocol", b"fws.token." + SECRET))
    clean = without_credentials(scope)
    assert clean["subprotocols"] == ["chat", "fws"]
    assert clean["headers"] == [(b"host", b"testserver"), (b"sec-websocket-protocol", b"chat, fws")]


def test_where_nothing_else_is_offered_the_header_is_gone():
    clean = without_credentials(handshake(offered=[f"fws.token.{KEY}"]))
    assert clean["headers"] == NOTHING["headers"] and clean["subprotocols"] == []


@pytest.mark.parametrize(
    ("query", "clean"),
    [
        (b"", b""),
        (b"ticket=x", b""),
        (b"a=%20b+c&ticket=x&flag&%C3%A9=%ff", b"a=%20b+c&flag&%C3%A9=%ff"),
        (b"token=x&a=1;b=2&&c==&\xff=\xfe", b"a=1;b=2&&c==&\xff=\xfe"),
        (b"a=1&a=2&ticket", b"a=1&a=2"),
        (b"flag&&a=%zz", b"flag&&a=%zz"),
    ],
)
def test_the_rest_of_the_query_is_untouched_to_the_byte(query, clean):
    assert clean_query({"query_string": query}) == clean


@pytest.mark.repeats
@pytest.mark.parametrize(
    "make",
    [
        lambda size: handshake(b"," * size),
        lambda size: handshake(b", " * (size // 2)),
        lambda size: handshake(b"," + b" " * size),
        lambda size: handshake(b"token" * (size // 5)),
        lambda size: handshake(b"fws_" * (size // 4)),
        lambda size: handshake(offered=["fws_" * (size // 4)]),
        lambda size: handshake(query=b"&" * size),
        lambda size: handshake(query=b"token=&" * (size // 7)),
        lambda size: handshake(query=b"%" * size),
    ],
)
def test_what_is_long_costs_no_more_than_its_length(make):
    assert is_linear(without_credentials, make, 65_536)
    with ends():
        without_credentials(make(524_288))
