"""Which publications are kept: keeping."""

import pytest

from filtered_websocket import PublishError
from filtered_websocket.groups import History, group, personal
from filtered_websocket.pipelines.keeping import history_of, keep_by, site_keep
from filtered_websocket.pipelines.rules import make_rules
from filtered_websocket.publishing.batches import Keep

RULES = [
    group("room:<int:room>", history=History(size=5, ttl=60)),
    group("hall"),
    personal(history=History(size=1, ttl=9)),
]


def test_the_first_rule_that_matches_decides():
    rules = make_rules(RULES, "here")
    for _ in range(2):
        assert keep_by(rules, "room:1") == Keep((5, 60))
        assert keep_by(rules, "user:7") == Keep((1, 9))
        assert keep_by(rules, "hall") is keep_by(rules, "room:x") is None
    assert keep_by(rules, "room:1", "k") == Keep((5, 60), "k")
    assert keep_by(None, "room:1") is None
    assert history_of(make_rules([group("room")], "here"), "room") is None


def test_names_that_clients_invent_are_not_kept_for_ever(monkeypatch):
    rules = make_rules(RULES, "here")
    monkeypatch.setattr("filtered_websocket.pipelines.keeping.MAX_FOUND", 3)
    for number in range(10):
        assert keep_by(rules, f"room:{number}") is not None
    assert len(rules.histories) <= 3
    long = "user:" + "7" * 200
    assert keep_by(rules, long) is not None and long not in rules.histories


@pytest.mark.parametrize("key", ["x" * 1025, 7])
def test_an_idempotency_key_is_a_short_text(key):
    with pytest.raises(PublishError, match="a text of 1 to 1024 characters, not"):
        keep_by(make_rules(RULES, "here"), "room:1", key)


def test_an_idempotency_key_without_a_history_is_a_mistake():
    with pytest.raises(PublishError, match="no group rule keeps one of 'hall'"):
        keep_by(make_rules(RULES, "here"), "hall", "k")


def test_outside_of_routes_the_setting_decides(settings):
    assert site_keep("room:1") is None
    settings.FILTERED_WEBSOCKET = {"GROUPS": f"{__name__}.RULES"}
    assert site_keep("room:1") == Keep((5, 60))
