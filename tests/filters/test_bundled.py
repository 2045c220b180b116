"""The six bundled filters, each by its path."""

import re

import pytest

from filtered_websocket import WebSocketMessageFilter
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.testing import connect

from ..connections.test_connection import message_filter

FILTERS = "filtered_websocket.filters."


def put_event(web_socket_instance, data):
    web_socket_instance.queue.put({"type": "message", "channel": "global", "data": bytes(data)})


async def test_broadcast_messages_reaches_every_other_member():
    filters = [FILTERS + "broadcast_messages"]
    async with connect(filters) as ann, connect(filters) as bob, connect(filters) as cy:
        await ann.send("hi")
        assert await bob.receive() == await cy.receive() == "hi"
        assert await ann.received_nothing() and await bob.received_nothing()


async def test_broadcast_messages_to_self_reaches_its_sender_too():
    filters = [{"NAME": FILTERS + "broadcast_messages", "OPTIONS": {"to_self": True}}]
    async with connect(filters) as ann, connect(filters) as bob:
        await ann.send(b"\xff")
        assert await ann.receive() == await bob.receive() == b"\xff"


BY_TOKEN = [FILTERS + "broadcast_messages_by_token"]
NO_TOKEN = "Error: No token has been set"


@pytest.fixture
def open_tokens(settings):
    settings.FILTERED_WEBSOCKET = {"TOKENS": "open"}


def registered(token):
    return f"Successfully registered with broadcast group: {token}"


@pytest.mark.usefixtures("open_tokens")
async def test_by_token_a_message_reaches_those_who_share_the_token():
    async with (
        connect(BY_TOKEN) as ann,
        connect(BY_TOKEN) as bob,
        connect(BY_TOKEN) as cy,
        connect(BY_TOKEN) as dan,
    ):
        for client, token in ((ann, "abc"), (bob, "abc"), (cy, "xyz")):
            await client.send(f"token:{token}")
            assert await client.receive() == registered(token)
        await ann.send("hello")
        assert await bob.receive() == "hello"
        for client in (ann, cy, dan):
            assert await client.received_nothing()
        await dan.send("hello?")
        assert await dan.receive() == NO_TOKEN


@pytest.mark.usefixtures("open_tokens")
@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ("token:abc", registered("abc")),
        ("please token:abc and more", registered("abc")),
        ("token:abc\tx", registered("abc")),
        ("token:t\u00fcr", registered("t\u00fcr")),
        ("token:a token:b", registered("a")),
        (b"token:\xff", registered("\\xff")),
        ("token:" + "x" * 128, registered("x" * 128)),
        ("token:" + "x" * 129, "Error: A token has at most 128 characters"),
        ("token:", NO_TOKEN),
        ("token: abc", NO_TOKEN),
        ("Token:abc", NO_TOKEN),
        ("", NO_TOKEN),
    ],
)
async def test_by_token_what_is_a_token(message, answer):
    async with connect(BY_TOKEN) as ann:
        await ann.send(message)
        assert await ann.receive() == answer


@pytest.mark.usefixtures("open_tokens")
async def test_by_token_a_codecs_message_is_no_token():
    class Codec:
        def decode(self, frame, text):
            return frame.decode()

        def encode(self, message, meta):
            return message

    app = FilteredWebSocketConsumer.as_asgi(filters=BY_TOKEN, codec=Codec())
    async with connect(app) as ann:
        await ann.send("token:abc")
        assert await ann.receive() == NO_TOKEN


@pytest.mark.usefixtures("open_tokens")
async def test_by_token_an_empty_token_is_a_message_like_any_other():
    async with connect(BY_TOKEN) as ann, connect(BY_TOKEN) as bob:
        for client in (ann, bob):
            await client.send("token:abc")
            await client.receive()
        await ann.send("token:")
        assert await bob.receive() == "token:"


@pytest.mark.usefixtures("open_tokens")
async def test_by_token_another_token_takes_the_place_of_the_first():
    async with connect(BY_TOKEN) as ann, connect(BY_TOKEN) as bob:
        for client in (ann, bob):
            await client.send("token:abc")
            await client.receive()
        for _ in range(2):
            await ann.send("token:xyz")
            assert await ann.receive() == registered("xyz")
        await bob.send("still there?")
        assert await ann.received_nothing()
        assert set(get_hub().groups.names) >= {"token:abc", "token:xyz"}


@pytest.mark.usefixtures("open_tokens")
async def test_by_token_the_chain_goes_on_after_an_answer():
    def later(web_socket_instance, data):
        web_socket_instance.push(b"later")

    async with connect([*BY_TOKEN, message_filter(later)]) as ann:
        for message in ("x", "token:abc"):
            await ann.send(message)
            await ann.receive()
            assert await ann.receive() == "later"


async def test_broadcast_pubsub_sends_an_events_data_to_every_client():
    filters = [message_filter(put_event), FILTERS + "broadcast_pubsub"]
    async with connect(filters) as ann, connect(filters) as bob:
        await ann.send("hello from the server!")
        assert await ann.receive() == await bob.receive() == "hello from the server!"
        get_hub().events.post("gap", {"missed": 1})
        for view in get_hub().views.values():
            view.queue.put("not an event with data")
        assert await ann.received_nothing()


class Pop(WebSocketMessageFilter):
    """The 2014 manual's popchar."""

    @classmethod
    def filter(cls, web_socket_instance, data):
        data.pop()


class Shorten(WebSocketMessageFilter):
    """The same without changing what it was given."""

    @classmethod
    def filter(cls, web_socket_instance, data):
        return data[:-1].decode()


@pytest.mark.parametrize("shorten", [Pop, Shorten])
@pytest.mark.parametrize("before", [True, False])
async def test_stdout_messages_prints_what_the_pipe_has_come_to(shorten, before, capsys):
    printing = FILTERS + "stdout_messages"
    async with connect([shorten, printing] if before else [printing, shorten]) as ann:
        await ann.send("Test")
        await ann.settle()
    heading, line = capsys.readouterr().out.splitlines()
    assert heading == "--MESSAGE--"
    assert re.fullmatch(rf"[0-9a-f-]{{36}} => {'Tes' if before else 'Test'}", line)


async def test_stdout_rawdata_prints_every_frame_on_one_line(capsys):
    async with connect([FILTERS + "stdout_rawdata"]) as ann:
        await ann.send("a\nERROR forged\x1b[31m")
        await ann.send(b"\xff")
        await ann.settle()
    assert capsys.readouterr().out == (
        "--RAWDATA--\na\\nERROR forged\\x1b[31m\n--RAWDATA--\n\\xff\n"
    )


async def test_stdout_pubsub_prints_every_event(capsys):
    filters = [message_filter(put_event), FILTERS + "stdout_pubsub"]
    async with connect(filters) as ann:
        await ann.send("hello")
        await ann.settle()
    assert capsys.readouterr().out == (
        "--PUBSUB--\n{'type': 'message', 'channel': 'global', 'data': b'hello'}\n"
    )


def test_bundled_filters_import_nothing_a_user_could_not():
    import sys
    from pathlib import Path

    import filtered_websocket.filters as package

    not_bundled = {"__init__", "base", "entries", "options", "pipeline"}
    for path in Path(package.__file__).parent.glob("*.py"):
        if path.stem in not_bundled:
            continue
        imports = re.findall(r"^(?:from|import) (\S+)", path.read_text(), re.MULTILINE)
        ours = set(imports) - sys.stdlib_module_names
        assert ours <= {".base", "..close_codes", "..exceptions"}, path.name
