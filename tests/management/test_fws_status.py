"""``manage.py fws_status``."""

import asyncio
import io
import json
import time

import pytest
from django.core.management import CommandError, call_command

from filtered_websocket.hub.registry import process_name
from filtered_websocket.management.commands import fws_status as module
from filtered_websocket.management.commands.fws_status import (
    cut,
    duration,
    fitting,
    others,
    screen,
    size,
    stage_words,
    state,
    summary,
)
from filtered_websocket.testing import connect

from ..console.test_tee import BROADCAST, SHOUT, application
from .running import Running


def stage(name="shout", **changed):
    numbers = {"runs": 0, "errors": 0, "drops": 0, "closes": 0, "seconds": 0.0}
    return {"name": name, "path": f"mysite.{name}", **numbers, **changed}


def pipeline(**changed):
    chains = [{"chain": "message", "stages": [stage(runs=4, seconds=0.008, drops=1), stage("b")]}]
    about = {"paths": ["/chat/"], "home": "", "own": False, "connections": 2}
    return {**about, "chains": chains, **changed}


def inside(**changed):
    return {
        "worst_lag": 0.0021,
        "queue": {"messages": 3, "bytes": 300},
        "unsent": 2048,
        "layer": "up",
        "draining": False,
        "blocking": {"busy": 1, "abandoned": 0, "of": 8},
        "errors": 5,
        "pipelines": [pipeline(), pipeline(paths=["/fws-console/"], own=True)],
        **changed,
    }


def node(name, **changed):
    numbers = {"num_clients": 2, "num_users": 1, "num_subs": 3, "num_channels": 1, "uptime": 75}
    return {"uid": name, "name": name, "version": "1.0.0", **numbers, **changed}


OLD, NEW = node("web1_1", version="0.9", num_clients=10), node("web2_22", inside=inside())


def test_one_screen_has_the_processes_and_what_their_filters_have_done():
    assert list(screen([NEW, OLD])) == [
        "2 processes, 12 connections",
        "",
        "PROCESS  STATE  CONNECTIONS  USERS  QUEUE   UNSENT     LAG  ERRORS  THREADS  GROUPS"
        "          UP  VERSION",
        "web1_1   -               10      1      -        -       -       -        -       1"
        "  1 min 15 s  0.9",
        "web2_22  ok               2      1      3  2.0 KiB  2.1 ms       5      1/8       1"
        "  1 min 15 s  1.0.0",
        "",
        "/chat/  2 connections",
        "  message    | shout (4, 2.0 ms, 1 drops) | b (0)",
    ]
    home = node("a", inside=inside(pipelines=[pipeline(paths=[], home="g", connections=1)]))
    assert "home group 'g'  1 connection" in list(screen([home]))


def test_the_command_itself_is_no_process_of_the_site():
    own = node(process_name(), num_clients=0)
    serving = node(process_name())
    assert others([own, OLD, serving]) == [OLD, serving]


def test_where_nobody_is_connected_it_is_one_line():
    assert list(screen([])) == ["0 processes, 0 connections"]


def test_the_summary_has_the_connections_of_all_processes():
    told = summary([NEW, OLD])
    assert (told["connections"], told["subscriptions"]) == (12, 6)
    assert told["processes"] == [OLD, NEW] and told["at"] > 1e9
    assert told["pipelines"] == NEW["inside"]["pipelines"]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({}, "ok"),
        ({"layer": "lost"}, "layer lost"),
        ({"layer": "none"}, "no layer"),
        ({"draining": True, "layer": "lost"}, "draining"),
    ],
)
def test_a_process_says_how_it_is(changed, word):
    assert state(inside(**changed)) == word


