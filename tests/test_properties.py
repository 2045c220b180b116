"""What is true for any input: chains, group keys, batches, frames, sequences."""

import asyncio
import re
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side

from filtered_websocket import Close, Drop, WebSocketMessageFilter
from filtered_websocket.chains.chain import Chain
from filtered_websocket.codecs.frames import pack, to_frame, unpack
from filtered_websocket.exceptions import FilterError
from filtered_websocket.layer.envelope import (
    MAX_HOLES,
    Batch,
    Item,
    Sequence,
    group_key,
    seal,
    unseal,
)
from filtered_websocket.publishing.batches import MAX_BATCH, MAX_BATCH_BYTES
from filtered_websocket.publishing.items import new_item
from filtered_websocket.publishing.queue import PublishQueue
from filtered_websocket.publishing.sender import MAX_SENDS
from filtered_websocket.threads.tasks import Tasks

from .server.test_daphne_protocol import Peer
from .waiting import limited

pytestmark = pytest.mark.repeats

anything = settings(max_examples=300)

# Chains

STEPS = {
    "append": lambda data: data + b"x",
    "text": lambda data: data.decode() + "ü",
    "look": lambda data: None,
    "change": lambda data: data.append(33),
    "empty": lambda data: b"",
    "drop": Drop,
    "close": lambda data: Close(4000, "x"),
    "fail": lambda data: KeyError("x"),
}


def do(step, data):
    result = STEPS[step](data)
    if isinstance(result, Exception):
        raise result
    return result


def make_filter(step, is_async, seen):
    def plain(cls, web_socket_instance, data):
        seen.append(step)
        return do(step, data)

    async def awaits(cls, web_socket_instance, data):
        await asyncio.sleep(0)
        return plain(cls, web_socket_instance, data)

    function = classmethod(awaits if is_async else plain)
    return type("F", (WebSocketMessageFilter,), {"filter": function, "_registers": False})


def model(steps, data):
    """What comes out of a chain, or raises; and the steps that ran."""
    for number, step in enumerate(steps, 1):
        try:
            result = do(step, data)
        except Exception as error:
            return error, steps[:number]
        if result is not None:
            data = bytearray(result, "utf-8") if isinstance(result, str) else bytearray(result)
    return data, steps


def same(outcome, expected):
    if isinstance(expected, Drop | Close):
        return type(outcome) is type(expected)
    if isinstance(expected, Exception):
        return isinstance(outcome, FilterError) and type(outcome.__cause__) is type(expected)
    return type(outcome) is bytearray and outcome == expected


@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.booleans()), max_size=8))
@anything
async def test_a_chain_is_a_pipe(steps):
    names = [name for name, _ in steps]
    expected, ran = model(names, bytearray(b"begin"))
    for any_async in (True, False):
        seen = []
        filters = [make_filter(name, is_async and any_async, seen) for name, is_async in steps]
        chain = Chain("C", filters, bytes_only=True)
        assert chain.awaits == any(is_async for _, is_async in steps if any_async)
        try:
            if any_async:
                outcome = await chain.arun(None, bytearray(b"begin"))
            else:
                outcome = chain.run(None, bytearray(b"begin"))
        except Exception as error:
            outcome = error
        assert same(outcome, expected) and seen == list(ran)


# Group keys

any_name = st.text(st.characters(exclude_categories=()), min_size=1, max_size=40) | st.sampled_from(
    ["a\n", "r٣", "a", "A", "a ", "\0", "!", "*", "x" * 1024, "\ud800", "é", "é"]
)


@given(st.sets(any_name, max_size=20))
@example(set(map(chr, (0xD800, 0xD801, 0xFFFD, 0x3F))))
@anything
def test_every_name_of_a_group_has_a_safe_key_of_its_own(names):
    keys = {name: group_key(name) for name in names}
    assert all(re.fullmatch(r"[a-z0-9.-]{1,99}", key, re.ASCII) for key in keys.values())
    assert len(set(keys.values())) == len(names)
    assert group_key("") not in keys.values()


# PublishQueue

PUT, ANSWER = "put", "answer"
operations = st.lists(
    st.tuples(
        st.just(PUT),
        st.sampled_from("ghi"),
        st.sampled_from([1, 2, 3, 300]),
        st.sampled_from([0, 1, 1000, 100_000]),
    )
    | st.tuples(
        st.just(ANSWER),
        st.sampled_from("ghi"),
        st.sampled_from([None, OSError("away"), ValueError("no envelope")]),
    ),
    max_size=30,
)


