"""System checks of settings, one test per id."""

import re
import sys
from pathlib import Path

import pytest
import redis
from django.core.checks import run_checks

from filtered_websocket import conf
from filtered_websocket.apps import CHECKS
from filtered_websocket.checks import settings as checks
from filtered_websocket.pipelines import route as routes

CORE = checks.CORE
PUBSUB = checks.PUBSUB


def found():
    """Id -> its first message with its hint, of this app."""
    messages = {}
    for check in CHECKS:
        for message in check():
            messages.setdefault(message.id, f"{message.msg} {message.hint}")
    return messages


def layers(backend, **config):
    return {"default": {"BACKEND": backend, "CONFIG": config}}


@pytest.fixture(autouse=True)
def good(settings):
    hosts = [{"address": "redis://localhost", "socket_timeout": 2}]
    settings.CHANNEL_LAYERS = layers(PUBSUB, hosts=hosts)
    settings.INSTALLED_FILTERS = []
    assert found() == {}


def test_the_apps_checks_are_registered(settings):
    settings.INSTALLED_FILTERS = ["nowhere"]
    assert "filtered_websocket.E004" in [message.id for message in run_checks()]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"MAX_OUTBOXES": 1}, "has no setting 'MAX_OUTBOXES'. Did you mean 'MAX_OUTBOX'?"),
        ({"allowed_origins": 1}, "Did you mean 'ALLOWED_ORIGINS'?"),
        ({"zzz": 1}, "has no setting 'zzz'. Known settings: ALLOWED_ORIGINS,"),
        ({3: 1}, "has no setting 3."),
    ],
)
def test_e001_unknown_key(settings, chosen, words):
    settings.FILTERED_WEBSOCKET = chosen
    assert words in found()["filtered_websocket.E001"]


WRONG = {
    "ALLOWED_ORIGINS": ["*", "https://example.com", {"*"}, [3], [None], False],
    "ALLOW_NO_ORIGIN": [None, 1, "True"],
    "API_KEY": [3, "", "a b", "k\u00e9y", "a\n", [3], [""], {"a": 1}],
    "API_RATE": [3, "", "0/s", "5", "5/d", "5/s ", "-5/s", "\u0665/s"],
    "AUTHENTICATORS": [None, "filtered_websocket.auth.HeaderAuthenticator", [object], [None]],
    "BLOCKING_THREADS": [0, -1, 1.5, "8", True, None],
    "CALLS": [0, -1, 1.5, "8", True, None],
    "CHANNELS_GROUPS": ["chat", None, {"chat": "x"}, 3],
    "CHANNEL_LAYER": [3, None],
    "CODEC": [3, []],
    "CONSOLE_TENANT": [3, ["a"], True],
    "CONSOLE": ["", "/", "/console/", "a//b", "a b", "ü", "x?y", "x\n", 3, ["a"]],
    "DRAIN_DEADLINE": [0, None, "8"],
    "DRAIN_WINDOW": [-1, "2", True, float("nan")],
    "FILTER_GRACE": [0, -1, None, "10", True],
    "FILTER_TIMEOUT": [0, -1, "5", True, float("nan")],
    "GROUPS": [3, ["a"]],
    "GUESS_LIMIT": [0, -1, 2.5, "10", False],
    "JWT_ALGORITHM": [None, "none", "HS1"],
    "JWT_KEY": [3, b"secret"],
    "JWT_USER": [3, ["a"]],
    "LAYER_SETTLE": [-1, "1", True],
    "LAYER_TIMEOUT": [0, None, "2"],
    "MAX_CONNECTIONS": [0, -1, 1.5, "10", True],
    "MAX_CONNECTIONS_PER_ADDRESS": [0, -1, 1.5, "10", True],
    "MAX_CONNECTIONS_PER_USER": [0, -1, 1.5, "10", True],
    "MAX_GROUPS": [0, None, "128", 1.5],
    "MAX_INBOX": [0, None, "64", 1.5],
    "MAX_MESSAGE_SIZE": [0, "1 MB"],
    "MAX_OUTBOX": [0, 1.5],
    "METRICS_ALLOWED": [None, "10.0.0.0/8", ["10.0.0.5/8"], ["localhost"], [""], [10], {}],
    "NAMESPACE": ["", "a b", "ü", "x" * 33, "a.b", 3],
    "ON_ERROR": ["ignore", None],
    "PROTOCOL": [None, "", "morse"],
    "PUBLISH_MAX_AGE": [0, "30s"],
    "PUBLISH_QUEUE": [0, None],
    "PUBLISH_QUEUE_BYTES": [0, None, 0.5],
    "PUSHER_APPS": [None, {}, "app"],
    "PUSHER_APPS_IN_ADMIN": [None, 1, "yes"],
    "PRESENCE_LEASE": [0, -1.0, None, "60", True, float("nan")],
    "RECHECK": [0, -1.0, None, "60", True, float("nan")],
    "REFUSE_WITH": [403, "401"],
    "SLOW_READER": [None, "drop", "drop_oldest", True],
    "STORAGE": [
        "path",
        {},
        {"BACKEND": 3},
        {"BACKEND": "x", "OPTIONS": []},
        {"BACKEND": "x", "A": 1},
    ],
    "TENANT": [3, ["a"]],
    "TOKENS": [None, "", "OPEN", True],
    "TRUSTED_PROXIES": [-1, 1.0, None, "1", True, ["10.0.0.1"]],
}


