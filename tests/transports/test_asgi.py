"""The transport for plain ASGI, and which transport a connection gets."""

import asyncio

import pytest
from channels.sessions import InstanceSessionWrapper

from filtered_websocket import transports
from filtered_websocket.codecs.frames import Bundle, Frame
from filtered_websocket.transports import AsgiTransport, asgi, open_transport, scheduling


class Peer:
    """A server's ``send``, and the reported ends of the connection."""

    def __init__(self, max_unsent=100):
        self.events = []
        self.ended = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error = None
        self.transport = AsgiTransport(self.send, max_unsent, lambda *end: self.ended.append(end))

    async def send(self, event):
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.events.append(event)

    @property
    def texts(self):
        return [event["text"] for event in self.events if event["type"] == "websocket.send"]


def text(payload="a"):
    return Frame(payload.encode(), True)


async def test_nothing_leaves_before_it_is_open():
    peer = Peer()
    peer.transport.write(text("1"))
    await asyncio.sleep(0)
    assert peer.texts == [] and peer.transport.unsent == 1
    peer.transport.open()
    await peer.transport.stopped()
    assert peer.texts == ["1"] and peer.transport.unsent == 0


async def test_a_write_awaited_before_the_handshake_is_answered_returns_at_once():
    peer = Peer()
    done = asyncio.get_running_loop().create_future()
    peer.transport.write(text("early"), done)
    await done
    peer.transport.open()
    await peer.transport.stopped()
    assert peer.texts == ["early"]


async def test_frames_and_close_keep_their_order():
    peer = Peer()
    peer.transport.open()
    for payload in "123":
        peer.transport.write(text(payload))
    peer.transport.close(4000, "bye")
    peer.transport.close(4001, "twice")
    peer.transport.write(text("late"))
    await peer.transport.stopped()
    assert peer.texts == ["1", "2", "3"]
    assert peer.events[-1] == {"type": "websocket.close", "code": 4000, "reason": "bye"}
    assert peer.ended == [(4000, "bye")] and peer.transport.closing
    peer.transport.stop()
    assert peer.ended == [(4000, "bye")]


async def test_what_is_queued_in_the_very_iteration_in_which_the_writer_ends_leaves():
    """A thread may write and close while the last frame leaves."""
    peer = Peer()
    loop = asyncio.get_running_loop()

    async def send(event):
        peer.events.append(event)
        if event.get("text") == "1":
            loop.call_soon(peer.transport.write, text("2"))
        elif event.get("text") == "2":
            loop.call_soon(peer.transport.close, 4000, "bye")

    peer.transport._send = send
    peer.transport.open()
    peer.transport.write(text("1"))
    await peer.transport.stopped()
    assert peer.texts == ["1", "2"]
    assert peer.events[-1] == {"type": "websocket.close", "code": 4000, "reason": "bye"}
    assert peer.ended == [(4000, "bye")]


async def test_nothing_is_sent_after_a_stop_not_even_a_close_that_is_due(monkeypatch):
    monkeypatch.setattr(asgi, "call_in_batches", asyncio.get_running_loop().call_soon)
    peer = Peer()
    peer.gate.clear()
    peer.transport.open()
    for _ in range(3):
        peer.transport.write(text("x" * 60))  # too slow: its close frame is due
    peer.transport.stop()
    await asyncio.sleep(0)
    await peer.transport.stopped()
    assert peer.events == [] and [code for code, _ in peer.ended] == [4101]


async def test_a_waiter_is_told_when_its_frame_has_left_or_never_can():
    peer = Peer()
    peer.transport.open()
    done, never, late = (asyncio.get_running_loop().create_future() for _ in range(3))
    peer.transport.write(text(), done)
    await done
    assert peer.texts == ["a"]
    peer.gate.clear()
    peer.transport.write(text(), never)
    peer.transport.stop()
    await never
    peer.transport.write(text(), late)
    await late
    await peer.transport.stopped()


async def test_a_slow_reader_is_closed_and_its_frames_forgotten():
    peer = Peer(max_unsent=10)
    peer.gate.clear()
    peer.transport.open()
    peer.transport.write(text("x" * 6))
    await asyncio.sleep(0)
    peer.transport.write(text("x" * 6))
    assert peer.transport.closed[0] == 4101 and peer.transport.unsent == 0
    peer.gate.set()
    await peer.transport.stopped()
    assert peer.events[-1]["code"] == 4101
    assert peer.ended[0][0] == 4101 and peer.transport.unsent == 0


async def test_frames_that_wait_are_limited_in_number_too(settings, monkeypatch):
    """An empty one takes memory as well."""
    monkeypatch.setattr(asgi, "MAX_FRAMES", 3)
    peer, dropped = Peer(), []
    peer.transport.on_drop = lambda: dropped.append(1)
    peer.transport.write(Bundle([(b"", True)] * 3))
    assert not peer.transport.closing
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    peer.transport.write(text(""))
    assert dropped == [1] and not peer.transport.closing
    settings.FILTERED_WEBSOCKET = {}
    peer.transport.write(text(""))
    assert peer.transport.closed[0] == 4101
    peer.transport.open()
    await peer.transport.stopped()


