"""``manage.py publish``."""

import io
import os
import sys

import pytest
from django.core.management import CommandError, call_command

from filtered_websocket.codecs.frames import Encoded
from filtered_websocket.exceptions import PublishError
from filtered_websocket.management.commands import publish as module
from filtered_websocket.management.commands.publish import Command, lines_of
from filtered_websocket.management.shell import check_layer

from ..waiting import wait_until
from .running import Running

LIMIT = 8


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"a\nb\r\n\nc", [b"a", b"b", b"", b"c"]),
        (b"12345678\n", [b"12345678"]),
        (b"12345678\r\n", [b"12345678"]),
        (b"12345678", [b"12345678"]),
        (b"123456789\na\n", [None, b"a"]),
        (b"123456789\r\na", [None, b"a"]),
        (b"1234567890\na", [None, b"a"]),
        (b"1" * 100 + b"\na\n", [None, b"a"]),
        (b"1" * 20 + b"\n" + b"2" * 10 + b"\n\n", [None, None, b""]),
        (b"1" * 10, [None]),
        (b"1" * 100, [None]),
        (b"\r\r\n", [b"\r"]),
    ],
)
def test_a_line_is_read_to_its_end_and_not_over_the_limit(data, lines):
    assert list(lines_of(io.BytesIO(data), LIMIT)) == lines


@pytest.fixture
def sent(monkeypatch):
    """What is published, instead of publishing it."""
    found = []
    monkeypatch.setattr(module, "check_layer", lambda: None)
    monkeypatch.setattr(module, "publish", lambda *call: found.append(call))
    return found


def run(monkeypatch, data, *options, stderr=None):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    call_command("publish", "g", *options, stderr=stderr or io.StringIO())


def test_each_line_is_a_message(monkeypatch, sent):
    run(monkeypatch, "a\né\n\nlast".encode())
    assert sent == [(Encoded("t", text.encode()), "g") for text in ("a", "é", "", "last")]


def test_a_line_that_is_no_message_is_told_and_costs_no_other(monkeypatch, sent, settings):
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": LIMIT}
    errors = io.StringIO()
    with pytest.raises(CommandError, match=r"^2 lines were not published$"):
        run(monkeypatch, b"a\n\xff\xfe\n" + b"x" * 50 + b"\nb\n", stderr=errors)
    assert [message.payload for message, _ in sent] == [b"a", b"b"]
    assert errors.getvalue() == (
        "publish: line 2: not UTF-8: \\xff\n"
        "publish: line 3: longer than MAX_MESSAGE_SIZE, 8 bytes\n"
    )


def test_lines_may_be_json(monkeypatch, sent):
    errors = io.StringIO()
    lines = b'{"a": 1}\n3\n{\nNaN\n' + b"[" * 100_000 + b'\n"x"\n'
    with pytest.raises(CommandError, match=r"^3 lines were not published$"):
        run(monkeypatch, lines, "--json", stderr=errors)
    assert [message for message, _ in sent] == [
        Encoded("j", payload) for payload in (b'{"a": 1}', b"3", b'"x"')
    ]
    one, two, three = errors.getvalue().splitlines()
    assert one.startswith("publish: line 3: not JSON: Expecting property name")
    assert two == "publish: line 4: not JSON: NaN is not of JSON"
    assert three == "publish: line 5: not JSON: nested too deeply"


def test_without_redis_it_is_one_line(monkeypatch, sent):
    def fail(*call):
        raise PublishError("Redis did not take the message")

    monkeypatch.setattr(module, "publish", fail)
    errors = io.StringIO()
    with pytest.raises(CommandError, match=r"^Redis did not take the message$"):
        run(monkeypatch, b"a\nb\n", stderr=errors)
    assert errors.getvalue() == ""


def test_through_an_outage_a_line_waits(monkeypatch, sent):
    failures = [None, PublishError("away"), PublishError("away"), None]

    def publish(*call):
        error = failures.pop(0) if failures else None
        if error is not None:
            raise error
        sent.append(call)

    monkeypatch.setattr(module, "publish", publish)
    monkeypatch.setattr(module, "pause", lambda failures: 0)
    errors = io.StringIO()
    run(monkeypatch, b"a\nb\nc\n", stderr=errors)
    assert [message.payload for message, _ in sent] == [b"a", b"b", b"c"]
    assert errors.getvalue() == "publish: line 2 waits: away\npublish: going on with line 2\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_told_on_a_terminal_if_it_takes_long(monkeypatch, sent):
    monkeypatch.setattr(module, "PROGRESS", 0.0)
    terminal = Terminal()
    run(monkeypatch, b"a\nb\n", stderr=terminal)
    start, first, second = terminal.getvalue().split("\r\x1b[K")
    assert first.startswith("publish: 1 lines, 0.0 MiB, ") and first.endswith(" lines/s")
    assert second.startswith("publish: 2 lines") and second.endswith("\n") and start == ""
    terminal = Terminal()
    with pytest.raises(CommandError):
        run(monkeypatch, b"a\n\xff\n", stderr=terminal)
    # What is told next begins a line.
    assert "lines/s\npublish: line 2: not UTF-8" in terminal.getvalue()
    no_terminal = io.StringIO()
    run(monkeypatch, b"a\nb\n", stderr=no_terminal)
    assert no_terminal.getvalue() == ""


def test_quick_runs_tell_nothing(monkeypatch, sent):
    terminal = Terminal()
    run(monkeypatch, b"a\nb\n", stderr=terminal)
    assert terminal.getvalue() == ""


def test_standard_input_must_be_open(monkeypatch, sent):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CommandError, match="standard input must be open"):
        call_command("publish", "g")


def test_what_is_no_group_is_told():
    with pytest.raises(CommandError, match="a group name has 1 to 1024 characters"):
        call_command("publish", "")


def test_it_asks_for_a_layer_before_it_reads(settings, monkeypatch):
    settings.CHANNEL_LAYERS = {}
    assert module.check_layer is check_layer and Command.name == "publish"
    with pytest.raises(CommandError, match="CHANNEL_LAYERS has no 'default'"):
        run(monkeypatch, b"a\n")


def test_a_line_is_published_before_the_next_one_comes(layer, monkeypatch):
    """As of ``tail -f``."""
    reading, writing = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reading))
    listening = Running("listen", "logs")
    listening.said("listening")
    publishing = Running("publish", "logs")
    for line in (b"one\n", b"two\n"):
        os.write(writing, line)
        assert listening.out.readline() == line.decode()
    assert publishing.status is None
    os.close(writing)
    assert wait_until(lambda: publishing.status == 0)
    publishing.end()
    listening.end()
    sys.stdin.close()
