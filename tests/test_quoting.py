"""No line quotes the message that a filter has failed on."""

import pytest

from filtered_websocket.logs import safe_traceback
from filtered_websocket.quoting import HIDDEN, keep_secret
from filtered_websocket.types import Call

LONG = "what-the-client-says " * 20


def failed(function, data):
    """What ``function`` raises for ``data``, as a chain notes it."""
    with pytest.raises(Exception) as raised:
        function(data)
    keep_secret(raised.value, data)
    return raised.value


@pytest.mark.parametrize(
    "data",
    [
        b"secret",
        bytearray(b"secret"),
        "secret",
        "  secret\n",
        LONG,
        "x" * 62 + "'\"'secret",
        "secret \ud800 half",
        LONG.encode(),
        'it\'s "secret"',
        "geheim-größer" * 30,
        ("geheim-größer" * 30).encode(),
        "秘密" * 100,
        ("秘密" * 100).encode(),
    ],
    ids=range(13),
)
def test_a_text_that_quotes_the_data_is_left_out(data):
    error = failed(int, data)
    text = safe_traceback(error)
    assert text.splitlines()[-1] == f"ValueError: {HIDDEN}"
    assert "in failed" in text and "function(data)" in text
    assert not any(word in text for word in ("secret", "client", "geheim", "秘", r"\xe7"))


def quote(data):
    error = RuntimeError("it failed")
    error.add_note(f"on: {data}")
    try:
        int(data)
    except ValueError:
        raise error from ExceptionGroup(f"of {data}", [KeyError(data)])


def test_so_are_those_of_its_causes_its_notes_and_its_group():
    text = safe_traceback(failed(quote, "secret"))
    assert "secret" not in text and text.count(HIDDEN) == 3
    assert "RuntimeError: it failed" in text


def test_the_data_of_a_call_is_looked_for_and_what_is_decoded():
    error = failed(lambda call: int(call.data), Call("add", "secret"))
    assert safe_traceback(error).endswith(f"ValueError: {HIDDEN}")

    def refuse(data):
        raise LookupError(f"no room for {data}")

    text = safe_traceback(failed(refuse, {"name": "secret"}))
    assert text.endswith(f"LookupError: {HIDDEN}")


class Unprintable:
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def fail(data):
    raise LookupError("no room abc, nor None")


@pytest.mark.parametrize("data", [None, "abc", b"", b"another", Unprintable()], ids=range(5))
def test_any_other_text_is_told(data):
    text = safe_traceback(failed(fail, data))
    assert text.endswith("LookupError: no room abc, nor None")
