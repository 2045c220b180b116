"""Secrets in a text that is shown."""

import pytest
from django.core.signing import dumps

from filtered_websocket.auth.keys import PREFIX_LENGTH, hide_secrets, new_key
from filtered_websocket.auth.tickets import _signer

SECRET = "hidden9part"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"token": "%s", "a": 1}', '{"token": "***", "a": 1}'),
        ('{"accessToken":"x %s \\" y"}', '{"accessToken":"***"}'),
        ('{"password": "%s and no end', '{"password": "***"'),
        ('{"secret": 1%s, "b": 2}', '{"secret": ***, "b": 2}'),
        ('{"session": {"csrf_token": "%s"}}', '{"session": {"csrf_token": "***"}}'),
        (
            r'{"data": "{\"api_key\": \"%s\", \"a\": 1}"}',
            r'{"data": "{\"api_key\": \"***\", \"a\": 1}"}',
        ),
        ("{'passwd': '%s', 'n': b'x'}", "{'passwd': '***', 'n': b'x'}"),
        ("{'cookie': b'%s'}", "{'cookie': b'***'}"),
        ("Cookie: a=%s; b=c\nHost: x", "Cookie: ***\nHost: x"),
        ("authorization: Basic %s", "authorization: ***"),
        ("/?ticket=%s&room=1", "/?ticket=***&room=1"),
        ("sessionid=%s; theme=dark", "sessionid=***; theme=dark"),
        ("said Bearer %s.", "said Bearer ***"),
        ("eyJhbGciOiJI.%s.c2ln and more", "*** and more"),
    ],
)
def test_a_value_is_hidden_where_its_name_or_form_says_that_it_is_secret(text, shown):
    assert hide_secrets(text.replace("%s", SECRET)) == shown


@pytest.mark.parametrize(
    "text",
    [
        '{"text": "my token is nice", "author": "ann", "monkey": 3}',
        "{'keyword': 'x'}",
        "the basic idea: a=b&c=d",
        '{"tokens": ["a"], "tickets": {"n": 1}}',
        "",
    ],
)
def test_what_is_no_secret_stays(text):
    assert hide_secrets(text) == text


def test_keys_tickets_and_what_django_has_signed_are_hidden_wherever_they_stand():
    key, ticket, signed = new_key(), _signer().sign("n" * 43), dumps({"user": 1}, salt="x")
    text = f"join {key}! and {ticket}, and {signed}."
    assert hide_secrets(text) == f"join {key[:PREFIX_LENGTH]}! and ***, and ***."


def test_what_is_known_to_be_secret_is_hidden_as_well():
    assert hide_secrets("say abcdefgh now", ["abcdefgh"]) == "say *** now"


@pytest.mark.repeats
@pytest.mark.parametrize(
    "text",
    [
        '"token"' * 10_000,
        '"token":"' + "\\" * 70_000,
        "'token':b'" * 10_000,
        r"\"token\":" * 9_000,
        "token" + " " * 70_000 + ":",
        "token=" * 12_000,
        "a:" * 35_000,
        "eyJ" + "." * 70_000,
        "token " * 12_000,
        "a" * 70_000,
        "=" * 70_000,
        43 * "k" + ".",
    ],
    ids=lambda text: text[:12],
)
def test_no_text_takes_long(text):
    """Where a pattern goes over a text again and again, this takes minutes."""
    for _ in range(3):
        hide_secrets(text)
