"""Requests over HTTP."""

import pytest
from django.db import transaction
from django.test import Client, override_settings
from django.urls import resolve

from filtered_websocket.api.urls import api

from .calling import KEY, ask, post


def test_it_is_a_post_that_needs_no_csrf_token_no_login_and_no_transaction(db):
    headers = {"X-API-Key": KEY}
    response = Client(enforce_csrf_checks=True).post(
        "/info", {}, "application/json", headers=headers
    )
    assert response.status_code == 200 and "no-store" in response["Cache-Control"]
    assert Client().get("/info", headers=headers).status_code == 405
    view = resolve("/info").func
    assert view is api and view.login_required is False
    assert view._non_atomic_requests == {"default"}
    assert transaction.get_connection().in_atomic_block


def test_a_body_need_not_be_there_or_say_that_it_is_json():
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        response = Client().post("/info", b"", kind, headers={"X-API-Key": KEY})
        assert response.json() == {"result": {"nodes": []}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": 1, "a": 1}', "a key comes twice"),
        (b"[" * 100 + b"]" * 100, "levels"),
        (b"[]", "the body is a JSON object, not []"),
        (b'"x"', "the body is a JSON object, not 'x'"),
    ],
)
def test_a_body_that_is_no_json_object_is_a_bad_request(body, words):
    response = post("publish", body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (200, 107) and words in error["message"]


def test_a_body_that_is_too_long_is_a_bad_request():
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10):
        error = ask("info", field="longer than ten bytes")["error"]
    assert error["code"] == 107 and "DATA_UPLOAD_MAX_MEMORY_SIZE" in error["message"]


def test_a_method_that_does_not_exist_is_error_104():
    error = ask("rpc")["error"]
    assert error["code"] == 104 and "publish" in error["message"]
