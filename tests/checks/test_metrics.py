"""Checks of metrics."""

import pytest

from filtered_websocket.checks import metrics
from filtered_websocket.checks.metrics import DIRECTORY, check_metrics


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv(DIRECTORY, raising=False)


def test_e032_metrics_that_nothing_makes(settings, monkeypatch):
    settings.FILTERED_WEBSOCKET = {"METRICS_ALLOWED": ["10.0.0.0/8"]}
    assert check_metrics() == []
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    [found] = check_metrics()
    assert found.id == "filtered_websocket.E032"
    assert "pip install 'filtered-websocket[metrics]'" in found.hint


@pytest.mark.parametrize("allowed", [[], "10.0.0.0/8", [3]])
def test_who_asks_for_no_metrics_needs_nothing_and_wrong_values_are_for_e002(
    settings, monkeypatch, allowed
):
    settings.FILTERED_WEBSOCKET = {"METRICS_ALLOWED": allowed}
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    assert check_metrics() == []


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_e033_a_directory_that_is_none(monkeypatch, tmp_path, kind):
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    assert check_metrics() == []
    path = tmp_path / kind
    if kind == "file":
        path.touch()
    monkeypatch.setenv(DIRECTORY, str(path))
    [found] = check_metrics()
    assert found.id == "filtered_websocket.E033" and repr(str(path)) in found.msg


def test_e033_a_directory_that_may_not_be_written_to(monkeypatch, tmp_path):
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    # As root, these tests may write anywhere.
    monkeypatch.setattr(metrics.os, "access", lambda path, mode: False)
    assert [found.id for found in check_metrics()] == ["filtered_websocket.E033"]
