"""The settings dict: conf. What each key may hold is tested with the checks."""

import pytest
from django.conf import LazySettings

from filtered_websocket import conf as module
from filtered_websocket.conf import DEFAULTS, Conf, conf

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
    assert mine.MAX_OUTBOX == DEFAULT
    later.configure(FILTERED_WEBSOCKET={"MAX_OUTBOX": 2})
    assert mine.MAX_OUTBOX == 2
