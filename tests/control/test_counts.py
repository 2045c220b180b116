"""How many connections use a token, in all processes."""

import asyncio

import pytest
from asgiref.sync import sync_to_async

from filtered_websocket import publish
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.control import counts
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.models import Token

from ..handshaking import shake_hands

pytestmark = pytest.mark.django_db(transaction=True)


async def test_connections_are_counted_by_the_token_they_use(monkeypatch):
    monkeypatch.setattr(counts, "WAIT", 0.05)
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    clients, records = [], []
    for number in (2, 1):
        record, key = await sync_to_async(Token.objects.create_key)(name="t")
        records.append(record)
        for _ in range(number):
            headers = [("authorization", f"Token {key}".encode())]
            clients.append(await shake_hands(app, headers=headers))
    ids = [record.pk for record in records]
    counted = await asyncio.to_thread(counts.count_connections, [*ids, 0])
    assert counted == {ids[0]: 2, ids[1]: 1, 0: 0}
    assert get_hub().grants.counts_asked == {}
    for client in clients:
        await client.close()


async def test_while_the_layer_is_away_nothing_is_known(monkeypatch):
    monkeypatch.setattr(counts, "WAIT", 0.05)
    app = FilteredWebSocketConsumer.as_asgi(filters=[])
    client = await shake_hands(app)
    get_hub().publish_queue.put = lambda *args: None  # nothing leaves
    assert await asyncio.to_thread(counts.count_connections, [1]) is None
    await client.close()


async def test_on_an_event_loop_nobody_may_wait_for_the_answers():
    assert counts.count_connections([1]) is None


def test_without_connections_and_without_a_layer_nothing_is_known(settings):
    settings.CHANNEL_LAYERS = {}
    assert counts.count_connections([1]) is None


def test_a_process_without_connections_asks_the_layer(monkeypatch):
    """With the in-memory layer, on which only this process answers."""
    monkeypatch.setattr(counts, "WAIT", 0.05)
    try:
        assert counts.count_connections([1]) == {1: 0}
        assert counts.count_connections([2]) == {2: 0}
    finally:
        # Ends the thread and all that it listens with.
        publish._close()
