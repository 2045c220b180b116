"""The Pusher protocol by its name, and at its usual path."""

import json

import pytest

from filtered_websocket.codecs.data import Data
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.protocols.serving import find_protocol
from filtered_websocket.pusher.protocol import PUSHER
from filtered_websocket.routing import protocol_urlpatterns, with_websockets
from filtered_websocket.testing import connect

from .clients import speak, with_app


def test_it_is_found_by_its_name():
    assert find_protocol("pusher") is PUSHER and PUSHER.name == "pusher"


def paths():
    return [str(one.pattern) for one in protocol_urlpatterns()]


def test_it_is_served_where_there_is_an_app(settings):
    assert paths() == ["connection/websocket", "app/<path:key>"]
    settings.FILTERED_WEBSOCKET = {}
    assert paths() == ["connection/websocket"]


async def test_a_setting_chooses_it_for_all_routes(settings):
    settings.FILTERED_WEBSOCKET = with_app(site={"PROTOCOL": "pusher"})
    async with speak(application=FilteredWebSocketConsumer.as_asgi(filters=[])) as ann:
        await ann.subscribe("news")


@pytest.mark.parametrize(("path", "code"), [("/app/app-key", None), ("/app/a/b", 4005)])
async def test_the_path_has_the_key(path, code):
    headers = {"host": "testserver"}
    application = with_websockets(None, [], protocols=True)
    async with connect(application, f"{path}?protocol=7", headers=headers) as ann:
        said = json.loads(await ann.receive())
        if code is None:
            assert said["event"] == "pusher:connection_established"
        else:
            assert said["data"]["code"] == await ann.closed() == code


def test_what_filters_publish_is_encoded_as_json():
    assert PUSHER.decode(bytearray(b"[1]"), True) == [1]
    assert PUSHER.encode({"a": 1}, {}) == '{"a":1}'
    assert PUSHER.encode(b"x", {}) == b"x"
    assert PUSHER.encode(Data(b"1"), {}) == b"1"
