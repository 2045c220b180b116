"""What a process says of itself, and what all of them say together."""

import asyncio
import copy

import pytest

from filtered_websocket import (
    Close,
    Drop,
    WebSocketConnectFilter,
    WebSocketGroupFilter,
    WebSocketMessageFilter,
    __version__,
)
from filtered_websocket.api import control
from filtered_websocket.console import snapshot
from filtered_websocket.console.filters import console_urlpatterns
from filtered_websocket.console.snapshot import MAX_BYTES, merge_hubs, merge_pipelines
from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.filters.rate_limit import RateLimitFilter
from filtered_websocket.hub.hub import get_hub
from filtered_websocket.json_codec import JSONCodec
from filtered_websocket.testing import connect

from .crowds import asked

pytestmark = pytest.mark.django_db(transaction=True)


class Greets(WebSocketConnectFilter):
    @classmethod
    def filter(cls, connection, handshake):
        pass


class Chooses(WebSocketMessageFilter):
    """Does with a message what it says."""

    @classmethod
    def filter(cls, connection, data):
        word = bytes(data)
        if word == b"drop":
            raise Drop
        if word == b"close":
            raise Close(4000, "bye")
        if word == b"fail":
            raise ValueError(word)


class Looks(WebSocketGroupFilter):
    @classmethod
    def filter(cls, hub, data):
        pass


def stages_of(pipeline):
    return {
        (chain["chain"], stage["name"]): stage
        for chain in pipeline["chains"]
        for stage in chain["stages"]
    }


async def look_inside():
    node, _ = await asked(get_hub(), "process")
    return node


def pipeline_of(node, home):
    [found] = [one for one in node["inside"]["pipelines"] if one["home"] == home]
    return found


async def test_each_filter_says_how_often_it_ran_and_how_that_ended():
    filters = [Greets, RateLimitFilter, Chooses, BroadcastMessagesFilter, Looks]
    app = FilteredWebSocketConsumer.as_asgi(filters=filters, groups=["counted"])
    async with connect(app) as ann, connect(app) as bob:
        for word in ("hello", "drop", "fail", "hello", "close"):
            await ann.send(word)
        assert await ann.closed() == 4000
        await ann.close()
        await bob.settle()
        node = await look_inside()
    pipeline = pipeline_of(node, "counted")
    assert [chain["chain"] for chain in pipeline["chains"]] == [
        *("connect", "data", "message", "group"),
    ]
    stages = stages_of(pipeline)
    chooses = stages["message", "chooses"]
    assert chooses["path"] == f"{__name__}.Chooses"
    numbers = [chooses[name] for name in ("runs", "errors", "drops", "closes")]
    assert numbers == [5, 1, 1, 1]
    assert chooses["seconds"] > 0 and sum(chooses["times"]) == 5
    assert stages["connect", "greets"]["runs"] == 2
    assert stages["message", "broadcast_messages"]["runs"] == 2
    assert stages["group", "looks"]["runs"] == 2
    assert pipeline["connections"] == 1 and pipeline["own"] is False


async def test_a_process_says_who_it_is_and_how_it_does():
    app = FilteredWebSocketConsumer.as_asgi(filters=[], groups=["a", "b"])
    async with connect(app) as client:
        node = await look_inside()
        with_nobody_new = await asyncio.to_thread(control.describe_processes)
        await client.settle()
    assert (node["version"], node["num_clients"], node["num_users"]) == (__version__, 1, 0)
    assert (node["num_subs"], node["num_channels"]) == (2, 2)
    inside = node.pop("inside")
    assert with_nobody_new == [node]
    assert inside["layer"] == "none" and inside["draining"] is False
    assert inside["queue"] == {"messages": 0, "bytes": 0}
    assert inside["blocking"] == {"busy": 0, "abandoned": 0, "of": 8}
    assert inside["lag"] >= 0 and inside["worst_lag"] >= inside["lag"]
    assert inside["unsent"] == inside["backlog"] == 0


async def test_describe_processes_shows_the_inside_where_it_is_asked_for():
    async with connect([Greets]):
        [node] = await asyncio.to_thread(control.describe_processes, inside=True)
        [without] = await asyncio.to_thread(control.describe_processes)
    assert node["inside"]["pipelines"] and "inside" not in without
    assert node["uid"] == without["uid"]


async def test_a_layer_that_is_lost_is_said():
    async with connect([]):
        get_hub().layer_is_lost = True
        node = await look_inside()
        get_hub().layer_is_lost = False
    assert node["inside"]["layer"] == "lost"


