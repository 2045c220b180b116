"""Log lines: client input cannot add lines, and repeated messages are limited."""

import ast
import logging
from pathlib import Path

import pytest

import filtered_websocket
from filtered_websocket import logs
from filtered_websocket.logs import MAX_LENGTH, LogThrottle, get_logger, safe_traceback

EVIL = "a\nERROR forged\x1b[31m\u2028\r"
ESCAPED = "a\\nERROR forged\\x1b[31m\\u2028\\r"
PACKAGE = Path(filtered_websocket.__file__).parent


@pytest.fixture
def logged():
    """A logger of the package, and the lines it writes."""
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.extend(self.format(record).split("\n"))

    logger = get_logger("filtered_websocket.test")
    handler = Lines()
    logger.addHandler(handler)
    yield logger, lines
    logger.removeHandler(handler)


def test_client_input_adds_no_log_lines(logged):
    logger, lines = logged
    logger.error("it said %s, and %r, %d times", EVIL, ValueError(EVIL), 3)
    logger.error("it said %(words)s", {"words": EVIL})
    assert lines == [
        f"it said {ESCAPED}, and ValueError('{ESCAPED}'), 3 times",
        f"it said {ESCAPED}",
    ]


def test_an_exception_whose_repr_leaves_the_message_out_keeps_it(logged):
    class Short(Exception):
        """As those of redis-py 8."""

        def __repr__(self):
            return "network:Short"

    logger, lines = logged
    logger.error("lost: %r", Short(EVIL))
    logger.error("lost: %r", Short())
    assert lines == [f"lost: Short('{ESCAPED}')", "lost: Short('')"]


def test_long_client_input_is_cut(logged):
    logger, lines = logged
    logger.error("%s%r", "x" * 100_000, ["\x1b" * 100_000])
    assert len(lines) == 1 and len(lines[0]) == 2 * MAX_LENGTH


def test_the_message_of_an_exception_adds_no_log_lines(logged):
    logger, lines = logged
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError(EVIL + "x" * 100_000) from error
    except ValueError:
        logger.exception("it failed")
    assert lines[0] == "it failed" and lines[1] == "Traceback (most recent call last):"
    assert "KeyError: 'first'" in lines
    assert lines[-1].startswith(f"ValueError: {ESCAPED}xxx") and len(lines[-1]) <= MAX_LENGTH
    assert not any(line.startswith("ERROR") or "\x1b" in line for line in lines)


def test_the_messages_of_an_exception_group_add_no_log_lines():
    text = safe_traceback(ExceptionGroup("two", [ValueError(EVIL), KeyError("b")]))
    assert "ValueError: a" in text and "KeyError: 'b'" in text
    assert not any(line.startswith("ERROR") or "\x1b" in line for line in text.split("\n"))


def test_exc_info_without_an_exception_is_left_alone(logged):
    logger, lines = logged
    logger.error("nothing failed", exc_info=True)
    assert lines == ["nothing failed", "NoneType: None"]


def test_every_logger_of_the_package_escapes_what_it_logs():
    """Except loggers of other packages, whose level the command line sets."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "getLogger":
                found.setdefault(path.name, []).append(ast.unparse(node))
    assert found == {
        "logs.py": ["logging.getLogger"],
        "cli.py": ["logging.getLogger"] * 2,
        "names.py": ["logging.getLogger"],
    }


def test_a_subject_is_logged_once_per_interval_and_counted_every_time(monkeypatch):
    throttle = LogThrottle()
    assert [throttle.note("a"), throttle.note("a", 2), throttle.note("b")] == [True, False, True]
    assert throttle.counts == {"a": 3, "b": 1}
    monkeypatch.setattr(logs, "EVERY", 0)
    assert throttle.note("a")


def test_subjects_are_bounded(monkeypatch):
    monkeypatch.setattr(logs, "MAX_SUBJECTS", 2)
    throttle = LogThrottle()
    for subject in "abc":
        assert throttle.note(subject)
    assert len(throttle._logged) == 1
