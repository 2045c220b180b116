"""``manage.py tee``."""

import asyncio
import json

import pytest
from django.core.management import CommandError, call_command

from filtered_websocket.console import tee as tee_module
from filtered_websocket.console.tee import Tee
from filtered_websocket.management.commands import tee as module
from filtered_websocket.management.commands.tee import lines_of, outcome, text_of
from filtered_websocket.testing import connect

from ..console.test_tee import BROADCAST, SHOUT, application
from .running import Running

TEXT = {"kind": "text", "size": 2, "text": "hi"}


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (TEXT, '"hi"'),
        ({"kind": "text", "size": 9, "text": 'a"b\n', "cut": True}, '"a"b\\n…"'),
        ({"kind": "json", "size": 7, "text": '{"a":1}'}, '{"a":1}'),
        ({"kind": "binary", "size": 1, "text": "\\xff"}, "\\xff"),
        ({"kind": "text", "size": 2}, "<text 2 bytes>"),
        ({"kind": "object", "size": None}, "<object>"),
        ({"kind": "none", "size": 0}, "-"),
        (None, "nothing"),
    ],
)
def test_a_payload_is_one_line(shown, text):
    assert text_of(shown) == text


@pytest.mark.parametrize(
    ("end", "text"),
    [
        ({"how": "drop", "why": ""}, "drop"),
        ({"how": "close", "code": 4000, "why": "bye"}, "close 4000 bye"),
        ({"how": "error", "class": "ValueError", "why": "x"}, "error ValueError x"),
    ],
)
def test_an_end_is_told_in_words(end, text):
    assert outcome(end) == text


def stage(**changed):
    return {"filter": "shout", "in": TEXT, "out": TEXT, "end": None, "seconds": 0.0, **changed}


def test_a_record_has_a_line_for_each_filter():
    about = {"id": "0123456789abcdef", "at": 0.0, "connection": "c1-2-3-4-5-6", "is": "chain"}
    stages = [
        stage(),
        stage(out=TEXT | {"text": "HI"}),
        stage(out=None, end={"how": "drop", "why": ""}),
    ]
    record = {**about, "chain": "message", "stages": stages, "in": TEXT, "out": TEXT}
    start = "01234567  c1-2-3-4"
    assert [line[14:] for line in lines_of(record)] == [
        f'{start}  message     shout: "hi"  0 us',
        f'{start}  message     shout: "hi" -> "HI"  0 us',
        f'{start}  message     shout: "hi" -> drop  0 us',
    ]
    grouped = {**record, "chain": "group", "connection": None, "sender": None, "stages": []}
    grouped |= {"members": 3, "process": "web_1", "group": "g"}
    [line] = lines_of(grouped)
    assert line[14:] == "01234567  -         group       \"hi\" of 'g' to 3 in web_1"
    [line] = lines_of({**about, "is": "publish", "group": "g", "in": TEXT})
    assert line[14:] == f"{start}  publish     \"hi\" to 'g'"
    [line] = lines_of({**about, "is": "frame", "way": "out", "in": TEXT})
    assert line[14:] == f'{start}  out         "hi"'


async def started(*command):
    """A tee that a process has heard of."""
    running = Running("tee", *command)
    await asyncio.to_thread(running.said, "tee: watching in")
    return running


async def test_it_shows_what_passes_a_filter_until_nobody_reads(layer):
    app = application(SHOUT, BROADCAST)
    async with connect(app) as ann:
        running = await started("/chat/shout")
        for text in ("hi", "drop"):
            await ann.send(text)
        lines = await running.lines(2)
        assert '  message     shout: "hi" -> "HI"  ' in lines[0]
        assert '  message     shout: "drop" -> drop too quiet  ' in lines[1]
        assert lines[0].split()[2] == ann.connection.id[:8]
        told = await asyncio.to_thread(running.end)
        assert told.startswith("tee: on /chat/shout\ntee: watching in ")
        assert running.status == 0 and "dropped" not in told


async def test_of_a_connection_and_of_a_group_it_shows_whole_records_as_json(layer):
    app = application(SHOUT, BROADCAST)
    async with connect(app) as ann, connect(app):
        for on in (("--connection", ann.connection.id), ("--group", "g")):
            running = await started(*on, "--json", "--messages", "2", "--no-payloads")
            await ann.send("hi")
            records = list(map(json.loads, await running.lines(2)))
            assert len({record["id"] for record in records}) == 1
            assert all(record["in"].keys() == {"kind", "size"} for record in records)
            # It ends by itself.
            assert await running.lines(1) == [""]
            await asyncio.to_thread(running.end)
            assert running.status == 0