async def test_pipelines_are_described_as_manage_py_filters_prints_them():
    """Path, protocol, codec; this package's own comes last, and what nobody serves is not there."""
    plain = FilteredWebSocketConsumer.as_asgi(filters=[Greets], codec=JSONCodec)
    spoken = FilteredWebSocketConsumer.as_asgi(filters=[Looks], protocol="centrifuge", groups=["x"])
    for number, app in enumerate((plain, spoken)):
        app.route.paths = [f"/{number}/{more}" for more in range(9)]
    [own] = [entry.callback.route for entry in console_urlpatterns()]
    own.paths = ["/fws-console/"]
    async with connect(plain) as client:
        node = await look_inside()
        await client.settle()
    mine = [one for one in node["inside"]["pipelines"] if one["paths"][:1] in (["/0/0"], ["/1/0"])]
    facts = [(one["protocol"], one["codec"], one["home"], len(one["paths"])) for one in mine]
    assert facts == [("plain", "JSONCodec", "", 5), ("centrifuge", "", "x", 5)]
    assert node["inside"]["pipelines"][-1]["own"] is True


async def test_an_answer_with_many_pipelines_leaves_out_histograms_and_then_pipelines(settings):
    apps = [
        FilteredWebSocketConsumer.as_asgi(
            filters=[Greets, Chooses, Looks, RateLimitFilter] * 2, groups=[f"group {number:04}"]
        )
        for number in range(60)
    ]
    hub = get_hub()
    described = snapshot.describe_pipelines(hub)
    fitting = snapshot._fitting(copy.deepcopy(described))
    assert len(apps) <= len(described) == len(fitting["pipelines"]) + fitting["left_out"]
    assert fitting["left_out"] > 0
    assert snapshot._size(fitting["pipelines"]) <= MAX_BYTES
    assert not any(
        "times" in stage for one in fitting["pipelines"] for stage in stages_of(one).values()
    )
    # The site's own routes may have no filters.
    few = snapshot._fitting([one for one in described if stages_of(one)][:1])
    assert few["left_out"] == 0 and "times" in next(iter(stages_of(few["pipelines"][0]).values()))


# Together


def node(connections, runs, paths=("/",), filters=("a.A", "a.B"), own=False, times=True):
    stages = [
        {
            **{"name": path, "path": path, "runs": runs, "errors": 1, "drops": 2, "closes": 0},
            "seconds": runs / 10,
            **({"times": [runs, 0]} if times else {}),
        }
        for path in filters
    ]
    pipeline = {
        **{"paths": list(paths), "home": "", "own": own, "connections": connections},
        "chains": [{"chain": "message", "stages": stages}],
    }
    return {"inside": {"pipelines": [pipeline]}}


def test_what_processes_have_counted_is_added_up():
    nodes = [node(2, 10), node(3, 5), {"uid": "of an older version"}]
    before = copy.deepcopy(nodes)
    [merged] = merge_pipelines(nodes)
    assert merged["connections"] == 5
    stage = merged["chains"][0]["stages"][1]
    assert (stage["runs"], stage["errors"], stage["drops"]) == (15, 2, 4)
    assert stage["seconds"] == pytest.approx(1.5) and stage["times"] == [15, 0]
    assert nodes == before, "answers are kept, and merged again"


def test_what_the_hubs_of_one_process_have_counted_is_the_same():
    def hub(uid, connections, *pipelines):
        told = [one["inside"]["pipelines"][0] for one in pipelines]
        return {"uid": uid, "num_clients": connections, "inside": {"pipelines": told}}

    of_one = hub("a", 1, node(1, 10), node(0, 4, paths=("/b",)))
    of_other = hub("a", 5, node(5, 10), node(1, 7, paths=("/of/another/version",)))
    elsewhere = {"uid": "of an older version", "num_clients": 2}
    merged = {one["uid"]: one for one in merge_hubs([of_one, of_other, elsewhere])}
    assert merged.keys() == {"a", "of an older version"}
    assert merged["a"]["num_clients"] == 6 and elsewhere["num_clients"] == 2
    [first, *_] = merge_pipelines(merged.values())
    assert first["connections"] == 6 and first["chains"][0]["stages"][0]["runs"] == 10


@pytest.mark.parametrize("times", [(True, False), (False, True), (False, False)])
def test_where_an_answer_was_too_long_there_is_no_histogram(times):
    [merged] = merge_pipelines(node(1, 1, times=one) for one in times)
    assert "times" not in merged["chains"][0]["stages"][0]


def test_pipelines_of_two_versions_stay_apart():
    nodes = [
        node(1, 1),
        node(5, 1, filters=("a.A",)),
        node(9, 1, paths=("/b",)),
        node(99, 1, own=True),
    ]
    nodes[3]["inside"]["pipelines"][0]["paths"] = ["/own"]
    assert [one["connections"] for one in merge_pipelines(nodes)] == [9, 5, 1, 99]
