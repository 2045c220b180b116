"""Protocols by name."""

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from filtered_websocket.codecs.data import Data
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.protocols.serving import Centrifuge, find_protocol
from filtered_websocket.routing import protocol_urlpatterns, with_websockets
from filtered_websocket.testing import connect

from .clients import speak


def test_a_protocol_is_found_by_its_name():
    assert find_protocol(None) is find_protocol("plain") is None
    assert isinstance(find_protocol("centrifuge"), Centrifuge)


@pytest.mark.parametrize("name", ["morse", 5])
def test_an_unknown_protocol_is_named_with_the_known_ones(name):
    with pytest.raises(ImproperlyConfigured, match="Name one of 'plain', 'centrifuge'"):
        FilteredWebSocketConsumer.as_asgi(filters=[], protocol=name)


def test_it_encodes_what_is_published():
    encode = find_protocol("centrifuge").encode
    assert find_protocol("centrifuge").decode(bytearray(b"[1]"), True) == [1]
    assert encode({"a": 1}, {}) == '{"a":1}'
    assert encode(b"x", {}) == b"x"
    assert encode(Data(b"1"), {}) == b"1"


@override_settings(FILTERED_WEBSOCKET={"PROTOCOL": "centrifuge"})
async def test_a_setting_chooses_it_for_all_routes():
    async with speak(application=FilteredWebSocketConsumer.as_asgi(filters=[])) as ann:
        assert "client" in ann.connected["connect"]


async def test_a_site_serves_it_at_its_usual_path():
    [pattern] = protocol_urlpatterns()
    assert str(pattern.pattern) == "connection/websocket"
    application = with_websockets(None, [], protocols=True)
    async with speak(application=application, path="/connection/websocket") as ann:
        assert "client" in ann.connected["connect"]
    refused = await connect(with_websockets(None, []), "/connection/websocket")
    assert not refused.accepted
    await refused.close()
