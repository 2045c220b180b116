"""Names in Redis: the rights that they need, and processes with an old one."""

import asyncio
import logging
from collections import Counter

import pytest
from channels.layers import InMemoryChannelLayer, get_channel_layer
from channels_redis import pubsub
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoPermissionError

from filtered_websocket.layer import link as link_module
from filtered_websocket.layer import names
from filtered_websocket.layer.envelope import Batch
from filtered_websocket.layer.link import LayerLink
from filtered_websocket.layer.names import (
    NO_MASTER,
    asks_for_old_name,
    explain,
    needed_rights,
    warn_of_old_name,
)
from filtered_websocket.publishing.items import new_item
from filtered_websocket.threads.tasks import Tasks

from ..waiting import limited
from .fake_redis import FakeRedis

REFUSED = NoPermissionError("No permissions to access a channel")


async def test_the_rights_of_the_pubsub_layer_have_its_prefix_and_the_namespace(settings):
    assert needed_rights(RedisPubSubChannelLayer()) == (
        "&asgi__group__fws.* &asgispecific.* +subscribe +unsubscribe +publish"
    )
    settings.FILTERED_WEBSOCKET = {"NAMESPACE": "site"}
    assert needed_rights(RedisPubSubChannelLayer(prefix="live")) == (
        "&live__group__site.* &livespecific.* +subscribe +unsubscribe +publish"
    )


def test_the_rights_of_the_core_layer_are_keys():
    rights = needed_rights(RedisChannelLayer(prefix="live"))
    assert rights.startswith("~live:group:fws.* ~livespecific.* ")


def test_what_tells_its_cause_itself_is_not_explained():
    error = RedisConnectionError("away")
    assert explain(error, RedisChannelLayer()) is error
    explained = explain(REFUSED, RedisChannelLayer())
    assert isinstance(explained, PermissionError) and str(REFUSED) in str(explained)


@pytest.mark.parametrize("found_by", NO_MASTER, ids=["plain", "asyncio"])
def test_a_master_that_is_not_found_is_explained_in_one_line(found_by):
    options = "Redis<ConnectionPool<host=10.0.0.1>> - TimeoutError('')"
    error = found_by(f"No master found for 'm' : {options}, {options}")
    explained = explain(error, RedisPubSubChannelLayer())
    assert isinstance(explained, ConnectionError)
    assert str(explained) == (
        "No master found for 'm': no Sentinel answers, or none knows one that is up"
    )


def test_a_node_of_a_cluster_is_explained():
    explained = explain(MovedError("42 10.0.0.2:6379"), RedisChannelLayer())
    assert isinstance(explained, ConnectionError)
    assert "'MOVED 42 10.0.0.2:6379'" in str(explained)
    assert "use channels_redis.pubsub" in str(explained)


class Layer(InMemoryChannelLayer):
    """Redis refuses what is sent."""

    async def group_send(self, group, message):
        raise REFUSED


@pytest.fixture
def lost():
    return []


@pytest.fixture
async def link(lost):
    link = LayerLink(
        InMemoryChannelLayer(),
        Tasks(Counter()),
        lambda batch: None,
        lost.append,
        *[lambda *args: None] * 3,
    )
    link.start()
    yield link
    await link.stop()


def log(error):
    """As channels_redis does in its receiving task."""
    try:
        raise error
    except Exception:
        pubsub.logger.exception("Unexpected exception in receive task")


async def test_a_refused_subscription_is_reported_once_and_not_as_a_traceback(link, lost, caplog):
    log(REFUSED)
    log(REFUSED)
    [error] = lost
    assert "its user needs" in str(error) and caplog.text == ""


async def test_a_traceback_of_an_outage_is_left_out_once_the_outage_is_reported(link, lost, caplog):
    log(RedisConnectionError("cut"))
    assert len(caplog.records) == 1 and lost == []
    log(REFUSED)
    log(RedisConnectionError("cut"))
    assert len(caplog.records) == 1
    log(ValueError("a bug"))
    assert len(caplog.records) == 2


async def test_what_nobody_reports_stays_in_the_log(caplog):
    log(REFUSED)
    log(RedisConnectionError("cut"))
    pubsub.logger.warning("no error")
    await asyncio.to_thread(log, REFUSED)  # a thread has no event loop
    assert len(caplog.records) == 4


async def test_what_is_sent_without_the_right_names_it(lost):
    link = LayerLink(
        Layer(), Tasks(Counter()), lambda batch: None, lost.append, *[lambda *args: None] * 3
    )
    with pytest.raises(PermissionError, match="its user needs"):
        await link.send(Batch("o", "fws.g.x", 0, [new_item("x")]))
    assert "its user needs" in str(lost[0])
    await link.stop()


def test_the_logger_is_that_of_channels_redis():
    assert pubsub.logger is logging.getLogger("channels_redis.pubsub")


# Processes with the old name

PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


@pytest.fixture(autouse=True)
def not_asked(monkeypatch):
    monkeypatch.setattr(names, "_is_asked", False)


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

    monkeypatch.setattr(link_module, "asks_for_old_name", lambda of: asks)
    monkeypatch.setattr(link_module, "warn_of_old_name", warn)
    ours = LayerLink(layer, Tasks(Counter()), *[lambda *args: None] * 5)
    ours.start()
    if asks:
        async with limited():
            await asked.wait()
    await ours.stop()
    assert asked.is_set() is asks
