"""Publishing by the API."""

import asyncio
import base64
from concurrent.futures import Future

import pytest
from asgiref.sync import sync_to_async

from filtered_websocket.api import publishing
from filtered_websocket.exceptions import PublishError
from filtered_websocket.history import history
from filtered_websocket.testing import connect

from ..waiting import limited
from .calling import SITE, app, ask, error, result

aresult = sync_to_async(result)
aerror = sync_to_async(error)


async def test_members_get_what_is_published_and_json_stays_what_it_is():
    async with connect(app("news")) as client:
        for data, frame in [
            ({"a": [1, None, "\u00e9"]}, '{"a":[1,null,"\u00e9"]}'),
            (["x"], '["x"]'),
            ("text", "text"),
            (5, "5"),
            (1.5, "1.5"),
            (True, "true"),
            (None, "null"),
        ]:
            assert await aresult("publish", channel="news", data=data) == {}
            assert await client.receive() == frame
        encoded = base64.b64encode(b"\xff\0").decode()
        assert await aresult("publish", channel="news", data=None, b64data=encoded) == {}
        assert await client.receive() == b"\xff\0"


async def test_a_group_with_history_answers_where_it_is_kept():
    async with connect(app("kept:a")) as client:
        first = await aresult("publish", channel="kept:a", data=1)
        assert first == {"offset": 1, "epoch": first["epoch"]} and first["epoch"]
        skipped = await aresult("publish", channel="kept:a", data=2, skip_history=True)
        assert skipped == {}
        assert await aresult("publish", channel="kept:a", data=3) == {**first, "offset": 2}
        assert [await client.receive() for _ in range(3)] == ["1", "2", "3"]


def test_where_nobody_is_connected_it_is_kept_all_the_same():
    first = result("publish", channel="kept:a", data=1, idempotency_key="k")
    assert result("publish", channel="kept:a", data=2, idempotency_key="k") == first
    assert result("publish", channel="kept:a", data=3) == {**first, "offset": 2}
    assert [one.data for one in history("kept:a").publications] == [b"1", b"3"]


async def test_what_has_the_same_idempotency_key_is_published_once():
    async with connect(app("kept:a")) as client:
        fields = {"channel": "kept:a", "idempotency_key": "k"}
        first = await aresult("publish", data=1, **fields)
        assert await aresult("publish", data=2, **fields) == first
        assert await client.receive() == "1" and await client.received_nothing()


def test_an_idempotency_key_needs_a_history():
    for fields in ({"channel": "news"}, {"channel": "kept:a", "skip_history": True}):
        code, message = error("publish", data=1, idempotency_key="k", **fields)
        assert code == 108 and "idempotency_key" in message
    code, message = error("publish", data=1, channel="kept:a", idempotency_key="k" * 1025)
    assert code == 107 and "idempotency_key" in message


def test_tags_are_kept_with_the_message():
    result("publish", channel="kept:a", data=1, tags={"kind": "a"})
    result("publish", channel="kept:a", data=2)
    assert [one.tags for one in history("kept:a").publications] == [{"kind": "a"}, {}]


def test_data_and_tags_together_are_at_most_as_long_as_a_message(site):
    site.FILTERED_WEBSOCKET = SITE | {"MAX_MESSAGE_SIZE": 20}
    code, message = error("publish", channel="news", data="x" * 21)
    assert code == 107 and "MAX_MESSAGE_SIZE is 20" in message
    code, message = error("publish", channel="news", data="x" * 12, tags={"a": "b"})
    assert code == 107 and "data and tags are over 20 bytes" in message
    assert result("publish", channel="news", data="x" * 11, tags={"a": "b"}) == {}


async def test_a_broadcast_answers_for_each_channel():
    async with connect(app("news", "kept:a")) as client:
        channels = ["news", "nothing", "kept:a", ""]
        answer = await aresult("broadcast", channels=channels, data={"n": 1})
        plain, unknown, kept, missing = answer["responses"]
        assert plain == {"result": {}} and kept["result"]["offset"] == 1
        assert unknown["error"]["code"] == 102 and missing["error"]["code"] == 107
        assert [await client.receive() for _ in range(2)] == ['{"n":1}'] * 2


@pytest.fixture
def sends(monkeypatch):
    """Has what is handed over come to an end that the test chooses."""

    def choose(end):
        def hand_over(group, item, keep, wait):
            assert wait
            return end()

        monkeypatch.setattr(publishing, "hand_over", hand_over)

    return choose


def fails(error):
    told = Future()
    told.set_exception(error)
    return told


def no_room():
    raise PublishError("no room")


@pytest.mark.parametrize("end", [no_room, lambda: fails(PublishError("no room"))])
def test_what_the_layer_does_not_take_is_error_100(sends, end):
    sends(end)
    assert error("publish", channel="news", data=1) == (100, "internal server error: no room")
    [response] = result("broadcast", channels=["news"], data=1)["responses"]
    assert response["error"]["code"] == 100


def test_a_layer_that_does_not_answer_is_waited_for_as_long_as_for_any_answer(site, sends):
    site.FILTERED_WEBSOCKET = SITE | {"LAYER_TIMEOUT": 0.01}
    sends(Future)
    code, message = error("publish", channel="news", data=1)
    assert code == 100 and "0.01 s" in message and "may arrive" in message


async def test_a_batch_in_parallel_is_on_its_way_together(sends):
    begun = []

    def end():
        begun.append(Future())
        if len(begun) == 3:
            for told in begun:
                told.set_result(None)
        return begun[-1]

    sends(end)
    command = {"publish": {"channel": "news", "data": 1}}
    async with limited():
        fields = {"commands": [command] * 3, "parallel": True}
        answer = await asyncio.to_thread(ask, "batch", **fields)
    assert answer == {"replies": [{"publish": {}}] * 3}
