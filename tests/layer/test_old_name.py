"""Processes that listen under the name of another database: old_name."""

import asyncio
from collections import Counter

import pytest
from channels.layers import InMemoryChannelLayer, get_channel_layer

from filtered_websocket.layer import link, old_name
from filtered_websocket.layer.link import LayerLink
from filtered_websocket.layer.old_name import asks_for_old_name, warn_of_old_name
from filtered_websocket.threads.tasks import Tasks

from ..waiting import limited
from .fake_redis import FakeRedis

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


@pytest.fixture(autouse=True)
def not_asked(monkeypatch):
    monkeypatch.setattr(old_name, "_is_asked", False)


@pytest.fixture
def fake():
    server = FakeRedis()
    yield server
    server.close()


@pytest.fixture
def use(settings, fake):
    def use(database, **config):
        host = f"redis://127.0.0.1:{fake.port}/{database}?protocol=2"
        settings.CHANNEL_LAYERS = {
            "default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": [host], **config}}
        }
        return get_channel_layer()

    return use


async def test_who_listens_under_the_old_name_is_counted_once_per_process(use, fake, caplog):
    layer = use(1)
    fake.listeners = 3
    assert asks_for_old_name(layer)
    await warn_of_old_name(layer)
    assert "3 processes listen under 'fws'" in caplog.text and "'fws-1'" in caplog.text
    assert fake.asked == [b"asgi__group__fws.house"] and not asks_for_old_name(layer)


async def test_the_prefix_is_that_of_the_layer(use, fake):
    await warn_of_old_name(use(1, prefix="site"))
    assert fake.asked == [b"site__group__fws.house"]


@pytest.mark.parametrize("listeners", [0, b"-NOPERM no\r\n"])
async def test_where_nobody_does_or_nobody_may_ask_nothing_is_said(use, fake, caplog, listeners):
    fake.listeners = listeners
    await warn_of_old_name(use(1))
    assert len(fake.asked) == 1 and caplog.text == ""


async def test_a_redis_that_is_away_is_no_error(use, fake, caplog):
    layer = use(1)
    fake.close()
    await warn_of_old_name(layer)
    assert caplog.text == ""


async def test_nobody_asks_on_database_0_nor_where_the_name_is_set_by_hand(use, settings):
    assert not asks_for_old_name(use(0))
    settings.FILTERED_WEBSOCKET = {"NAMESPACE": "site"}
    assert not asks_for_old_name(use(1))


async def test_only_of_a_layer_that_shows_its_hosts_it_can_be_asked(use):
    use(1)
    assert not asks_for_old_name(InMemoryChannelLayer())


@pytest.mark.parametrize("asks", [True, False])
async def test_a_link_asks_when_it_starts(monkeypatch, asks):
    asked, layer = asyncio.Event(), InMemoryChannelLayer()

    async def warn(of):
        assert of is layer
        asked.set()

    monkeypatch.setattr(link, "asks_for_old_name", lambda of: asks)
    monkeypatch.setattr(link, "warn_of_old_name", warn)
    ours = LayerLink(layer, Tasks(Counter()), *[lambda *args: None] * 5)
    ours.start()
    if asks:
        async with limited():
            await asked.wait()
    await ours.stop()
    assert asked.is_set() is asks
