"""Whatever a stranger publishes on the layer: the next good message and control event arrive."""

import json

import msgpack
import pytest
from channels.layers import channel_layers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.layer.envelope import CONTROL, Batch, Item, group_key, new_origin, seal
from filtered_websocket.publish import apublish
from filtered_websocket.publishing.items import new_item
from filtered_websocket.testing import connect

from ..waiting import until
from .test_link import Layer

pytestmark = pytest.mark.repeats

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
)
#: All that msgpack can carry, as a receiver gets it.
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), inner, max_size=4)
    ),
    max_leaves=9,
).map(lambda value: msgpack.unpackb(msgpack.packb(value)))
GOOD = seal(Batch("o", group_key("g"), 0, [new_item("forged")]))
ITEM = GOOD["m"][0]


def one_of_its_fields(good, field):
    return st.tuples(st.sampled_from(sorted(good)), field).map(
        lambda pair: {**good, pair[0]: pair[1]}
    )


items = st.tuples(st.integers(0, 4), values).map(
    lambda pair: {**GOOD, "m": [[*ITEM[: pair[0]], pair[1], *ITEM[pair[0] + 1 :]]]}
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
kinds = st.sampled_from(["changed", "sweep", "close", "ask", "count"])
events = st.builds(
    lambda kind, rest: {**rest, "is": kind},
    kinds | json_values,
    st.fixed_dictionaries(
        {},
        optional={
            "kind": json_values | st.sampled_from(["user", "token", "session"]),
            **dict.fromkeys(["id", "code", "reason", "nonce", "tokens"], json_values),
        },
    ),
)


def control_envelope(payload):
    item = Item(1, "j", "", payload.encode("utf-8", "surrogatepass"), {})
    return seal(Batch(new_origin(), group_key(CONTROL), 0, [item]))


envelopes = (
    values
    | values.map(lambda value: {"v": 1, "probe": value})
    | one_of_its_fields(GOOD, values)
    | items
    | (json_values | events).map(json.dumps).map(control_envelope)
    | st.text(max_size=20).map(control_envelope)
)


@pytest.fixture
def layer():
    layer = Layer()
    channel_layers.set("default", layer)
    yield layer
    channel_layers.backends.clear()


async def a_control_event_arrives(hub, layer):
    answers = hub.grants.counts_asked["asked"]
    answers.clear()
    event = json.dumps({"is": "count", "nonce": "asked", "tokens": {"1": 1}})
    await layer.group_send(group_key(CONTROL), control_envelope(event))
    await until(lambda: answers, 0)
    assert [answer.tokens for answer in answers] == [{"1": 1}]


@settings(
    max_examples=150,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(envelopes, min_size=1, max_size=4))
@example([{"v": 1, "probe": []}, {"v": 1, "probe": {}}, {"v": 1, "probe": "x"}])
@example([control_envelope('{"is":"count","nonce":"asked","tokens":[]}')])
@example([control_envelope('{"is":"close","kind":"user","id":1,"code":Infinity,"reason":""}')])
async def test_nothing_on_the_layer_stops_a_hub(layer, forged):
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["g"])
    async with connect(app) as ann:
        hub = get_hub()
        await hub.receive_control()
        hub.grants.counts_asked["asked"] = []
        layer.raw.extend(forged)
        # Lets the receiver return, so that it takes what is forged next.
        await apublish("first", "g")
        while await ann.receive() != "first":
            pass
        await apublish("good", "g")
        heard = []
        while (message := await ann.receive()) != "good":
            heard.append(message)
        assert len(heard) <= len(forged)
        await a_control_event_arrives(hub, layer)
        assert not layer.raw and hub.counts["task_failed"] == 0 and not hub.layer_is_lost
