"""Every line of the log, and every text of a PublishError, is found in the documentation."""

import ast
import functools
import re
from pathlib import Path

import pytest

import filtered_websocket
from filtered_websocket.connections import handshake
from filtered_websocket.hub import drain, joining

from ..snippets import ROOT, named

pytestmark = pytest.mark.repeats

PACKAGE = Path(filtered_websocket.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
LOG = (ROOT / "docs" / "log.md").read_text()
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
#: These have no words of their own: their texts are those of errors and warnings.
WORDLESS = {"%s", "%s:%d: %s"}
PLACE = re.compile(r"%[-.\d]*[a-z]")


def text_of(node):
    """A string as written, with ``%s`` for what an f-string puts in; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else "%s" for part in node.values
        )
    return None


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            yield node.func, node.args[0]


def assigned(tree, name):
    """What a variable is given as a string, anywhere in the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            yield text_of(node.value)


@functools.cache
def texts(is_meant):
    """First arguments of the calls that are meant, and where they are."""
    texts = []
    for path in PACKAGE.rglob("*.py"):
        tree = parsed(path)
        for function, argument in calls(tree):
            if not is_meant(function):
                continue
            text = text_of(argument)
            found = assigned(tree, argument.id) if isinstance(argument, ast.Name) else [text]
            texts += [(one, path.relative_to(PACKAGE).as_posix()) for one in found]
    return texts


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def is_logged(function):
    return (
        isinstance(function, ast.Attribute)
        and function.attr in LEVELS
        and getattr(function.value, "id", "") == "logger"
    )


def is_publish_error(function):
    return getattr(function, "id", "") == "PublishError"


# Not when the module is imported, which each worker does.
def lines():
    return {text for text, _ in texts(is_logged) if text}


def errors():
    return {text for text, _ in texts(is_publish_error) if text}


def spans(page):
    """What is in backticks."""
    return re.findall(r"`([^`\n]+)`", page)


def matches(text, span):
    """Whether ``span`` shows ``text``, with anything where that has a value."""
    return re.fullmatch(".*".join(map(re.escape, PLACE.split(text))), span)


def test_every_text_is_found():
    shown = spans(LOG)
    wanted = (lines() | errors()) - WORDLESS
    assert [text for text in wanted if not any(matches(text, span) for span in shown)] == []


def test_all_lines_were_looked_at():
    assert len(lines()) > 60 and len(errors()) > 8
    # Only their words are looked for.
    assert {text for text in lines() if len(re.sub(r"\W", "", PLACE.sub("", text))) < 5} == WORDLESS
    assert [where for text, where in texts(is_logged) if text is None] == []


def test_every_line_of_the_page_is_one_that_is_logged():
    rows = re.findall(r"^\| `([^`]+)` \| [A-Z]+ \|", LOG, re.MULTILINE)
    shown = [row.replace("...", "X") for row in rows]
    others = [row for row in shown if not any(matches(text, row) for text in lines())]
    # Of a warning of Python, which is passed on; and with the cure of one kind of error.
    assert len(rows) > 60 and others == []


def log_lines(page):
    """The cells of columns that are called "log line"."""
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        head, _, *rows = [line.strip("|").split(" | ") for line in table.splitlines()]
        titles = [cell.strip(" |") for cell in head]
        if "log line" in titles:
            for row in rows:
                yield row[titles.index("log line")]


def is_shown(span):
    """A line as it is logged, or with dots for what is not told."""
    told = re.compile(".*".join(map(re.escape, span.split("..."))))
    return any(matches(text, span) or told.fullmatch(text) for text in lines())


def test_lines_that_tell_what_is_wrong_are_logged():
    cells = list(log_lines(TROUBLE))
    found = [span for cell in cells for span in spans(cell) if " " in span]
    assert len(cells) > 30 and len(found) > 20
    assert [span for span in found if not is_shown(span)] == []


def test_every_reason_of_a_refusal_is_told():
    source = (PACKAGE / "connections/refusals.py").read_text()
    names = re.search(r"from .handshake import \(\n(.+?)\)", source, re.DOTALL)[1]
    reasons = [getattr(handshake, name) for name in re.findall(r"[A-Z_]{3,}", names)]
    reasons += [joining.NOT_ALLOWED, drain.DRAINING[1]]
    reasons += re.findall(r'OVER_CAPACITY, "(.+?)"', (PACKAGE / "hub/limits.py").read_text())
    reasons += re.findall(r'TOO_MANY, "(.+?)"', (PACKAGE / "hub/limits.py").read_text())
    reasons += re.findall(r'FILTER_ERROR, "(.+?)"', (PACKAGE / "consumers.py").read_text())
    assert len(reasons) >= 12
    assert [reason for reason in reasons if reason not in TROUBLE] == []


def test_the_log_can_be_turned_on(settings):
    import logging.config

    made = {}
    exec(named("docs/troubleshooting.md")["LOGGING"], made)
    logging.config.DictConfigurator(made["LOGGING"])
    assert made["LOGGING"]["loggers"]["filtered_websocket"]["level"] == "INFO"


def test_the_three_questions_are_commands():
    asked = named("docs/troubleshooting.md")["ask"].splitlines()
    assert asked == [f"$ python manage.py {name}" for name in ("check", "filters", "groups")]
