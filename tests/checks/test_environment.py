"""System checks of a site's environment, one test per id."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

from filtered_websocket.apps import CHECKS
from filtered_websocket.checks import environment
from filtered_websocket.checks.environment import (
    SAFE,
    check_environment,
    check_names,
    is_open,
    is_unsafe,
    numbers,
)
from filtered_websocket.checks.settings import PUBSUB, check_layer
from filtered_websocket.conf import SETTINGS
from filtered_websocket.hub import limits

from ..snippets import named
from .test_settings import layers

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())


def ids():
    return [message.id for message in check_environment()]


@pytest.mark.parametrize(
    ("host", "is_it"),
    [
        ("redis://redis.example:6379/0", True),
        ("redis://:password@10.0.0.5", True),
        ("redis://[2001:db8::1]:6379", True),
        ("redis://localhost.evil.example", True),
        (("redis.example", 6379), True),
        ({"host": "redis.example", "port": 6379}, True),
        ({"address": "redis://redis.example", "socket_timeout": 2}, True),
        ({"sentinels": [("localhost", 1), ("s2.example", 2)], "master_name": "m"}, True),
        ({"sentinels": [("localhost", 1)], "master_name": "m"}, False),
        ({"sentinels": [("s2.example", 2)], "master_name": "m", "ssl": True}, False),
        ("rediss://redis.example", False),
        ("unix:///run/redis.sock", False),
        ({"path": "/run/redis.sock"}, False),
        ({"port": 6380}, False),
        ("redis://localhost:6379", False),
        ("redis://", False),
        ("redis://127.0.0.1", False),
        ("redis://127.9.9.9/3", False),
        ("redis://[::1]:6379", False),
        (["localhost", 6379], False),
    ],
)
def test_w008_messages_that_leave_this_machine_in_clear(settings, host, is_it):
    assert is_open(host) is is_it
    settings.CHANNEL_LAYERS = layers(PUBSUB, hosts=["redis://localhost", host])
    assert ids() == ["filtered_websocket.W008"] * is_it
    settings.CHANNEL_LAYERS = layers(PUBSUB, hosts=[host], symmetric_encryption_keys=["secret"])
    assert ids() == []


def test_w008_shows_no_password(settings):
    settings.CHANNEL_LAYERS = layers(PUBSUB, hosts=["redis://:secret@redis.example"])
    [message] = check_environment()
    assert "secret@" not in message.msg + message.hint


def test_the_layer_of_the_security_page_passes_the_checks(settings):
    written = {"SECRET_KEY": "secret"}
    exec(named("SECURITY.md")["encrypted layer"], written)
    settings.CHANNEL_LAYERS = written["CHANNEL_LAYERS"]
    assert ids() == [] == check_layer()


def test_without_a_layer_nothing_leaves(settings):
    settings.CHANNEL_LAYERS = {}
    assert ids() == []


@pytest.mark.parametrize(
    ("installed", "is_it"),
    [
        ("5.2.12", True),
        ("5.2.13", False),
        ("5.2.20", False),
        ("5.1.99", True),
        ("4.2.30", True),
        ("6.0", True),
        ("6.0.3", True),
        ("6.0.4", False),
        ("6.1", False),
        ("6.1rc1", False),
        ("7", False),
    ],
)
def test_a_version_is_compared_with_the_safe_one_of_its_series(installed, is_it):
    assert is_unsafe(installed, ["5.2.13", "6.0.4"]) is is_it


def test_w009_a_package_with_a_known_vulnerability(settings, monkeypatch):
    settings.CHANNEL_LAYERS = {}
    monkeypatch.setattr(environment, "SAFE", {"daphne": ["99.1"], "no-such-package": ["1"]})
    [message] = check_environment()
    assert message.id == "filtered_websocket.W009"
    assert message.msg.startswith(f"daphne {version('daphne')} has") and "99.1" in message.hint


def test_what_is_installed_here_has_no_known_vulnerability():
    assert [name for name, safe in SAFE.items() if is_unsafe(version(name), safe)] == []


def test_what_pip_may_install_has_no_known_vulnerability():
    lowest, refused = {}, {}
    for line in PYPROJECT["project"]["dependencies"]:
        name = re.match(r"[\w-]+", line)[0]
        lowest[name] = re.search(r">=([\d.]+)", line)[1]
        refused[name] = {numbers(one) for one in re.findall(r"!=([\d.]+)", line)}
    for name, releases in SAFE.items():
        assert not is_unsafe(lowest[name], releases), name
        # Of a later series, what came before its safe release.
        for release in map(numbers, releases[1:]):
            before = {(*release[:2], patch) for patch in range(release[2])}
            assert before <= refused[name], name


def test_w010_a_process_that_may_not_open_enough_files(settings, monkeypatch, caplog):
    settings.CHANNEL_LAYERS = {}
    settings.FILTERED_WEBSOCKET = {"MAX_CONNECTIONS": 1000}
    monkeypatch.setattr(limits.resource, "getrlimit", lambda what: (1064, 4096))
    assert ids() == []
    monkeypatch.setattr(limits.resource, "getrlimit", lambda what: (1024, 4096))
    [message] = check_environment()
    assert message.id == "filtered_websocket.W010" and "40 are" in message.msg
    settings.FILTERED_WEBSOCKET = {"MAX_CONNECTIONS": "many"}
    assert ids() == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("INSTALLED_FILTER", "Did you mean INSTALLED_FILTERS?"),
        ("FILTERED_WEBSOCKETS", "Did you mean FILTERED_WEBSOCKET?"),
        ("MAX_OUTBOX", "FILTERED_WEBSOCKET = {'MAX_OUTBOX': ...}"),
    ],
)
def test_w036_a_setting_that_nothing_reads(settings, name, hint):
    assert check_names() == [] and check_names in CHECKS
    setattr(settings, name, ["tests.lone_filter"])
    [warning] = check_names()
    assert warning.id == "filtered_websocket.W036"
    assert name in warning.msg and hint in warning.hint


def test_a_key_that_is_in_its_place_too_is_a_sites_own(settings):
    settings.MAX_OUTBOX = 5
    settings.FILTERED_WEBSOCKET = {"MAX_OUTBOX": settings.MAX_OUTBOX}
    assert check_names() == []
    settings.FILTERED_WEBSOCKET = None  # check_settings reports it
    assert len(check_names()) == 1


def test_keys_that_are_looked_for_are_keys():
    assert set(environment.INSIDE) <= set(SETTINGS)