def test_every_setting_has_wrong_values_here():
    assert set(WRONG) == set(conf.SETTINGS)


def wrong_values():
    """Of the values of a setting the first of each type runs what the others run."""
    for key, values in WRONG.items():
        kinds = [type(value) for value in values]
        for number, value in enumerate(values):
            is_measured = type(value) not in kinds[:number]
            yield pytest.param(key, value, marks=() if is_measured else pytest.mark.repeats)


@pytest.mark.parametrize(("key", "value"), list(wrong_values()))
def test_e002_wrong_value(settings, key, value):
    settings.FILTERED_WEBSOCKET = {key: value}
    message = found()["filtered_websocket.E002"]
    shown = type(value) if key == "API_KEY" else value  # a secret is not shown
    assert f"FILTERED_WEBSOCKET[{key!r}] is {shown!r}" in message
    assert f"It must be {conf.SETTINGS[key][1].words}." in message


def test_w011_a_message_that_fits_into_no_outbox(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 262_145}
    assert not found()
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": 262_144}
    message = found()["filtered_websocket.W011"]
    assert "MAX_OUTBOX 262144: one message can close every member" in message
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": "x"}
    assert list(found()) == ["filtered_websocket.E002"]


@pytest.mark.repeats
@pytest.mark.parametrize("key", conf.SETTINGS)
def test_every_default_is_allowed(key):
    default, rule = conf.SETTINGS[key]
    assert rule.allows(default)


def test_a_setting_that_does_not_exist_cannot_be_read():
    with pytest.raises(AttributeError, match="no such setting"):
        _ = conf.conf.NO_SUCH


def test_e002_not_a_dict(settings):
    settings.FILTERED_WEBSOCKET = ["MAX_OUTBOX"]
    [message] = [message for check in CHECKS for message in check()]
    assert message.id == "filtered_websocket.E002" and message.hint == "It must be a dict."


@pytest.mark.parametrize(
    ("filters", "number"),
    [
        ("tests.lone_filter", 3),
        (["tests.nowhere"], 4),
        (["tests.no_filters"], 5),
        ([{"NAME": "tests.lone_filter", "OPTIONS": {"dept": 2}}], 6),
        ([{"NAME": "tests.lone_filter", "OPTIONS": {"depth": "2"}}], 7),
        ([3], 8),
        (["tests.broken_module"], 9),
        (["tests.examples.Empty"], 10),
    ],
)
def test_e003_to_e010_installed_filters(settings, filters, number):
    settings.INSTALLED_FILTERS = filters
    assert f"filtered_websocket.E{number:03}" in found()


