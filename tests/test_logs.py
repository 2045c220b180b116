"""Log lines that would come in a flood: logs."""

from filtered_websocket import logs
from filtered_websocket.logs import Seldom


def test_a_subject_is_logged_once_in_a_while_and_counted_always(monkeypatch):
    seldom = Seldom()
    assert [seldom.note("a"), seldom.note("a", 2), seldom.note("b")] == [True, False, True]
    assert seldom.counts == {"a": 3, "b": 1}
    monkeypatch.setattr(logs, "EVERY", 0)
    assert seldom.note("a")


def test_subjects_are_bounded(monkeypatch):
    monkeypatch.setattr(logs, "MAX_SUBJECTS", 2)
    seldom = Seldom()
    for subject in "abc":
        assert seldom.note(subject)
    assert len(seldom._logged) == 1
