"""Checks of the HTTP API."""

import pytest

from filtered_websocket.checks.api import check_api


@pytest.mark.parametrize("keys", ["x" * 19, ["x" * 40, "x" * 19]])
def test_w023_a_key_that_can_be_guessed(settings, keys):
    settings.FILTERED_WEBSOCKET = {"API_KEY": keys}
    [found] = check_api()
    assert found.id == "filtered_websocket.W023" and "a key of 19 characters" in found.msg
    assert "x" * 19 not in found.msg
    settings.DEBUG = True
    assert check_api() == []


@pytest.mark.parametrize("keys", [None, [], "x" * 20, ["x" * 20, "y" * 20], 3, [""]])
def test_no_key_and_long_ones_are_well_and_wrong_ones_are_for_e002(settings, keys):
    settings.FILTERED_WEBSOCKET = {"API_KEY": keys}
    assert check_api() == []
