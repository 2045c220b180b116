"""Log lines: client input cannot add lines, and repeated messages are limited."""

import ast
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

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


def test_what_has_no_text_is_told_by_its_class(logged):
    class Unprintable(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    logger, lines = logged
    logger.error("failed: %s", Unprintable())
    assert lines == ["failed: <Unprintable: its text raised RuntimeError>"]
    assert logs.trace_of(Unprintable())[0]["message"] == lines[0].removeprefix("failed: ")


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


@pytest.mark.repeats
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
    # Each connection that is refused something is one.
    assert len(throttle._logged) == 1 and throttle.counts == {"c": 1}


# The last ones


@pytest.fixture
def recent(monkeypatch):
    monkeypatch.setattr(logs, "recent", logs.Incidents())
    return logs.recent


def rows(recent):
    return [(one.what, one.kind, one.level, one.count) for one in recent.newest()]


def test_warnings_and_errors_of_the_log_are_remembered_once_each(logged, recent):
    logger, _ = logged
    for number in range(3):
        logger.warning("slow: %d so far", number)
    logger.info("not that")
    try:
        raise OSError(EVIL)
    except OSError as error:
        logger.error("cannot: %r", error, exc_info=error)
    logger.error("%s", "x" * 1000)
    assert rows(recent) == [
        ("x" * MAX_LENGTH, "", "error", 1),
        (f"cannot: OSError('{ESCAPED}')", "OSError", "error", 1),
        ("slow: 2 so far", "", "warning", 3),
    ]
    [trace] = recent.newest()[1].trace
    assert (trace["kind"], trace["message"]) == ("OSError", ESCAPED)
    assert "raise OSError(EVIL)" in trace["frames"] and "forged" not in trace["frames"]


def test_what_a_pipeline_has_counted_itself_is_not_counted_by_its_line(logged, recent):
    logger, _ = logged
    logger.error("a filter raised", extra={logs.REMEMBERED: True})
    assert rows(recent) == []


def test_an_error_of_a_filter_is_counted_and_its_last_place_is_known(recent):
    for number in range(3):
        recent.failed("a.Filter", ValueError(number), "filters.py:7", f"connection {number}")
    recent.failed("a.Filter", ValueError(), "filters.py:9", "connection 9")
    assert rows(recent) == [
        ("a.Filter", "ValueError", "error", 1),
        ("a.Filter", "ValueError", "error", 3),
    ]
    first = recent.newest()[1]
    assert first.where == "connection 2" and first.trace[0]["message"] == "0"
    assert first.first <= first.last and recent.total == 4
    assert recent.find(first.key) is first and recent.find("?") is None
    assert first.row()["key"] == first.key and "trace" not in first.row()


def test_only_so_many_are_remembered_and_the_oldest_are_forgotten(recent):
    for number in range(2 * logs.MOST):
        recent.failed("often", ValueError(), "a.py:1", "here")
        recent.failed(f"filter {number}", ValueError(), "a.py:1", "here")
    assert len(recent) == logs.MOST
    # What comes again and again is not pushed out.
    assert {one.count for one in recent.newest() if one.what == "often"} == {2 * logs.MOST}
    assert recent.newest()[0].what == f"filter {2 * logs.MOST - 1}"


def deep(depth, error):
    if depth:
        deep(depth - 1, error)
    raise error


def test_a_traceback_has_the_causes_and_the_innermost_frames():
    try:
        try:
            try:
                deep(50, KeyError("hidden"))
            except KeyError:
                raise OSError("first") from None
        except OSError as error:
            raise ValueError("second") from error
    except ValueError as error:
        trace = logs.trace_of(error)
    assert [one["kind"] for one in trace] == ["OSError", "ValueError"]
    try:
        deep(50, KeyError("x"))
    except KeyError as error:
        [one] = logs.trace_of(error)
    # As Python prints it: the same line again and again is counted.
    assert one["frames"].count("in deep") == 4
    assert f"[Previous line repeated {logs.MAX_FRAMES - 4} more times]" in one["frames"]


def test_a_chain_of_causes_has_an_end():
    error = ValueError(0)
    for number in range(1, 20):
        later = ValueError(number)
        later.__context__ = error
        error = later
    assert [one["message"] for one in logs.trace_of(error)] == ["16", "17", "18", "19"]


# Who a line is about


def test_each_record_has_the_fields_and_a_client_cannot_add_lines_by_them(logged):
    logger, _ = logged
    seen = []
    logger.addFilter(lambda record: seen.append(record) or True)
    logger.error("about nobody")
    logger.error("about %s", "somebody", extra={"connection_id": "7d0c", "user_id": EVIL})
    assert [[getattr(record, name) for name in logs.FIELDS] for record in seen] == [
        ["", "", ""],
        ["7d0c", ESCAPED, ""],
    ]


def test_a_site_whose_records_have_a_field_by_that_name_costs_no_line(logged):
    logger, _ = logged
    seen, make = [], logging.getLogRecordFactory()

    def with_user(*args, **kwargs):
        record = make(*args, **kwargs)
        record.user_id = "of a request"
        return record

    logger.addFilter(lambda record: seen.append(record) or True)
    logging.setLogRecordFactory(with_user)
    try:
        logger.error("about nobody")
        who = SimpleNamespace(log_fields={"connection_id": "7d0c", "user_id": "5"})
        logger.error("about somebody", extra=logs.fields_of(who))
    finally:
        logging.setLogRecordFactory(make)
    assert [[getattr(record, name) for name in logs.FIELDS] for record in seen] == [
        ["", "of a request", ""],
        ["7d0c", "5", ""],
    ]
    assert logs.ABOUT not in seen[1].__dict__


def test_what_is_about_no_connection_has_no_fields():
    assert logs.fields_of(None) == logs.fields_of("group 'a'") == {}
    assert logs.place_of("group 'a'") == "group 'a'"


def record(**fields):
    return logging.makeLogRecord({"name": "a.b", "levelname": "INFO", "created": 1.5, **fields})


def test_a_record_as_json_is_one_line_with_what_it_has():
    line = logs.JSONFormatter().format(
        record(msg="it said %s", args=("a\n{",), user_id="5", client_address="")
    )
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.500000+00:00",
        "level": "INFO",
        "logger": "a.b",
        "message": "it said a\n{",
        "user_id": "5",
    }


@pytest.mark.parametrize("text", [None, "as it was shortened"])
def test_a_traceback_is_part_of_the_object(text):
    try:
        raise KeyError("x")
    except KeyError as error:
        exc_info = type(error), error, error.__traceback__
    line = logs.JSONFormatter().format(record(msg="failed", exc_info=exc_info, exc_text=text))
    assert "\n" not in line
    told = json.loads(line)["traceback"]
    assert told == text or (text is None and "KeyError: 'x'" in told)


#: What a line is about that has a connection, or the handshake of one.
ABOUT = re.compile(r"connection %s|closed a connection|a connection that has ended|handshake|"
                   r"credential|ticket|refused token|refused the WebSocket|thread %s")  # fmt: skip


@pytest.mark.repeats
def test_every_line_about_a_connection_says_of_which():
    found = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("logger."):
                text = node.args[0] if node.args else None
                if isinstance(text, ast.Constant) and ABOUT.search(str(text.value)):
                    found += 1
                    assert "extra" in [one.arg for one in node.keywords], text.value
    assert found > 15
