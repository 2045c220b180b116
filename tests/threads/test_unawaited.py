"""A forgotten ``await`` reaches the log, whatever the server does with warnings."""

import logging
import warnings

import pytest

from filtered_websocket.testing import connect
from filtered_websocket.threads.unawaited import log_unawaited

from ..connections.test_connection import message_filter


@pytest.fixture
def shown():
    """What Python's own function for warnings is called with, as under a server."""
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest: seen.append(str(message))
        yield seen


async def lookup():
    """What a filter might await."""


async def test_a_coroutine_that_a_filter_drops_is_a_line_with_its_name(shown, caplog):
    def forget(web_socket_instance, data):
        lookup()

    async with connect([message_filter(forget)]) as ann:
        await ann.send("x")
        await ann.settle()
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "test_unawaited.py:" in line and "coroutine 'lookup' was never awaited" in line
    assert shown == []


def test_other_warnings_go_where_they_went(shown, caplog):
    log_unawaited()
    log_unawaited()
    warnings.warn("something else", RuntimeWarning, stacklevel=1)
    warnings.warn("it was never awaited", UserWarning, stacklevel=1)
    assert shown == ["something else", "it was never awaited"] and caplog.text == ""


def test_a_site_that_logs_warnings_keeps_its_way(shown):
    logging.captureWarnings(True)
    try:
        captured = warnings.showwarning
        log_unawaited()
        assert warnings.showwarning is captured
    finally:
        logging.captureWarnings(False)
