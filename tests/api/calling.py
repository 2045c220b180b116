"""A site with an API key, and requests to its API."""

from django.test import Client

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group, personal

KEY = "a-key-for-the-tests-of-the-api"
URLS = "filtered_websocket.api.urls"
SITE = {"API_KEY": KEY, "GROUPS": "tests.api.calling"}

grouppatterns = [
    group("news"),
    group("room:<int:room>", presence=True),
    group("kept:<slug:name>", history=History(size=10, ttl=60), publish=True),
    personal(history=History(size=10, ttl=60)),
]


def post(method, body=None, *, key=KEY, **headers):
    """The response to a request with the key."""
    headers = {"X-API-Key": key, **headers} if key else headers
    return Client().post(
        f"/{method}", {} if body is None else body, "application/json", headers=headers
    )


def ask(method, **fields):
    """The answer to a request with these fields."""
    response = post(method, fields)
    assert (response.status_code, response["Content-Type"]) == (200, "application/json")
    return response.json()


def result(method, **fields):
    answer = ask(method, **fields)
    assert list(answer) == ["result"], answer
    return answer["result"]


def error(method, **fields):
    """Code and message."""
    answer = ask(method, **fields)
    assert list(answer) == ["error"], answer
    return answer["error"]["code"], answer["error"]["message"]


def app(*groups, **options):
    """A route without filters, whose connections are in these groups."""
    return FilteredWebSocketConsumer.as_asgi(filters=[], groups=groups, **options)
