"""Checks of how messages leave a process."""

import pytest
import redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from filtered_websocket.checks.publishing import check_publishing
from filtered_websocket.checks.settings import CORE, IN_MEMORY, PUBSUB


def use(settings, backend, *hosts, **config):
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": backend, "CONFIG": {"hosts": list(hosts), **config}}
    }


def found():
    return [(message.id.partition(".")[2], message.msg) for message in check_publishing()]


@pytest.mark.parametrize(
    ("backend", "hosts", "words"),
    [
        (CORE, [], "is channels_redis.core.RedisChannelLayer"),
        ("mysite.layers.Layer", [], "is mysite.layers.Layer"),
        (
            PUBSUB,
            [
                "redis://a",
                {"address": "redis://b", "retry": Retry(NoBackoff(), 3)},
                {"host": "c", "connection_class": redis.asyncio.SSLConnection},
            ],
            "(connection_class, retry)",
        ),
    ],
)
def test_w012_publishing_takes_a_thread_with_an_event_loop(settings, backend, hosts, words):
    use(settings, backend, *hosts)
    [(number, message)] = found()
    assert number == "W012" and words in message and "gevent" in message


@pytest.mark.parametrize("backend", [PUBSUB, IN_MEMORY])
@pytest.mark.parametrize(
    "hosts", [[], [{"address": "redis://a", "socket_timeout": 2}, ("b", 6379)]]
)
def test_w012_where_redis_is_spoken_to_at_once_or_nobody_is_there_all_is_well(
    settings, backend, hosts
):
    use(settings, backend, *hosts)
    assert found() == []


def test_w012_is_not_raised_without_a_layer_nor_for_what_channels_redis_refuses(settings):
    settings.CHANNEL_LAYERS = {}
    assert found() == []
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": PUBSUB, "CONFIG": {"hosts": "redis://a"}}}
    assert found() == []


def test_e021_hosts_with_different_databases(settings):
    use(settings, PUBSUB, {"address": "redis://a/0"}, {"address": "redis://b/1"})
    [(number, message)] = found()
    assert number == "E021" and "(0, 1)" in message


def test_e021_the_core_layer_may_use_different_databases(settings):
    use(settings, CORE, "redis://a/0", "redis://b/1")
    assert [number for number, _ in found()] == ["W012"]


@pytest.mark.parametrize(("name", "database", "warned"), [("site", 1, True), ("site", 0, False)])
def test_w013_a_name_by_hand_does_not_have_the_number_of_the_database(
    settings, name, database, warned
):
    use(settings, PUBSUB, f"redis://a/{database}")
    settings.FILTERED_WEBSOCKET = {"NAMESPACE": name}
    assert [number for number, _ in found()] == ["W013"] * warned


@pytest.mark.parametrize("written", [{}, {"NAMESPACE": None}, "no dict"])
def test_w013_is_not_raised_where_the_name_has_it(settings, written):
    use(settings, PUBSUB, "redis://a/1")
    settings.FILTERED_WEBSOCKET = written
    assert found() == []