async def test_what_becomes_of_the_tee_is_told(layer, monkeypatch):
    monkeypatch.setattr(module, "ANSWER", 0.0)
    running = Running("tee", "--group", "nowhere")
    await asyncio.to_thread(running.said, "tee: no process has answered: nobody is connected")
    await asyncio.to_thread(running.end)
    tees = []
    enter = Tee.__aenter__

    async def noted(self):
        tees.append(self)
        return await enter(self)

    monkeypatch.setattr(Tee, "__aenter__", noted)
    async with connect(application(BROADCAST)):
        running = await started("--group", "nowhere")
        assert ", which has none of it now\n" in running.errors
        tees[0].dropped = 3
        loop = tees[0]._renewing.get_loop()
        for record in (
            {"is": "outage", "at": 0, "lost": True},
            {"is": "outage", "at": 0, "lost": False},
            {"is": "lost", "at": 0, "dropped": 3},
            {"is": "end", "at": 0, "process": "web_1", "why": "bytes"},
        ):
            loop.call_soon_threadsafe(tees[0]._put, record)
        loop.call_soon_threadsafe(tees[0].close)
        assert await running.lines(1) == [""]
        told = (await asyncio.to_thread(running.end)).splitlines()
    assert told[-4:] == [
        "tee: lost Redis",
        "tee: Redis is back",
        "tee: ended in web_1: bytes",
        "tee: 3 records were dropped: they came too fast",
    ]


async def test_a_connection_that_no_process_has_is_told_and_ends_it(layer, monkeypatch):
    monkeypatch.setattr(module, "ANSWER", 0.02)
    monkeypatch.setattr(tee_module, "RENEW", 0.05)
    running = Running("tee", "--connection", "nosuch")
    await asyncio.to_thread(running.said, "tee: no process has answered")
    async with connect(application(BROADCAST)) as ann:
        told = "CommandError: no process has a connection 'nosuch' (1 answered): write a whole id"
        await asyncio.to_thread(running.said, told)
        await asyncio.to_thread(running.end)
        assert running.status == 1
        found = await started("--connection", ann.connection.id, "--messages", "1")
        await ann.send("hi")
        assert [line != "" for line in await found.lines(2)] == [True, False]
        await asyncio.to_thread(found.end)
        assert found.status == 0


async def test_a_reader_that_is_gone_while_nothing_passes_ends_it(layer, monkeypatch):
    """Also where only a write shows it."""
    monkeypatch.setattr(module, "told_when_closed", lambda stream, on_closed: LineTold())
    app = application(SHOUT)
    async with connect(app) as ann:
        running = await started("/chat/")
        running.out.close()
        await ann.send("hi")
        await asyncio.to_thread(running._thread.join)
        assert running.status == 0


class LineTold:
    def __enter__(self):
        pass

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["nope/x"], r"^there is no route 'nope/x': the routes are "),
        (["--group", ""], "^a group name has 1 to 1024 characters"),
        (["--group", "g", "--size", "99999"], "^size: 99999 is not between 0 and 16384"),
        (["/", "--group", "g"], "not allowed with argument"),
        ([], "one of the arguments PLACE --connection --group is required"),
    ],
)
def test_a_mistake_is_one_line(layer, command, words):
    with pytest.raises(CommandError, match=words):
        call_command("tee", *command)


def test_a_wrong_application_is_told(settings):
    settings.ASGI_APPLICATION = "nowhere.application"
    with pytest.raises(CommandError, match=r"ASGI_APPLICATION 'nowhere\.application': "):
        call_command("tee", "/")


def test_without_a_layer_there_is_nothing_to_see(settings):
    settings.CHANNEL_LAYERS = {}
    with pytest.raises(CommandError, match="CHANNEL_LAYERS has no 'default'"):
        call_command("tee", "/")


def test_a_redis_that_does_not_answer_is_told(layer, monkeypatch):
    async def fail(self):
        raise TimeoutError("the channel layer (Redis) does not answer")

    monkeypatch.setattr(Tee, "__aenter__", fail)
    with pytest.raises(CommandError, match="does not answer"):
        call_command("tee", "--group", "g")
