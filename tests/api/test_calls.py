"""Methods are called one by one or in a batch, and all that they raise is an answer."""

import pytest
from django.core.exceptions import ImproperlyConfigured

from filtered_websocket.api import calls, methods
from filtered_websocket.logs import LogThrottle

from .calling import ask, error


def test_a_batch_answers_each_command_in_order():
    answer = ask(
        "batch",
        commands=[
            {"publish": {"channel": "kept:a", "data": 1}},
            {"history": {"channel": "kept:a", "limit": 1}},
            {"publish": {"channel": "nothing", "data": 1}},
            {"batch": {"commands": []}},
            {"publish": {}, "info": {}},
            {"publish": []},
            [],
        ],
    )
    assert list(answer) == ["replies"]
    published, kept, *failed = answer["replies"]
    assert published["publish"]["offset"] == 1
    assert kept["history"]["publications"] == [{"offset": 1, "data": 1}]
    assert [reply["error"]["code"] for reply in failed] == [102, 104, 107, 107, 107]


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.setattr(calls, "_throttle", LogThrottle())

    def fail_with(error):
        def info(request):
            raise error

        monkeypatch.setitem(calls.METHODS, "info", info)

    return fail_with


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (ImproperlyConfigured("nothing is kept"), 108, True),
        (ConnectionError("no Redis"), 100, True),
        (PermissionError("no rights"), 100, True),
        (KeyError("a secret of the site"), 100, False),
    ],
)
def test_what_fails_is_an_answer_and_one_line_in_the_log(failing, caplog, raised, code, told):
    failing(raised)
    answers = {error("info") for _ in range(3)}
    [(found, message)] = answers
    assert found == code and (str(raised) in message) == told
    [record] = caplog.records
    assert "method info failed" in record.getMessage() and record.levelname == "ERROR"


def test_every_method_of_the_protocol_is_there():
    served = {name for name in calls.METHODS if hasattr(methods, name)}
    assert served | {"publish", "broadcast"} == set(calls.METHODS)
