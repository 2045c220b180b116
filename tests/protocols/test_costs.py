"""
What commands of a client cost, counted: of a byte of them no more than of a byte of a plain
route's shortest messages, which are its most expensive ones.
"""

import asyncio
import base64
import copy
import json

import pytest

from filtered_websocket.codecs.centrifuge import JSON, PROTOBUF
from filtered_websocket.connections import reading
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.groups import History, group
from filtered_websocket.testing import connect
from filtered_websocket.transports import scheduling

from ..costs import steps
from .clients import app

codecs = pytest.importorskip("centrifuge.codecs")

RULES = [
    group("shut", join=False, publish=False),
    group("room<int:room>", publish=True, see=True, presence=True),
    group("kept", publish=True, see=True, presence=True, history=History(size=400, ttl=60)),
]
#: What the shortest frame of a client has besides its payload: two bytes, and the mask.
HEAD = 6
SHORTEST = HEAD + 1


class Frozen:
    """A clock by which nothing takes time: others have no turns, which would be counted."""

    @staticmethod
    def perf_counter():
        return 0.0


@pytest.fixture(scope="module", autouse=True)
def clock():
    with pytest.MonkeyPatch.context() as patch:
        for module in (reading, scheduling):
            patch.setattr(module, "time", Frozen)
        yield


def encoded(form, commands):
    """One frame of commands, as a client of the format sends it."""
    if form is JSON:
        return "\n".join(json.dumps(one, separators=(",", ":")) for one in commands)
    made = [copy.deepcopy(one) for one in commands]
    for command in made:
        for request in command.values():
            if isinstance(request, dict) and "data" in request:
                data = json.dumps(request["data"]).encode()
                request["data"] = base64.b64encode(data).decode()
    return codecs._ProtobufCodec.encode_commands(made)


async def flood(application, frames, form=None):
    subprotocols = [] if form is None else [form.subprotocol]
    async with connect(application, subprotocols=subprotocols) as ann:
        if form is not None:
            await ann.send(encoded(form, [{"id": 1, "connect": {}}]))
            await ann.receive()
        for frame in frames:
            await ann.send(frame)
        await ann.settle()


def run(*arguments):
    asyncio.run(flood(*arguments))


COUNT = 20


def cost(application, make, form=None):
    """The steps of one more, where ``make(count)`` makes frames of so many."""
    run(application, make(COUNT), form)  # what is made once is there
    some, twice = (steps(run, application, make(count), form) for count in (COUNT, 2 * COUNT))
    return (twice - some) / COUNT


@pytest.fixture(scope="module")
def of_plain(clock):
    """The steps for each byte of a plain route's shortest messages, which are published."""
    application = FilteredWebSocketConsumer.as_asgi(
        filters=["filtered_websocket.filters.broadcast_messages"]
    )
    return cost(application, lambda count: ["x"] * count) / SHORTEST


KINDS = {
    "pings": [{"id": 1, "ping": {}}],
    "sends": [{"send": {}}],
    "publishes": [{"id": 1, "publish": {"channel": "room1", "data": 1}}],
    "publishes that are kept": [{"id": 1, "publish": {"channel": "kept", "data": 1}}],
    "publishes that are refused": [{"id": 1, "publish": {"channel": "shut", "data": 1}}],
    "subscriptions that are refused": [{"id": 1, "subscribe": {"channel": "shut"}}],
    "subscriptions without a rule": [{"id": 1, "subscribe": {"channel": "q"}}],
    "subscriptions with a token": [{"id": 1, "subscribe": {"channel": "kept", "token": "a.b.c"}}],
    "coming and going": [
        {"id": 1, "subscribe": {"channel": "room1"}},
        {"id": 1, "unsubscribe": {"channel": "room1"}},
    ],
    "recovery": [
        {"id": 1, "subscribe": {"channel": "kept", "recover": True, "offset": 2**53}},
        {"id": 1, "unsubscribe": {"channel": "kept"}},
    ],
    "presence": [{"id": 1, "presence": {"channel": "kept"}}],
    "histories": [{"id": 1, "history": {"channel": "kept"}}],
    "calls": [{"id": 1, "rpc": {}}],
    "deep data": [{"send": {"data": json.loads("[" * 30 + "]" * 30)}}],
}


#: So many times the cost of a plain route's byte at most. Protobuf says the same in fewer bytes.
MOST = {JSON: 1.25, PROTOBUF: 4}


@pytest.mark.repeats
@pytest.mark.parametrize("form", MOST, ids=["json", "protobuf"])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_of_commands_cost_no_more_than_so_many_times_a_plain_route(of_plain, kind, form):
    asked = KINDS[kind]
    size = len(encoded(form, 2 * asked)) - len(encoded(form, asked))
    spent = cost(app(rules=RULES), lambda count: [encoded(form, count * asked)], form) / size
    print(f"\n{kind}: {spent:.1f} steps for each byte, {spent / of_plain:.2f} of a plain route's")
    assert spent <= MOST[form] * of_plain


#: The longest frames that are one command, or none. Each byte of them costs next to nothing.
LONG = {
    "data": lambda size: '{"send":{"data":[' + "0," * (size // 2) + "0]}}",
    "text": lambda size: '{"send":{"data":"' + "x" * size + '"}}',
    "brackets": lambda size: '{"send":{"data":[' + "[]," * (size // 3) + "0]}}",
    "channel": lambda size: '{"id":1,"subscribe":{"channel":"' + "x" * size + '"}}',
    "token": lambda size: '{"id":1,"subscribe":{"channel":"kept","token":"' + "x" * size + '"}}',
    "name": lambda size: '{"id":1,"' + "x" * size + '":{}}',
    "number": lambda size: '{"id":' + "9" * size + ',"ping":{}}',
    "no end": lambda size: '{"id":1,"rpc":{"data":' + "[" * size,
}


@pytest.mark.parametrize("kind", LONG)
def test_a_long_command_costs_as_much_as_a_short_one(kind):
    application = app(rules=RULES)
    short, long = (steps(run, application, [LONG[kind](size)], JSON) for size in (6_000, 250_000))
    assert long <= 1.25 * short