def test_every_wrong_entry_is_found_not_only_the_first(settings):
    settings.INSTALLED_FILTERS = ["nowhere.one", "nowhere.two"]
    messages = [message.msg for message in checks.check_filters()]
    assert len(messages) == 2


def test_e034_a_type_that_is_declared_and_cannot_be_used(settings, monkeypatch):
    settings.INSTALLED_FILTERS = ["tests.typed_example.Talk"]
    assert "filtered_websocket.E034" not in found()
    monkeypatch.setitem(sys.modules, "pydantic", None)
    [message] = checks.check_filters()[:1]
    assert message.id == "filtered_websocket.E034" and "Said | Typing" in message.msg
    assert message.hint == "pip install 'filtered-websocket[typed]'."


def test_e011_a_filter_that_does_not_fit(settings, monkeypatch):
    from ..lone_filter import Pop

    monkeypatch.setattr(Pop, "filter", classmethod(lambda cls: None))
    settings.INSTALLED_FILTERS = [Pop]
    assert "must take" in found()["filtered_websocket.E011"]


def test_e012_e013_routes_groups_and_codec():
    bad = [
        routes.Route([], ["token:x"], None, None),
        routes.Route([], None, "nowhere.Codec", None),
    ]
    assert {"filtered_websocket.E012", "filtered_websocket.E013"} <= set(found())
    del bad


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.application", "'nowhere.application': there is no module 'nowhere'. Check its"),
        ("tests.no_filters.app", "module 'tests.no_filters' has no attribute 'app'. Check its"),
        ("tests.broken_module.app", "fails: ModuleNotFoundError: No module named 'nowhere_to_be"),
        ("tests.exiting_module.app", "importing 'tests.exiting_module' fails: SystemExit: 0. Fix"),
    ],
)
def test_e020_an_application_that_cannot_be_imported(settings, path, words):
    settings.ASGI_APPLICATION = path
    assert words in found()["filtered_websocket.E020"]
    assert len(found()) == 1


def test_without_an_application_there_is_nothing_to_check(settings):
    settings.ASGI_APPLICATION = None
    assert found() == {}


def test_a_mistake_in_a_route_that_the_application_makes_is_found(settings):
    settings.ASGI_APPLICATION = "tests.bad_asgi.application"
    assert "'no.such.module'" in found()["filtered_websocket.E004"]
    assert len(found()) == 1


def test_w014_no_layer_at_all(settings):
    settings.CHANNEL_LAYERS = {}
    assert "and DEBUG is off. Messages stay in one" in found()["filtered_websocket.W014"]
    assert len(found()) == 1
    settings.DEBUG = True
    assert found() == {}


def test_e014_a_layer_that_does_not_exist(settings):
    settings.FILTERED_WEBSOCKET = {"CHANNEL_LAYER": "live"}
    settings.CHANNEL_LAYERS = {}
    assert "CHANNEL_LAYERS has: nothing" in found()["filtered_websocket.E014"]


@pytest.mark.parametrize(
    ("hosts", "bad"),
    [
        (None, True),
        (["redis://localhost"], True),
        ([("localhost", 6379)], True),
        ([{"address": "redis://localhost"}], True),
        ([{"address": "redis://localhost", "socket_timeout": 5}], True),
        ([{"address": "redis://localhost", "socket_timeout": None}], False),
    ],
)
def test_e015_the_core_layer_on_redis_py_8(settings, monkeypatch, hosts, bad):
    monkeypatch.setattr(redis, "__version__", "8.1.0")
    settings.CHANNEL_LAYERS = layers(CORE, hosts=hosts, capacity=10_000)
    assert ("filtered_websocket.E015" in found()) is bad
    monkeypatch.setattr(redis, "__version__", "7.0.0")
    assert set(found()) == {"filtered_websocket.W012"}


