"""256 KiB of hostile input, through everything that reads what a client sends."""

import contextlib
import importlib
import pkgutil
import re

import pytest

import filtered_websocket
from filtered_websocket import Drop
from filtered_websocket import filters as bundled
from filtered_websocket.codecs.json import JSONCodec
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.pipelines.pipeline import Pipeline
from filtered_websocket.testing import connect

from .costs import ends

pytestmark = pytest.mark.repeats

#: At this size what backtracks takes minutes, or years; what does not, milliseconds.
SIZE = 262_144
HOSTILE = {
    "a": b"a",
    "spaces": b" ",
    "tokens": b"token:",
    "half keys": b"fws_" + b"a" * 42,
    "keys": b"fws_" + b"a" * 43,
    "starts of keys": b"fws_",
    "underscores": b"_",
    "quotes": b'"',
    "escapes": b"\\",
    "escaped quotes": b'\\"',
    "brackets": b"[",
    "slashes": b"/",
    "dots": b"/..",
    "percent": b"%",
    "encoded": b"%2e",
    "commas": b", ",
    "schemes": b",token",
    "line feeds": b"\n",
    "escape sequences": b"\x1b[31m",
    "NUL": b"\0",
    "no UTF-8": b"\xff",
    "right to left": "\u202e".encode(),
    "emoji": "💥".encode(),
}


def hostile(name):
    """Nothing but one thing; and the same with an end that fits to nothing."""
    some = HOSTILE[name] * (SIZE // len(HOSTILE[name]))
    return [some, some[:-1] + b"!", b"!" + some[1:]]


def modules():
    for found in pkgutil.walk_packages(filtered_websocket.__path__, "filtered_websocket."):
        if not re.search(r"migrations|__main__|standalone", found.name):
            yield importlib.import_module(found.name)


PATTERNS = sorted(
    {
        (module.__name__, name)
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, re.Pattern)
    }
)
FILTERS = sorted(
    f"filtered_websocket.filters.{found.name}"
    for found in pkgutil.iter_modules(bundled.__path__)
    if found.name not in ("base", "entries", "options", "pipeline")
)


@pytest.fixture(scope="module")
def hostile_inputs():
    """``(name, bytes, the same as str)`` of each: one test for each would take longer than they."""
    return [(name, one, one.decode("latin-1")) for name in HOSTILE for one in hostile(name)]


@pytest.mark.parametrize(("module", "pattern"), PATTERNS)
def test_no_pattern_of_the_package_backtracks(module, pattern, hostile_inputs):
    found = getattr(importlib.import_module(module), pattern)
    for name, data, text in hostile_inputs:
        with ends(name):
            # To split is to search, and to search begins with a match at the start.
            for method in (found.fullmatch, found.split):
                method(data if isinstance(found.pattern, bytes) else text)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", FILTERS)
async def test_no_bundled_filter_takes_long(path, name, settings, capsys):
    settings.FILTERED_WEBSOCKET = {"TOKENS": "open"}
    pipeline = Pipeline([path])
    async with connect([]):
        [ann] = get_hub().connections.values()
        view = get_hub().view(pipeline)
        for data in hostile(name):
            event = {"type": "message", "channel": "c", "data": data, "pattern": None}
            with ends():
                for chain in (pipeline.data, pipeline.message):
                    with contextlib.suppress(Drop):
                        await chain.arun(ann, bytearray(data))
                with contextlib.suppress(Drop):
                    await pipeline.consumer.arun(view, event)
            await get_hub().settled()


@pytest.mark.parametrize("name", HOSTILE)
async def test_the_codec_does_not_take_long(name):
    codec = JSONCodec()

    for data in hostile(name):
        with ends(), pytest.raises(filtered_websocket.Close):
            codec.decode(bytearray(data), True)


def test_filters_and_patterns_were_found():
    assert len(FILTERS) == 9 and len(PATTERNS) >= 7
