"""``manage.py listen``."""

import asyncio
import json
import threading

import pytest
from django.core.management import CommandError, call_command

from filtered_websocket.api.listener import Listener
from filtered_websocket.checks.settings import PUBSUB
from filtered_websocket.layer.envelope import Batch, Item, group_key, seal
from filtered_websocket.management.commands import listen
from filtered_websocket.management.commands.listen import Received, as_line, as_object
from filtered_websocket.management.shell import LineWriter
from filtered_websocket.publish import publish

from ..layer.fake_redis import FakeRedis
from ..waiting import LIMIT
from .running import Running


def item(payload, kind="t", sender=""):
    return Item(1, kind, sender, payload, {})


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (item(b"hi"), "hi"),
        (item("é".encode()), "é"),
        (item(b"two\nlines\t\x1b[m"), "two\\nlines\\t\\x1b[m"),
        (item(b'{"a":\n [1,\t2]}'), '{"a":[1,2]}'),
        (item(b'{"a":1}', "j"), '{"a":1}'),
        (item('{"a":"\x9b"}'.encode(), "j"), '{"a":"\\u009b"}'),
        (
            item('{"a": "\\ud83d\\ude00 \N{LINE SEPARATOR}"}'.encode()),
            '{"a":"\N{GRINNING FACE} \\u2028"}',
        ),
        (item(b"[" * 100_000 + b"\n"), "[" * 100_000 + "\\n"),
        (item(b"NaN\n"), "NaN\\n"),
        (item(b"\xff\x00a", "b"), "\\xff\\x00a"),
        (item(b""), ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_message_is_one_line_that_controls_no_terminal(one, line):
    assert as_line(one) == line


def test_a_message_as_an_object_has_what_is_known_about_it():
    items = [item(b"a", sender="c"), item(b'{"b":1}', "j"), item(b"\xff", "b")]
    batch = Batch("o", "k", 7, items, "epoch")
    objects = [json.loads(as_object("g", batch, number)) for number in range(3)]
    assert all(one.pop("at") > 1e9 for one in objects)
    about = {"group": "g", "epoch": "epoch"}
    assert objects == [
        {**about, "sender": "c", "offset": 7, "data": "a"},
        {**about, "sender": None, "offset": 8, "data": {"b": 1}},
        {**about, "sender": None, "offset": 9, "b64data": "/w=="},
    ]
    assert "offset" not in json.loads(as_object("g", batch._replace(epoch=""), 0))


def batch(first, count=1, origin="o", epoch=""):
    return Batch(origin, "k", first, [item(b"x")] * count, epoch)


@pytest.mark.parametrize("epoch", ["", "e"])
def test_what_is_missing_and_what_comes_twice_is_known(epoch):
    received = Received()
    noted = [received.note(batch(first, 2, epoch=epoch)) for first in (5, 7, 7, 12, 14)]
    assert noted == [0, 0, None, 3, 0]
    assert received.note(batch(1, origin="p", epoch=epoch and "f")) == 0


async def test_it_prints_what_is_published_until_nobody_reads(layer):
    running = Running("listen", "a", "b")
    await asyncio.to_thread(running.said, "listen: listening to 'a', 'b'\n")
    for message, group in (("one", "a"), ({"n": 2}, "b"), ("of c", "c"), ("three\n", "a")):
        await asyncio.to_thread(publish, message, group)
    assert await running.lines(3) == ["one", '{"n":2}', "three\\n"]
    assert await asyncio.to_thread(running.end) == "listen: listening to 'a', 'b'\n"
    assert running.status == 0


async def test_as_json_each_line_is_an_object(layer):
    running = Running("listen", "a", "--json")
    await asyncio.to_thread(running.said, "listening")
    await asyncio.to_thread(publish, "one", "a")
    [line] = await running.lines(1)
    assert json.loads(line)["data"] == "one"
    await asyncio.to_thread(running.end)


async def test_what_was_missed_is_told(layer):
    running = Running("listen", "a")
    await asyncio.to_thread(running.said, "listening")
    channel = f"asgi__group__{group_key('a')}"
    with layer.client() as client:
        from channels.layers import get_channel_layer

        serialize = get_channel_layer().serialize
        for first in (0, 3, 3):
            sent = Batch("o", group_key("a"), first, [item(b"%d" % first)])
            client.publish(channel, serialize(seal(sent)))
    assert await running.lines(2) == ["0", "3"]
    assert "listen: 2 messages of 'a' were missed\n" in await asyncio.to_thread(running.end)


async def test_an_outage_is_told_and_it_goes_on(layer, monkeypatch):
    listeners = []
    enter = Listener.__aenter__

    async def noted(self):
        listeners.append(self)
        return await enter(self)

    monkeypatch.setattr(Listener, "__aenter__", noted)
    running = Running("listen", "a")
    await asyncio.to_thread(running.said, "listening")
    [one] = listeners
    one._lost(ConnectionError("gone"))
    one._callbacks["on_back"](1.25)
    await asyncio.to_thread(publish, "still there", "a")
    assert await running.lines(1) == ["still there"]
    told = await asyncio.to_thread(running.end)
    assert told.splitlines()[1:] == [
        "listen: lost the channel layer (Redis): ConnectionError: gone; what is published until it"
        " is back may be missed",
        "listen: the channel layer (Redis) is back after 1.2 s",
    ]


async def test_what_is_not_read_is_counted(layer, monkeypatch):
    came = threading.Event()

    class Full(LineWriter):
        def put(self, line):
            self.dropped += 1
            came.set()

    monkeypatch.setattr(listen, "LineWriter", Full)
    running = Running("listen", "a")
    await asyncio.to_thread(running.said, "listening")
    await asyncio.to_thread(publish, "one", "a")
    assert await asyncio.to_thread(came.wait, LIMIT)
    told = await asyncio.to_thread(running.end)
    assert "listen: 1 messages were dropped: they were not read\n" in told


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "a group name has 1 to 1024 characters"), ("x" * 1025, "a group name has 1 to 1024")],
)
def test_what_is_no_group_is_told(name, words):
    with pytest.raises(CommandError, match=words):
        call_command("listen", name)


def test_without_a_layer_nothing_can_be_heard(settings):
    settings.CHANNEL_LAYERS = {}
    with pytest.raises(CommandError, match="CHANNEL_LAYERS has no 'default'"):
        call_command("listen", "a")


def test_a_redis_that_is_not_there_is_one_line(settings, capsys):
    server = FakeRedis()
    server.close()
    settings.FILTERED_WEBSOCKET = {"LAYER_TIMEOUT": 0.2}
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [{"address": server.url}]}}
    }
    with pytest.raises(CommandError) as caught:
        call_command("listen", "a")
    assert str(caught.value).startswith("the channel layer (Redis) does not answer: ConnectionE")
    assert capsys.readouterr() == ("", "")
