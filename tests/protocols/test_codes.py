"""Our close codes as the Centrifuge clients are told them."""

import pytest

from filtered_websocket import close_codes
from filtered_websocket.protocols import codes, serving
from filtered_websocket.protocols.codes import ReplyError, translate
from filtered_websocket.testing import connect

from .clients import speak


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *[(4100, 4100), (4101, 3008), (4102, 3013), (4201, 3012), (4200, 3001), (4202, 3010)],
        *[(4400, 3501), (4413, 3501), (4401, 3500), (4403, 3507), (4500, 3004)],
        *[(4999, 4999), (3501, 3501), (1000, 1000)],
    ],
)
def test_a_close_code_is_translated(ours, theirs):
    assert translate(ours, "why") == (theirs, "why")


def test_a_close_without_a_reason_gets_the_word_of_the_protocol():
    assert translate(close_codes.RESTART, "") == (3001, "shutdown")


def test_only_temporary_errors_say_so():
    assert ReplyError(100).fields["temporary"] is True
    assert ReplyError(103).fields == {"code": 103, "message": "permission denied"}


@pytest.fixture
def lines(monkeypatch, caplog):
    """The log, as if no line had been written."""
    monkeypatch.setattr(codes, "_throttle", codes.LogThrottle())
    return caplog


async def test_the_log_tells_once_of_a_client_of_centrifuge_on_a_plain_route(lines):
    for _ in range(2):
        async with connect([], path="/chat") as ann:
            await ann.send('{"connect":{"token":"x"},"id":1}')
            await ann.settle()
    [line] = [one for one in lines.records if "plain route" in one.getMessage()]
    assert line.levelname == "WARNING" and line.connection_id
    assert " to /chat, " in line.getMessage() and "protocol='centrifuge'" in line.getMessage()
    assert "token" not in line.getMessage()


@pytest.mark.parametrize(
    ("payload", "offered", "is_one"),
    [
        (b'{"id": 1, "connect": {}}', (), True),
        (b'{"connect":{},"id":1}\n{"id":2,"subscribe":{}}', (), True),
        (b"\x05\x08\x01", ("centrifuge-protobuf",), True),
        (b'{"connect": {"name": "ann"}}', (), False),
        (b'{"connect": true, "id": 1}', (), False),
        (b'{"text": "connect"}', ("json",), False),
        (b"", (), False),
    ],
)
def test_which_first_frame_is_that_of_a_client_of_centrifuge(payload, offered, is_one):
    assert codes.is_connect(payload, offered) is is_one


async def test_only_the_first_frame_of_a_plain_connection_is_looked_at(lines, monkeypatch):
    def note(payload, offered):
        seen.append(payload)
        return False

    seen = []
    monkeypatch.setattr(serving, "is_connect", note)
    async with connect([]) as ann:
        for text in ("one", "two", "three"):
            await ann.send(text)
        await ann.settle()
    assert seen == [b"one"]


async def test_the_log_tells_of_a_channel_that_no_rule_declares(lines):
    async with speak() as ann:
        assert await ann.error(subscribe={"channel": "nothing\n"}) == 102
        assert await ann.error(subscribe={"channel": "another"}) == 102
        assert await ann.error(subscribe={"channel": "n" * 300}) == 102
    [line] = [one.getMessage() for one in lines.records if "no group rule" in one.getMessage()]
    assert r"the channel 'nothing\n', which no group rule declares: add one to group_rules" in line


async def test_where_there_are_no_rules_the_log_names_the_setting(lines):
    async with speak(rules=None) as ann:
        assert await ann.error(subscribe={"channel": "news"}) == 102
    assert "add one to FILTERED_WEBSOCKET['GROUPS'] (1 so far)" in lines.text
