"""Fan out to the members of a pipeline."""

from filtered_websocket import Drop, WebSocketGroupFilter, WebSocketMessageFilter
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import Batch, group_key
from filtered_websocket.publishing.fan_out import MAX_RUN
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect
from filtered_websocket.transports import AsgiTransport


class SayMany(WebSocketMessageFilter):
    """``3`` publishes 0 to 2; odd numbers to its sender too."""

    @classmethod
    def filter(cls, web_socket_instance, data):
        for n in range(int(data)):
            web_socket_instance.publish(str(n), to_self=n % 2 == 1)


class SayLong(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        for letter in data.decode():
            web_socket_instance.publish(letter * (MAX_RUN // 2))


def noted(monkeypatch):
    """What is written to transports, as the number of frames written at once."""
    written = []
    write = AsgiTransport.write

    def note(self, frame, done=None):
        written.append(len(frame.parts))
        write(self, frame, done)

    monkeypatch.setattr(AsgiTransport, "write", note)
    return written


async def hears(client, count):
    return [await client.receive() for _ in range(count)]


async def test_a_batch_is_one_write_per_member_in_order_without_what_is_not_for_it(monkeypatch):
    written = noted(monkeypatch)
    async with connect([SayMany]) as ann, connect([SayMany]) as bob:
        await ann.send("4")
        assert await hears(bob, 4) == ["0", "1", "2", "3"]
        assert await hears(ann, 2) == ["1", "3"]
        assert sorted(written) == [2, 4]
        await ann.send("1")
        assert await hears(bob, 1) == ["0"]
        assert await ann.received_nothing()
        assert sorted(written) == [1, 2, 4]


async def test_who_is_left_out_of_every_message_is_not_written_to(monkeypatch):
    class Say(WebSocketMessageFilter):
        _registers = False

        @classmethod
        def filter(cls, web_socket_instance, data):
            for n in range(3):
                web_socket_instance.publish(str(n))

    written = noted(monkeypatch)
    async with connect([Say]) as ann, connect([Say]) as bob:
        await ann.send("x")
        assert await hears(bob, 3) == ["0", "1", "2"]
        assert await ann.received_nothing()
    assert written == [3]


async def test_long_messages_are_not_written_as_one(monkeypatch):
    written = noted(monkeypatch)
    async with connect([SayLong]) as ann, connect([SayLong]) as bob:
        await ann.send("abc")
        assert [message[0] for message in await hears(bob, 3)] == ["a", "b", "c"]
    assert written == [2, 1]


async def test_a_group_chain_sees_message_by_message(monkeypatch):
    class NoTwo(WebSocketGroupFilter):
        _registers = False

        @classmethod
        def filter(cls, web_socket_instance, data):
            if data == b"2":
                raise Drop

    written = noted(monkeypatch)
    async with connect([SayMany, NoTwo]) as ann, connect([SayMany, NoTwo]) as bob:
        await ann.send("4")
        assert await hears(bob, 3) == ["0", "1", "3"]
        assert await hears(ann, 2) == ["1", "3"]
    assert set(written) == {1}


async def test_a_batch_of_nothing_is_nothing():
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["g"])
    key = group_key("g")
    async with connect(app) as ann:
        for first, items in enumerate([[], [new_item("after")]]):
            await get_hub().link.send(Batch("o", key, first, items))
        assert await hears(ann, 1) == ["after"]


class Grow(WebSocketGroupFilter):
    """``grow`` becomes more than a server sends."""

    @classmethod
    def filter(cls, hub, data):
        return data * 400_000 if data == b"grow" else data


class FanOut(WebSocketMessageFilter):
    @classmethod
    def filter(cls, web_socket_instance, data):
        if data == b"fan out":
            web_socket_instance._view.fan_out("g", "x" * 1_600_000)
        web_socket_instance.publish(data)


async def test_what_grows_in_the_group_chain_is_lost_and_ends_nobody(caplog):
    """daphne ends a connection that it is to send more than 1 MiB to at once."""
    app = FilteredWebSocketConsumer.as_asgi(filters=[FanOut, Grow], groups=["g"])
    async with connect(app) as ann, connect(app) as bob:
        for message in ("grow", "fan out", "fine"):
            await ann.send(message)
        assert await bob.receive() == "fine"
        assert await bob.received_nothing() and await ann.received_nothing()
    assert caplog.text.count("has grown to 1600000 bytes: MAX_MESSAGE_SIZE is 262144") == 2


async def test_what_grows_within_the_limit_arrives(settings):
    settings.FILTERED_WEBSOCKET = {"MAX_MESSAGE_SIZE": 1_600_000, "MAX_OUTBOX": 2_000_000}
    app = FilteredWebSocketConsumer.as_asgi(filters=[FanOut, Grow], groups=["g"])
    async with connect(app) as ann, connect(app) as bob:
        await ann.send("grow")
        assert len(await bob.receive()) == 1_600_000