async def test_of_a_slow_reader_the_newest_is_dropped_where_the_site_says_so(settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    dropped = []
    peer = Peer(max_unsent=10)
    peer.transport.on_drop = lambda: dropped.append(peer.transport.unsent)
    peer.gate.clear()
    peer.transport.open()
    peer.transport.write(text("1" * 6))
    await asyncio.sleep(0)
    done = asyncio.get_running_loop().create_future()
    peer.transport.write(text("2" * 6), done)
    # Nobody waits for what will never leave.
    assert done.done() and not peer.transport.closing
    # Of a bundle, what fits stays.
    peer.transport.write(Bundle([(b"3" * 3, True), (b"4" * 3, True), (b"5", True)]))
    assert dropped == [6, 9]
    peer.gate.set()
    await peer.transport.stopped()
    peer.transport.write(text("6" * 6))
    await peer.transport.stopped()
    assert peer.texts == ["1" * 6, "3" * 3, "5", "6" * 6]
    assert not peer.transport.closing and peer.transport.unsent == 0


async def test_a_message_that_never_fits_is_dropped_and_nobody_need_listen(settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    peer = Peer(max_unsent=3)
    peer.transport.open()
    peer.transport.write(text("1234"))
    peer.transport.write(text("123"))
    await peer.transport.stopped()
    assert peer.texts == ["123"] and peer.ended == []


async def test_a_client_that_reads_nothing_is_closed_after_close_timeout(monkeypatch):
    monkeypatch.setattr(AsgiTransport, "close_timeout", 0)
    peer = Peer()
    peer.gate.clear()
    peer.transport.open()
    peer.transport.write(text())
    await asyncio.sleep(0)
    peer.transport.close(4000, "")
    await peer.transport.stopped()
    assert peer.ended == [(4000, "")] and peer.events == []


async def test_many_slow_readers_are_closed_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(scheduling, "BATCH_INTERVAL", 3600)
    peers = [Peer(max_unsent=1) for _ in range(scheduling.BATCH_SIZE + 2)]
    for peer in peers:
        peer.transport.open()
        peer.transport.write(text("xx"))
        # Nothing more is kept for any of them.
        assert peer.transport.closed[0] == 4101 and peer.transport.unsent == 0
    await asyncio.sleep(0)
    for peer in peers[: scheduling.BATCH_SIZE]:
        await peer.transport.stopped()
    assert [len(peer.ended) for peer in peers] == [1] * scheduling.BATCH_SIZE + [0] * 2
    # Whoever has gone before its turn is not told any more.
    peers[-1].transport.lost(1006)
    assert len(peers[-1].ended) == 1
    peers[-1].transport._queue_close()
    assert peers[-1].transport._timer is None and not peers[-1].transport.writing
    peers[-2].transport._queue_close()
    await peers[-2].transport.stopped()
    assert peers[-2].events[-1]["code"] == 4101


async def test_a_refused_send_ends_the_connection(caplog):
    peer = Peer()
    peer.error = OSError("gone")
    peer.transport.open()
    with caplog.at_level("INFO"):
        peer.transport.write(text("1"))
        peer.transport.write(text("2"))
        await peer.transport.stopped()
    assert peer.ended == [(1006, "")] and peer.transport.unsent == 0
    assert "could not send" in caplog.text


async def test_a_lost_peer_is_told_once_with_its_code():
    peer = Peer()
    peer.transport.lost(1001, "away")
    peer.transport.lost(1000, "")
    assert peer.ended == [(1001, "away")]


async def test_stop_without_a_close_is_code_1006():
    peer = Peer()
    peer.transport.open()
    peer.transport.stop()
    assert peer.ended == [(1006, "")]


async def test_a_waiter_that_gave_up_does_no_harm():
    done = asyncio.get_running_loop().create_future()
    done.cancel()
    transports.settle(done)
    transports.settle(None)
    with pytest.raises(asyncio.CancelledError):
        await done


async def test_a_bundle_leaves_frame_by_frame():
    peer = Peer()
    peer.transport.open()
    peer.transport.write(Bundle([(b"1", True), (b"2", True)]))
    assert peer.transport.unsent == 2 and peer.transport.writing
    await peer.transport.stopped()
    assert peer.texts == ["1", "2"] and not peer.transport.writing


async def test_a_send_of_no_server_known_here_is_plain_asgi(caplog, monkeypatch):
    monkeypatch.setattr(transports, "_logged", set())
    peer = Peer()
    wrapped = InstanceSessionWrapper({"cookies": {}}, peer.send).send
    with caplog.at_level("INFO"):
        sends = [peer.send, wrapped, print, peer.send]
        found = [open_transport(send, 1, print) for send in sends]
    assert {type(transport) for transport in found} == {AsgiTransport}
    # Once per process and reason, not for every connection.
    assert [record.getMessage() for record in caplog.records] == [
        f"WebSocket frames leave by plain ASGI: send is {name}, which is neither daphne's nor"
        " uvicorn's (websockets-sansio) in a form that this package supports"
        for name in ("tests.transports.test_asgi.Peer.send", "builtins.print")
    ]


async def test_a_slow_reader_is_closed_rather_than_miss_what_is_kept(settings):
    settings.FILTERED_WEBSOCKET = {"SLOW_READER": "drop_newest"}
    peer = Peer(max_unsent=5)
    peer.transport.write(Bundle([(b"123", True), (b"456", True)], is_kept=True))
    assert peer.transport.closed[0] == 4101 and peer.transport.unsent == 0
    peer.transport.open()
    await peer.transport.stopped()
    assert peer.texts == []
