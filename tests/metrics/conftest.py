"""Fixtures of the wing."""

import pytest

from filtered_websocket import tracing
from filtered_websocket.metrics import traces

from .spans import Spans


@pytest.fixture
def no_traces():
    """Traces may begin, and end with the test."""
    assert isinstance(tracing.active, traces.Looking)
    yield
    traces.stop()


@pytest.fixture
def spans(no_traces):
    """What is traced, all of it."""
    spans = Spans()
    spans.begin()
    yield spans
    spans.provider.shutdown()
