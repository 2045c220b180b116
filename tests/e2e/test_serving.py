"""What serving promises, with real processes, sockets and a real Redis."""

import asyncio
import base64
import os
import socket
import struct
import uuid

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ..waiting import limited
from .sockets import connect

CLIENTS = 500


def room():
    return f"/rooms/{uuid.uuid4().hex}/"


async def hears(socket, count):
    async with limited():
        return [await socket.recv() for _ in range(count)]


async def hears_nothing_before(socket, sender, marker):
    """What ``socket`` got before ``marker``, which a third party sends now."""
    await sender.send(marker)
    got = []
    async with limited():
        while (message := await socket.recv()) != marker:
            got.append(message)
    return got


async def test_a_message_reaches_every_other_client_of_both_processes_once(two_servers):
    path = room()
    one, other = two_servers
    async with (
        connect(one.ws(path)) as ann,
        connect(one.ws(path)) as bob,
        connect(other.ws(path)) as cy,
        connect(other.ws(path)) as dan,
    ):
        await ann.send("HELLO")
        for client in (bob, cy, dan):
            assert await hears(client, 1) == ["HELLO"]
        # Everything behind it would arrive before the marker: nothing did.
        assert await hears_nothing_before(bob, dan, "END") == []
        assert await hears_nothing_before(cy, ann, "END2") == ["END"]
        assert await hears(ann, 1) == ["END"]


async def test_all_members_of_both_processes_see_one_order(two_servers):
    path = room()
    senders, each = 6, 50
    async with asyncio.TaskGroup() as group:
        sockets = [await connect(two_servers[n % 2].ws(path)).__aenter__() for n in range(senders)]
        listeners = [await connect(server.ws(path)).__aenter__() for server in two_servers]

        async def talk(number, socket):
            for n in range(each):
                await socket.send(f"{number}.{n}")

        for number, socket in enumerate(sockets):
            group.create_task(talk(number, socket))
        first, second = [await hears(listener, senders * each) for listener in listeners]
        for socket in sockets:
            await hears(socket, (senders - 1) * each)
        for socket in (*sockets, *listeners):
            await socket.close()
    assert first == second
    assert sorted(first) == sorted(f"{n}.{m}" for n in range(senders) for m in range(each))
    for number in range(senders):
        mine = [int(message.split(".")[1]) for message in first if message.startswith(f"{number}.")]
        assert mine == list(range(each))


async def test_500_clients_that_join_at_the_same_moment_hear_each_message_once(two_servers):
    path = room()
    sockets = await asyncio.gather(
        *(connect(two_servers[n % 2].ws(path)).__aenter__() for n in range(CLIENTS))
    )
    try:
        await sockets[0].send("ONE")
        await sockets[1].send("TWO")
        heard = await asyncio.gather(*(hears(socket, 2) for socket in sockets[2:]))
        assert all(sorted(messages) == ["ONE", "TWO"] for messages in heard)
        await sockets[0].send("END")
        ends = await asyncio.gather(*(hears(socket, 1) for socket in sockets[2:]))
        assert all(messages == ["END"] for messages in ends)
    finally:
        await asyncio.gather(*(socket.close() for socket in sockets))


async def test_text_stays_text_and_binary_stays_binary(two_servers):
    one, other = two_servers
    async with connect(one.ws()) as ann, connect(other.ws(), max_size=2**20) as bob:
        for message in (
            "plain",
            "Grüße, 世界 🌍 ٣",
            b"\x00\xff\xfe not text",
            b"valid utf-8, and binary",
            "x" * 262_144,
        ):
            await ann.send(message)
            assert await hears(bob, 1) == [message]


async def test_an_empty_text_message_does_not_crash(two_servers):
    async with connect(two_servers[0].ws()) as ann, connect(two_servers[1].ws()) as bob:
        await ann.send("")
        await ann.send("after")
        assert await hears(bob, 1) == ["after"]


async def test_a_message_over_the_limit_closes_with_4413(server):
    async with connect(server.ws()) as ann:
        await ann.send("x" * 262_145)
        with pytest.raises(ConnectionClosed) as caught:
            await hears(ann, 1)
    assert caught.value.rcvd.code == 4413


@pytest.mark.parametrize("name", ["ünï", "世界", "a b", "x" * 500, "💥", "a%0Ab", "٣"])
async def test_group_names_with_any_unicode_reach_the_other_process(two_servers, name):
    from urllib.parse import quote

    path = f"/rooms/{name if '%' in name else quote(name)}/"
    async with connect(two_servers[0].ws(path)) as ann, connect(two_servers[1].ws(path)) as bob:
        await ann.send("HI")
        assert await hears(bob, 1) == ["HI"]


async def test_two_routes_do_not_hear_each_other(server):
    async with (
        connect(server.ws()) as site,
        connect(server.ws("/rooms/a/")) as inside,
        connect(server.ws()) as other,
        connect(server.ws("/rooms/a/")) as neighbour,
    ):
        await site.send("to the site")
        await inside.send("to the room")
        assert await hears(other, 1) == ["to the site"]
        assert await hears(neighbour, 1) == ["TO THE ROOM"]
        assert await hears_nothing_before(other, site, "end") == []


async def test_an_unknown_path_is_refused_without_an_error(server):
    before = server.output
    for _ in range(3):
        with pytest.raises(InvalidStatus) as caught:
            await connect(server.ws("/nosuch/path/")).__aenter__()
        assert caught.value.response.status_code == 403
    after = server.output[len(before) :]
    assert "Traceback" not in after and "ERROR" not in after


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost.evil.example"])
async def test_a_page_of_another_site_is_refused(server, origin):
    with pytest.raises(InvalidStatus) as caught:
        await connect(server.ws(), origin=origin).__aenter__()
    assert caught.value.response.status_code == 403


async def test_a_page_of_this_site_is_welcome(server):
    async with connect(server.ws(), origin="http://localhost:9000") as ann:
        assert ann.protocol.state.name == "OPEN"


def frame(payload, opcode=1):
    """A masked client frame, RFC 6455 section 5.2, of under 126 bytes."""
    mask = os.urandom(4)
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload)) + mask + body


async def test_messages_of_one_tcp_segment_are_all_handled_in_order(server):
    path = room()
    async with connect(server.ws(path)) as bob:
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n".encode()
            )
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += await asyncio.to_thread(raw.recv, 4096)
            assert answer.startswith(b"HTTP/1.1 101")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.sendall(b"".join(frame(f"M{n}".encode()) for n in range(40)))
            assert await hears(bob, 40) == [f"M{n}" for n in range(40)]


async def test_the_printing_filter_prints_who_said_what(server):
    word = uuid.uuid4().hex
    async with connect(server.ws()) as ann:
        await ann.send(f"{word}\nforged")
        line = await asyncio.to_thread(server.said, rf"^[0-9a-f-]{{36}} => {word}.*")
    assert line[0].endswith(f"{word}\\nforged")
