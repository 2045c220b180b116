"""The settings dict: conf. What each key may hold is tested with the checks."""

import pytest
from channels_redis.utils import create_pool, decode_hosts
from django.conf import LazySettings

from filtered_websocket import conf as module
from filtered_websocket.conf import DEFAULTS, Conf, conf, database_numbers

DEFAULT = DEFAULTS["MAX_OUTBOX"]


def test_what_a_site_sets_wins_at_once(settings):
    assert conf.MAX_OUTBOX == DEFAULT
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 1}
    assert conf.MAX_OUTBOX == 1
    settings.DEBUG = True
    assert conf.MAX_OUTBOX == 1
    settings.FILTERED_WEBSOCKET = "no dict"
    assert conf.MAX_OUTBOX == DEFAULT


def test_an_unknown_key_is_an_error():
    with pytest.raises(AttributeError, match="no such setting"):
        conf.NO_SUCH  # noqa: B018


def test_without_any_settings_the_defaults_hold_and_are_not_kept(monkeypatch):
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    later = LazySettings()
    monkeypatch.setattr(module, "settings", later)
    mine = Conf()
    assert mine.MAX_OUTBOX == DEFAULT and mine.NAMESPACE == "fws"
    later.configure(FILTERED_WEBSOCKET={"MAX_OUTBOX": 2})
    assert mine.MAX_OUTBOX == 2


CORE = "channels_redis.core.RedisChannelLayer"
PUBSUB = "channels_redis.pubsub.RedisPubSubChannelLayer"


def use(settings, hosts, backend=PUBSUB):
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"hosts": hosts}}}


@pytest.mark.parametrize(
    ("hosts", "numbers", "namespace"),
    [
        (["redis://localhost"], [0], "fws"),
        (["redis://localhost/0"], [0], "fws"),
        (["redis://localhost:6379/1"], [1], "fws-1"),
        (["rediss://user:word@localhost/15"], [15], "fws-15"),
        (["redis://localhost/?db=2"], [2], "fws-2"),
        (["unix:///run/redis.sock?db=3"], [3], "fws-3"),
        ([b"redis://localhost/1"], [0], "fws"),
        ([{"address": "redis://localhost/4", "socket_timeout": 2}], [4], "fws-4"),
        ([{"address": "redis://localhost", "db": 5}], [5], "fws-5"),
        ([{"address": "redis://localhost/6", "db": 5}], [6], "fws-6"),
        ([{"host": "localhost", "port": 6379, "db": "7"}], [7], "fws-7"),
        ([{"host": "localhost", "db": None}], [0], "fws"),
        ([{"sentinels": [("a", 1)], "master_name": "m", "db": 8}], [8], "fws-8"),
        ([("localhost", 6379)], [0], "fws"),
        (["redis://a/9", "redis://b/9"], [9, 9], "fws-9"),
        (["http://localhost/1"], [0], "fws"),
        (["redis://localhost/one"], [0], "fws"),
        ([{"host": "localhost", "db": "one"}], [0], "fws"),
        ([], [], "fws"),
        (None, [], "fws"),
        ("redis://localhost/1", [], "fws"),
    ],
)
def test_the_namespace_has_the_number_of_the_database(settings, hosts, numbers, namespace):
    use(settings, hosts)
    assert database_numbers() == numbers and namespace == conf.NAMESPACE


def test_redis_reads_the_same_number(settings):
    """What this package computes is the database that channels_redis connects to."""
    for host in (
        "redis://localhost/4",
        "redis://localhost/?db=2",
        {"address": "redis://localhost/6", "db": 5},
        {"address": "redis://localhost", "db": 5},
        {"host": "localhost", "db": 7},
        ("localhost", 6379),
    ):
        use(settings, [host])
        [decoded] = decode_hosts([host])
        assert [create_pool(decoded).connection_kwargs.get("db", 0)] == database_numbers()


def test_the_core_layer_keeps_to_its_database_and_so_does_its_name(settings):
    use(settings, ["redis://localhost/1"], CORE)
    assert conf.NAMESPACE == "fws"


def test_a_namespace_set_by_hand_is_taken_as_it_is(settings):
    use(settings, ["redis://localhost/1"])
    settings.FILTERED_WEBSOCKET = {"NAMESPACE": "site"}
    assert conf.NAMESPACE == "site"
    settings.FILTERED_WEBSOCKET = {"NAMESPACE": None}
    assert conf.NAMESPACE == "fws-1"


def test_another_layer_changes_the_namespace_at_once(settings):
    assert conf.NAMESPACE == "fws"
    use(settings, ["redis://localhost/1"])
    assert conf.NAMESPACE == "fws-1"
    settings.FILTERED_WEBSOCKET = {"CHANNEL_LAYER": "other"}
    assert conf.NAMESPACE == "fws"
