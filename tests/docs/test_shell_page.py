"""The page on the shell: each command prints what it shows."""

import asyncio
import json
import re
import shlex
import sys
from io import BytesIO, TextIOWrapper

import pytest
from django.core.management import call_command

from filtered_websocket.checks.application import load_application
from filtered_websocket.logs import recent
from filtered_websocket.publish import publish
from filtered_websocket.routing import websocket_urlpatterns
from filtered_websocket.testing import connect

from ..management.conftest import layer as layer  # a fixture
from ..management.running import Running
from ..snippets import named

pytestmark = pytest.mark.repeats

#: What differs from run to run.
DIFFERS = [
    (r"\d\d:\d\d:\d\d\.\d{3}", r"\\d\\d:\\d\\d:\\d\\d\\.\\d{3}"),
    (r"(?<= )[0-9a-f]{8}(?= )", "[0-9a-f]{8}"),
    (r"\w+_4711", r"\\S+_\\d+"),
    (r"\d+ us|0\.4 ms", r"\\d+(\\.\\d)? (us|ms)"),
    (r"3 h 5 min", r"\\d+ \\w+( \\d+ \\w+)?"),
    (r"1\.0\.0\.dev0", r"\\S+"),
    (r"1795820800\.8\d", r"\\d+\\.\\d+"),
]


def shown(name):
    """The words of a command, and a pattern for each line that it prints."""
    first, *lines = named("docs/shell.md")[name].splitlines()
    patterns = []
    for line in lines:
        pattern = re.escape(line).replace(r"\ ", " ")
        for what, instead in DIFFERS:
            pattern = re.sub(what.replace(r"\.", r"\\\."), instead, pattern)
        patterns.append(pattern)
    return shlex.split(first.partition("manage.py ")[2]), patterns


@pytest.fixture
def site(settings, layer):
    """The routes of the example."""
    broadcast = "filtered_websocket.filters.broadcast_messages"
    settings.INSTALLED_FILTERS = ["fws_project.filters.Tidy", broadcast]
    load_application()
    return websocket_urlpatterns[0].callback


async def test_the_status_of_all_processes_is_shown(site, monkeypatch):
    monkeypatch.setattr(recent, "total", 0)  # those of other tests
    command, patterns = shown("fws_status")
    async with connect(site) as ann, connect(site) as bob:
        for text in ("a", "   ", "b"):
            await ann.send(text)
        assert [await bob.receive() for _ in range(2)] == ["a", "b"]
        running = Running(*command)
        printed = [line for line in (await asyncio.to_thread(running.out.read)).splitlines()]
        await asyncio.to_thread(running.end)
        # Routes of other tests may follow.
        for pattern, line in zip(patterns, printed, strict=False):
            assert re.fullmatch(spaced(pattern), line), (pattern, line)
        assert len(printed) >= len(patterns)
        first, number = named("docs/shell.md")["status in a script"].splitlines()
        asked, program = first.partition("manage.py ")[2].split(" | ")
        running = Running(*shlex.split(asked))
        [line] = await running.lines(1)
        await asyncio.to_thread(running.end)
        key = program.removeprefix("jq .")
        assert json.loads(line)[key] == int(number)


def spaced(pattern):
    """Columns are as wide as what is in them."""
    return re.sub(" {2,}", " {2,}", pattern)


@pytest.mark.parametrize("name", ["tee a filter", "tee a route"])
async def test_a_tee_shows_what_passes(site, name):
    command, patterns = shown(name)
    notes = [one for one in patterns if one.startswith("tee:")]
    lines = patterns[len(notes) :]
    async with connect(site) as ann, connect(site):
        running = Running(*command)
        await asyncio.to_thread(running.said, "watching in")
        await ann.send("  hi ")
        if name == "tee a filter":
            await ann.send("   ")
        printed = await running.lines(len(lines))
        told = (await asyncio.to_thread(running.end)).splitlines()
    for pattern, line in zip([*notes, *lines], [*told, *printed], strict=True):
        assert re.fullmatch(pattern, line), (pattern, line)


@pytest.mark.parametrize("name", ["listen", "listen as objects"])
async def test_a_listener_prints_what_is_published(site, name):
    command, (note, *lines) = shown(name)
    running = Running(*command)
    await asyncio.to_thread(running.said, "listening")
    await asyncio.to_thread(publish, "hi", "default")
    await asyncio.to_thread(publish, {"stock": 3}, "default")
    for pattern, line in zip(lines, await running.lines(len(lines)), strict=True):
        assert re.fullmatch(pattern, line), (pattern, line)
    assert re.fullmatch(note, (await asyncio.to_thread(running.end)).strip())


async def test_lines_are_published(site, monkeypatch):
    [line] = named("docs/shell.md")["publish"].splitlines()
    fed, piped = line.removeprefix("$ ").split(" | ")
    text = shlex.split(fed)[1].encode().decode("unicode_escape")
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(text.encode())))
    async with connect(site) as ann:
        await asyncio.to_thread(call_command, *shlex.split(piped.partition("manage.py ")[2]))
        assert [await ann.receive() for _ in range(2)] == ["one", "two"]