def test_e016_a_serializer_without_bytes(settings):
    hosts = [{"address": "redis://localhost", "socket_timeout": 2}]
    settings.CHANNEL_LAYERS = layers(PUBSUB, hosts=hosts, serializer_format="json")
    assert list(found()) == ["filtered_websocket.E016"]


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        (
            {"BACKEND": "nowhere"},
            "storage object 'nowhere': there is no such module. Give the path",
        ),
        (
            {"BACKEND": "filtered_websocket.storage_objects.redis", "OPTIONS": {"redis_prot": 1}},
            "has no option 'redis_prot'. Its options: redis_channels",
        ),
        ({"BACKEND": "tests.raising_module"}, "fails: RuntimeError: not today. Fix the module;"),
    ],
)
def test_e017_a_storage_object_that_cannot_be_made(settings, storage, words):
    settings.FILTERED_WEBSOCKET = {"STORAGE": storage}
    assert words in found()["filtered_websocket.E017"]


class Greedy:
    def __init__(self, argument):
        raise NotImplementedError


class Leaver:
    def __init__(self):
        raise SystemExit(3)


class Idle:
    """Authenticates nobody."""


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.Authenticator", "'nowhere.Authenticator': there is no module 'nowhere'. Check"),
        ("tests.checks.test_settings.Nobody", "test_settings' has no attribute 'Nobody'. Check"),
        ("nodots", "names 'nodots': there is no module 'nodots'."),
        ("", "names '': there is no module ''."),
        ("..", "names '..': there is no module '.'."),
        ("tests.raising_module.A", "importing 'tests.raising_module' fails: RuntimeError: not to"),
        ("tests.exiting_module.A", "importing 'tests.exiting_module' fails: SystemExit: 0."),
        ("tests.instance_method.A", "importing 'tests.instance_method' fails: TypeError: tests."),
        ("tests.checks.test_settings.Greedy", "without arguments and raises TypeError: Greedy."),
        ("tests.checks.test_settings.Leaver", "without arguments and raises SystemExit: 3."),
        ("tests.checks.test_settings.CORE", "raises TypeError: 'str' object is not callable."),
        ("tests.checks.test_settings", "raises TypeError: 'module' object is not callable."),
        ("tests.checks.test_settings.Idle", "has no 'async def authenticate(self, scope)'."),
    ],
)
def test_e018_an_authenticator_that_cannot_be_made(settings, path, words):
    settings.FILTERED_WEBSOCKET = {
        "AUTHENTICATORS": ["filtered_websocket.auth.SessionAuthenticator", path]
    }
    assert words in found()["filtered_websocket.E018"]


@pytest.mark.parametrize(
    "origin",
    [
        "example.com",
        "https://example.com/chat",
        "https://example.com:99999",
        "https://*",
        "app://*",
    ],
)
def test_e019_an_origin_that_is_none(settings, origin):
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": ["https://example.com", origin]}
    assert f"{origin!r} is no origin: write it as" in found()["filtered_websocket.E019"]


@pytest.mark.parametrize(
    "origins",
    [
        None,
        [],
        ["https://example.com:8443", "http://*.a.example"],
        ["capacitor://localhost", "ionic://localhost", "tauri://localhost", "file://"],
        ["chrome-extension://abcdefghijklmnopabcdefghijklmnop"],
    ],
)
def test_origins_that_are_well_written_are_no_error(settings, origins):
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": origins}
    assert found() == {}


def test_w001_the_in_memory_layer_with_debug_off(settings):
    settings.CHANNEL_LAYERS = layers(checks.IN_MEMORY, capacity=10_000)
    assert list(found()) == ["filtered_websocket.W001"]
    settings.DEBUG = True
    assert found() == {}


