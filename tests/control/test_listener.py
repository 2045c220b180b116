"""The channel layer without a hub."""

import asyncio

import pytest

from filtered_websocket.control import listener as module
from filtered_websocket.control.listener import Listener
from filtered_websocket.layer.envelope import Item, group_key

KEY = group_key("news")
ITEM = Item(1, "t", "", b"hi", {})


async def test_who_joins_a_group_gets_its_batches():
    batches = []
    async with Listener(batches.append) as one, Listener(print) as other:
        assert await one.join(KEY)
        await other.send(KEY, ITEM)
        await other.send(group_key("else"), ITEM)
        await one.send(KEY, ITEM)
        await asyncio.sleep(0)
        assert [batch.items for batch in batches] == [[ITEM], [ITEM]]
        assert len({batch.origin for batch in batches}) == 2
    await asyncio.sleep(0)
    assert len(batches) == 2


def test_it_must_be_entered():
    with pytest.raises(AssertionError, match="async with it first"):
        Listener(print).link  # noqa: B018


class Link:
    """Of a layer that does not answer."""

    def __init__(self, tasks, on_batch, **callbacks):
        self.callbacks = callbacks
        self.stopped = False

    def start(self):
        pass

    def want(self, key):
        pass

    async def wait_joined(self, key):
        return False

    def post(self, batch, on_sent):
        self.on_sent = on_sent

    async def stop(self):
        self.stopped = True


async def test_an_outage_is_told(monkeypatch):
    monkeypatch.setattr(module, "open_link", Link)
    told = []
    async with Listener(print, told.append, told.append, told.append) as listener:
        link = listener.link
        assert not await listener.join(KEY)
        assert listener.problem == "the channel layer (Redis) does not answer"
        error = ConnectionError("refused")
        link.callbacks["on_lost"](error)
        link.callbacks["on_back"](1.5)
        link.callbacks["on_joined_late"](KEY)
        link.callbacks["on_bad_envelope"](error)
        assert told == [error, 1.5, KEY]
        assert listener.problem.endswith("answer: ConnectionError: refused")
    assert link.stopped


async def test_what_cannot_be_sent_is_told(monkeypatch):
    monkeypatch.setattr(module, "open_link", Link)
    async with Listener(print) as listener:
        failed = listener.send(KEY, ITEM)
        listener.link.on_sent(ConnectionError("gone"))
        with pytest.raises(ConnectionError, match="gone"):
            await failed
        given_up = listener.send(KEY, ITEM)
        given_up.cancel()
        listener.link.on_sent(None)  # too late
