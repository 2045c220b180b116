"""A site with apps of the Pusher protocol, and signed requests to its API."""

import hashlib
import hmac
import json
import time
from urllib.parse import urlencode

from django.test import Client

from filtered_websocket.groups import History, group, personal

APPS = [
    {"ID": "1", "KEY": "app-key", "SECRET": "app-secret"},
    {"ID": "2", "KEY": "other-key", "SECRET": "other-secret"},
    {"ID": "3", "KEY": "off-key", "SECRET": "off-secret", "ENABLED": False},
]
URLS = "filtered_websocket.api.pusher"
SITE = {"PUSHER_APPS": APPS, "GROUPS": "tests.api.pusher_calling"}

grouppatterns = [group("kept", history=History(size=10, ttl=60)), personal()]


def sign(method, path, query, secret="app-secret"):
    pairs = "&".join(f"{key.lower()}={query[key]}" for key in sorted(query, key=str.lower))
    text = f"{method}\n{path}\n{pairs}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def signed(method, path, body=b"", app=1, **query):
    """The query of a signed request; a field that is None is left out."""
    known = APPS[app - 1]
    fields = {
        "auth_key": known["KEY"],
        "auth_timestamp": str(int(time.time())),
        "auth_version": "1.0",
        **({"body_md5": hashlib.md5(body).hexdigest()} if body else {}),
        **query,
    }
    fields = {key: value for key, value in fields.items() if value is not None}
    return {**fields, "auth_signature": sign(method, path, fields, known["SECRET"])}


def call(method, path, body=None, *, app=1, prefix="", **query):
    payload = b"" if body is None else json.dumps(body).encode()
    query = signed(method, path, payload, app, **query)
    address = f"{prefix}{path}?{urlencode(query)}"
    if method == "GET":
        return Client().get(address)
    return Client().post(address, payload, "application/json")


def post(path, body, **query):
    return call("POST", path, body, **query)


def get(path, **query):
    return call("GET", path, **query)


def answer(response):
    assert response.status_code == 200, response.content
    return response.json()


def trigger(**fields):
    return post("/apps/1/events", {"name": "e", "data": "{}", "channel": "news", **fields})