def test_a_filter_says_how_its_runs_ended():
    one = stage(runs=3, seconds=3e-6, errors=1, closes=2)
    assert stage_words(one) == "shout (3, 1 us, 2 closes, 1 errors)"
    assert stage_words(stage("a\nb")) == "a\\nb (0)"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"), (5 << 30, "5.0 GiB")],
)
def test_bytes_are_told_for_people(number, text):
    assert size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(59, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_a_time_has_its_two_largest_units(seconds, text):
    assert duration(seconds) == text


def test_a_terminal_is_not_overfilled():
    lines = [str(number) for number in range(10)]
    assert fitting(lines, 10) == lines
    assert fitting(lines, 4) == ["0", "1", "2", "... 7 more lines"]
    assert fitting(lines, 0) == ["0", "... 9 more lines"]
    assert cut("abc", 3) == "abc" and cut("abcd", 3) == "ab…"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def asked(monkeypatch):
    """Answers one after the other; after the last one comes Ctrl-C."""
    monkeypatch.setattr(module, "check_layer", lambda: None)
    answers, waits = [], []

    def describe(*, inside, seconds):
        assert inside and seconds == module.ANSWER
        if not answers:
            raise KeyboardInterrupt
        return answers.pop(0)

    monkeypatch.setattr(module, "describe_processes", describe)
    monkeypatch.setattr(time, "sleep", waits.append)
    return answers, waits


def run(*options, output=None):
    stdout, stderr = output or io.StringIO(), io.StringIO()
    status = 0
    try:
        call_command("fws_status", *options, stdout=stdout, stderr=stderr)
    except SystemExit as ended:
        status = ended.code
    return status, stdout.getvalue(), stderr.getvalue()


def test_it_is_printed_once(asked):
    asked[0].append([OLD])
    status, out, err = run()
    assert (status, err) == (0, "") and out.startswith("1 process, 10 connections\n\nPROCESS")
    assert out.endswith("\n") and not out.endswith("\n\n")


def test_it_is_printed_again_and_again(asked):
    answers, waits = asked
    answers += [[OLD], None, [NEW]]
    status, out, err = run("--watch", "5")
    assert status == 130 and err == "fws_status: the channel layer (Redis) does not answer\n"
    assert out.startswith("1 process, 10 connections\n")
    assert "\n\n1 process, 2 connections\n" in out and out.endswith("\n\n")
    assert len(waits) == 3 and all(0 < wait <= 5 for wait in waits)


def test_on_a_terminal_each_screen_takes_the_place_of_the_last(asked, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "4")
    asked[0].append([OLD])
    _, out, _ = run("--watch", output=Terminal())
    assert out == "\x1b[H\x1b[J1 process, 10 conne…\n\n... 2 more lines\n"
    # What is printed once may be scrolled.
    asked[0].append([OLD])
    _, out, _ = run(output=Terminal())
    assert "\x1b" not in out and len(out.splitlines()) == 4


def test_as_json_each_answer_is_a_line(asked):
    asked[0].extend([[OLD], []])
    status, out, err = run("--watch", "--json")
    first, second = map(json.loads, out.splitlines())
    assert (status, err) == (130, "")
    assert first["connections"] == 10 and second["connections"] == 0


def test_a_redis_that_does_not_answer_is_one_line(asked):
    asked[0].append(None)
    with pytest.raises(CommandError, match=r"^the channel layer \(Redis\) does not answer$"):
        run("--json")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_pause_that_is_none_is_refused(asked, seconds):
    with pytest.raises(CommandError, match=r"from 0\.1 to 3600 seconds"):
        run("--watch", seconds)


def test_without_a_layer_nobody_can_be_asked(settings):
    settings.CHANNEL_LAYERS = {}
    with pytest.raises(CommandError, match="CHANNEL_LAYERS has no 'default'"):
        run()


async def test_the_connections_of_this_process_are_counted(layer, monkeypatch):
    app = application(SHOUT, BROADCAST)
    async with connect(app) as ann, connect(app) as bob:
        await ann.send("hi")
        assert await bob.receive() == "HI"
        running = Running("fws_status", "--json")
        [line] = await running.lines(1)
        await asyncio.to_thread(running.end)
        told = json.loads(line)
        assert told["connections"] == 2 and len(told["processes"]) == 1
        [chat] = [one for one in told["pipelines"] if one["paths"] == ["/chat/"]]
        [chain] = chat["chains"]
        assert [one["runs"] for one in chain["stages"]] == [1, 1]
