"""A text of autobahn's that is formatted only for a line that is logged."""

import pprint
import re
import sys
import types
from types import SimpleNamespace

import pytest
from autobahn import util
from autobahn.twisted import websocket
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket import protocol as autobahn
from twisted.internet.testing import StringTransport

from filtered_websocket.transports import daphne_costs
from filtered_websocket.transports.daphne_costs import (
    MODULE,
    cut_costs_of_logging,
    format_options_later,
    name_once,
)


@pytest.fixture(autouse=True)
def undone(monkeypatch):
    """autobahn as it is installed; whatever a test does to it is undone."""
    monkeypatch.setattr(autobahn, "pformat", pprint.pformat)
    for module in (autobahn, websocket):
        monkeypatch.setattr(module, "hltype", util.hltype)
    for once in (format_options_later, name_once):
        once.cache_clear()
    yield
    for once in (format_options_later, name_once):
        once.cache_clear()


@pytest.fixture
def formatted(monkeypatch):
    """What is formatted."""
    seen = []

    def pformat(value):
        seen.append(value)
        return repr(value)

    monkeypatch.setattr(daphne_costs, "pprint", SimpleNamespace(pformat=pformat))
    return seen


def options_line(monkeypatch):
    """The line at debug with all options of a connection, and its values."""
    lines = []
    made = WebSocketServerProtocol()
    made.factory = WebSocketServerFactory()
    monkeypatch.setattr(
        made,
        "log",
        SimpleNamespace(debug=lambda text, **values: lines.append((text, values))),
        raising=False,
    )
    made.transport = StringTransport()
    made._connectionMade()
    [line] = [line for line in lines if "attrs" in line[1]]
    return line


def test_the_installed_autobahn_is_known_and_is_changed_once():
    assert format_options_later() and autobahn.pformat is daphne_costs.pformat_later
    assert format_options_later()


def test_the_line_has_the_text_that_it_had(monkeypatch):
    def without_addresses(text, values):
        return re.sub("0x[0-9a-f]+", "0x", text.format(**values))

    before = without_addresses(*options_line(monkeypatch))
    assert "'closeHandshakeTimeout'" in before
    format_options_later()
    text, values = options_line(monkeypatch)
    assert type(values["attrs"]) is daphne_costs.Later
    assert without_addresses(text, values) == before
    assert repr(values["attrs"]) == str(values["attrs"]) == pprint.pformat(values["attrs"]._value)


def test_a_line_that_is_not_logged_formats_nothing(monkeypatch, formatted):
    monkeypatch.setattr(autobahn, "pformat", daphne_costs.pformat_later)
    _, values = options_line(monkeypatch)
    assert not formatted
    assert str(values["attrs"]) == repr(formatted[0])


def test_the_text_of_timings_is_a_text(formatted, monkeypatch):
    monkeypatch.setattr(autobahn, "pformat", daphne_costs.pformat_later)
    assert str(autobahn.Timings()) == "{}"


def release(source):
    """A release of autobahn whose module has this source."""
    module = types.ModuleType(MODULE)
    exec(source, vars(module))
    return module


KNOWN = """
from pprint import pformat
class WebSocketProtocol:
    number = 1
    def _connectionMade(self): pformat([])
class Timings:
    def __str__(self): return pformat({})
"""


@pytest.mark.parametrize(
    ("source", "is_known"),
    [
        (KNOWN, True),
        # Somebody else has changed it, or it is not there.
        (KNOWN + "pformat = str", False),
        (KNOWN + "del pformat", False),
        # It is used where a text may be needed, or not where it was.
        (KNOWN + "def describe(options): return 'options: ' + pformat(options)", False),
        (KNOWN.replace("_connectionMade", "connectionMade"), False),
        ("from pprint import pformat", False),
        (KNOWN + "def describe(options): return options", True),
    ],
)
def test_a_release_that_differs_is_left_as_it_is(monkeypatch, source, is_known):
    module = release(source)
    before = vars(module).get("pformat")
    monkeypatch.setitem(sys.modules, MODULE, module)
    assert format_options_later() is is_known
    assert (vars(module).get("pformat") is before) is not is_known


def test_without_autobahn_there_is_nothing_to_change(monkeypatch):
    monkeypatch.delitem(sys.modules, MODULE)
    assert not format_options_later()


def test_a_method_is_named_once_and_as_it_was(monkeypatch):
    seen, name = [], util.hltype

    def hltype(named):
        seen.append(named)
        return name(named)

    for module in (util, autobahn, websocket):
        monkeypatch.setattr(module, "hltype", hltype)
    cut_costs_of_logging()
    assert type(autobahn.pformat([])) is daphne_costs.Later
    one, two = WebSocketServerProtocol(), WebSocketServerProtocol()
    both = autobahn.hltype, websocket.hltype
    names = [named(made.sendData) for named in both for made in (one, two)]
    assert names == [name(one.sendData)] * 4 and seen == [autobahn.WebSocketProtocol.sendData]
    # A class, a function, and what has no hash.
    for other in (WebSocketServerProtocol, hltype, []):
        assert [named(other) for named in both] == [name(other)] * 2


@pytest.mark.parametrize("gone", ["autobahn.util", "autobahn.twisted.websocket"])
def test_names_in_a_release_that_differs_stay_as_they_are(monkeypatch, gone):
    monkeypatch.setattr(autobahn, "hltype", str)
    monkeypatch.delitem(sys.modules, gone)
    name_once()
    assert autobahn.hltype is str and websocket.hltype is util.hltype