def test_w002_a_capacity_too_small_for_a_hub(settings):
    settings.DEBUG = True
    hosts = [{"address": "redis://localhost", "socket_timeout": None}]
    settings.CHANNEL_LAYERS = layers(CORE, hosts=hosts)
    others = {"filtered_websocket.W012"}
    assert set(found()) == {"filtered_websocket.W002"} | others
    settings.CHANNEL_LAYERS = layers(CORE, hosts=hosts, capacity=1000)
    assert set(found()) == others
    # Within a process no message goes through the layer.
    settings.CHANNEL_LAYERS = layers(checks.IN_MEMORY, capacity=1)
    assert found() == {}


def test_w003_the_pubsub_layer_without_a_timeout(settings):
    settings.CHANNEL_LAYERS = layers(PUBSUB, hosts=["redis://localhost"])
    assert list(found()) == ["filtered_websocket.W003"]
    settings.CHANNEL_LAYERS = layers(
        PUBSUB, hosts=[{"address": "redis://localhost", "socket_timeout": 2}]
    )
    assert found() == {}


def test_w004_open_tokens_with_debug_off(settings):
    settings.FILTERED_WEBSOCKET = {"TOKENS": "open"}
    assert list(found()) == ["filtered_websocket.W004"]
    settings.DEBUG = True
    assert found() == {}


@pytest.mark.parametrize("origin", ["*", "null"])
def test_w005_every_origin(settings, origin):
    settings.FILTERED_WEBSOCKET = {"ALLOWED_ORIGINS": ("https://example.com", origin)}
    assert repr(origin) in found()["filtered_websocket.W005"]
    assert list(found()) == ["filtered_websocket.W005"]
    settings.DEBUG = True
    assert list(found()) == ["filtered_websocket.W005"]


def test_w006_tokens_in_the_url(settings):
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": ["filtered_websocket.auth.QueryAuthenticator"]}
    assert list(found()) == ["filtered_websocket.W006"]
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": []}
    assert found() == {}


def test_w007_sessions_in_cookies(settings):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
    assert list(found()) == ["filtered_websocket.W007"]
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": []}
    assert found() == {}


def test_no_message_holds_a_secret_key(settings):
    settings.SECRET_KEY = "a very secret key"
    settings.FILTERED_WEBSOCKET = {"AUTHENTICATORS": ["nowhere.A"], "ALLOWED_ORIGINS": ["x"]}
    assert "a very secret key" not in repr([check() for check in CHECKS])


def test_check_ids_are_unique_and_documented():
    written = [
        number
        for module in Path(checks.__file__).parent.glob("*.py")
        for number in re.findall(r'filtered_websocket\.([EW]\d{3})"', module.read_text())
    ]
    assert len(written) == len(set(written)) + 1  # E002 has two texts
    page = (Path(__file__).parents[2] / "docs" / "checks.md").read_text()
    documented = re.findall(r"^\| `filtered_websocket\.([EW]\d{3})` \|", page, re.MULTILINE)
    raised = {f"E{number:03}" for number in (*range(3, 14), 23, 25, 30, 34)}
    assert sorted(documented) == sorted(set(written) | raised)
    assert len(documented) == len(set(documented))


@pytest.mark.parametrize("path", ["no.such.module", "tests.settings.DEBUG"])
def test_a_tenant_that_is_no_function(settings, path):
    settings.FILTERED_WEBSOCKET = {"TENANT": path}
    [error] = checks.check_access()
    assert error.id == "filtered_websocket.E022"
    settings.FILTERED_WEBSOCKET = {"TENANT": "os.getpid"}
    assert checks.check_access() == []
    settings.FILTERED_WEBSOCKET = {"TENANT": 3}
    assert checks.check_access() == []
    assert [found.id for found in checks.check_settings()] == ["filtered_websocket.E002"]