@given(operations)
@anything
async def test_batches_keep_the_order_of_a_group_and_lose_and_repeat_nothing(operations):
    put, sent, failed, in_flight, crowd = {}, [], [], {}, []
    sends, lost = Counter(), Counter()
    names = {group_key(name): name for name in "ghi"}

    class Link:
        is_available = True

        def post(self, batch, on_sent):
            name = names[batch.key]
            crowd.append(name in in_flight)
            in_flight[name] = answer = asyncio.get_running_loop().create_future()
            sent.append((name, batch))

            def answered(answer):
                del in_flight[name]
                on_sent(answer.exception())

            answer.add_done_callback(answered)

        async def wait_available(self, deadline):
            return True

    batches = PublishQueue(Tasks(Counter()), Link, lambda group, items, error: failed.extend(items))
    refused = set()
    for operation, name, *rest in operations:
        if operation == PUT:
            count, size = rest
            items = [new_item(b"x" * size) for _ in range(count)]
            put.setdefault(name, []).extend(items)
            for item in items:
                batches.put(name, item)
        elif name in in_flight:
            [error] = rest
            if error is None:
                in_flight[name].set_result(None)
            else:
                in_flight[name].set_exception(error)
                last = next(batch for who, batch in reversed(sent) if who == name)
                lost[name, last.first] += isinstance(error, OSError)
                if isinstance(error, ValueError) or lost[name, last.first] == MAX_SENDS:
                    refused |= {item.id for item in last.items}
        for _ in range(3):
            await asyncio.sleep(0)
    # Every turn answers a batch, and there are fewer than messages.
    for _ in range(sum(map(len, put.values())) * 3):
        if not batches.size:
            break
        for waiting in list(in_flight.values()):
            if not waiting.done():
                waiting.set_result(None)
        await asyncio.sleep(0)
    async with limited():
        await batches.sent()
    arrived = {}
    for name, batch in sent:
        earlier = arrived.setdefault(name, [])
        sends[name, batch.first] += 1
        if sends[name, batch.first] > 1:
            # It may have arrived: the same messages, with the same numbers, before any other.
            assert batch.items == earlier[batch.first :]
            continue
        assert 0 < len(batch.items) <= MAX_BATCH
        assert sum(len(item.payload) for item in batch.items[:-1]) < MAX_BATCH_BYTES
        assert batch.first == len(earlier)
        earlier += batch.items
    assert arrived == put and batches.size == 0 and not any(crowd)
    assert all(sends[batch] == min(1 + lost[batch], MAX_SENDS) for batch in sends)
    assert sorted(item.id for item in failed) == sorted(refused)


# Messages and frames

messages = (
    st.text(max_size=300)
    | st.binary(max_size=300)
    | st.builds(
        lambda n, c: c * n, st.sampled_from([125, 126, 65_535, 65_536]), st.sampled_from("aü")
    )
    | st.dictionaries(st.text(max_size=5), st.integers() | st.none() | st.text(max_size=5))
)


@given(st.lists(messages, max_size=5))
@anything
def test_what_is_sent_is_what_a_client_reads(sent):
    peer, client = Peer().open(), Protocol(Side.CLIENT, state=OPEN, max_size=None)
    frames = [to_frame(message) for message in sent]
    peer.protocol.maxMessagePayloadSize = peer.protocol.maxFramePayloadSize = 0
    for frame in frames:
        peer.protocol.handle_reply(frame.event())
    client.receive_data(peer.transport.value())
    heard = client.events_received()
    assert [(one.opcode, bytes(one.data)) for one in heard] == [
        (Opcode.TEXT if frame.text else Opcode.BINARY, frame.payload) for frame in frames
    ]
    assert client.parser_exc is None and not client.close_expected()


@given(messages, st.text(max_size=5), st.lists(st.text(max_size=5), max_size=3))
@anything
def test_what_crosses_the_layer_comes_out_as_it_went_in(message, sender, left_out):
    item = new_item(message, sender=sender, exclude=left_out)
    batch = Batch("o", group_key("g"), 7, [item, item])
    assert unseal(seal(batch)) == batch
    data, text = unpack(item.packed, None)
    assert (bytes(data), text) == (pack(message, None)[1], not isinstance(message, bytes))


# Sequences

item = Item(1, "t", "", b"", {})


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=MAX_HOLES),
    st.lists(st.integers(0, MAX_HOLES - 1), max_size=100),
)
@anything
def test_a_sequence_tells_what_was_missed_and_what_came_twice(lengths, arrivals):
    batches, first = [], 0
    for length in lengths:
        batches.append(Batch("o", "k", first, [item] * length))
        first += length
    sequence, seen, end = Sequence(), set(), None
    for number in arrivals:
        batch = batches[number % len(batches)]
        if batch.first in seen:
            expected = None
        else:
            expected = 0 if end is None else max(0, batch.first - end)
            seen.add(batch.first)
            end = max(end or 0, batch.first + len(batch.items))
        assert sequence.record(batch) == expected


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 9))
@anything
def test_a_sequence_forgets_the_origin_that_was_silent_longest(origins, bound):
    sequence, known = Sequence(max_origins=bound), []
    for first, origin in enumerate(origins):
        # Numbers of its own: what was missed is all that others published meanwhile.
        missed = sequence.record(Batch(str(origin), "k", first * 2, [item]))
        assert (missed == 0) == (origin not in known)
        known = [*(other for other in known if other != origin), origin][-bound:]
