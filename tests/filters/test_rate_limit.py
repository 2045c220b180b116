"""The filter that limits how fast a client may send."""

import gc

import pytest

from filtered_websocket.consumers import FilteredWebSocketConsumer
from filtered_websocket.filters import rate_limit
from filtered_websocket.filters.rate_limit import Buckets, RateLimitFilter
from filtered_websocket.pipelines.entries import PipelineError, load_entry
from filtered_websocket.pipelines.pipeline import Pipeline
from filtered_websocket.testing import Closed, connect

from ..connections.test_connection import message_filter
from ..handshaking import shake_hands

PATH = "filtered_websocket.filters.rate_limit"


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(rate_limit, "time", Clock())
    return rate_limit.time


def echo(web_socket_instance, data):
    web_socket_instance.push(bytes(data))


def limited(**options):
    return [{"NAME": PATH, "OPTIONS": options}, message_filter(echo)]


def taken(buckets, key, count):
    return sum(buckets.take(key) for _ in range(count))


@pytest.mark.parametrize(
    ("rate", "burst", "at_once", "seconds", "more"),
    [
        ("20/s", None, 20, 1, 20),
        ("20/s", None, 20, 0.05, 1),
        ("20/s", None, 20, 0.04, 0),
        ("20/s", 5, 5, 0.1, 2),
        ("20/s", 5, 5, 3600, 5),
        ("60/m", None, 60, 1, 1),
        ("3600/h", 1, 1, 1, 1),
        ("7/s", 3, 3, 1 / 7, 1),
    ],
)
def test_a_burst_and_then_the_rate(clock, rate, burst, at_once, seconds, more):
    buckets = Buckets(rate, burst)
    assert taken(buckets, "ann", 100) == at_once
    clock.now += seconds
    assert taken(buckets, "ann", 100) == more
    assert taken(buckets, "bob", 100) == at_once


def test_in_the_long_run_it_is_the_rate_whatever_is_tried_between(clock):
    buckets = Buckets("10/s", 1)
    through = 0
    for _ in range(10_000):
        clock.now += 0.001
        through += buckets.take("ann")
    assert through == 100


def test_memory_is_bounded_and_who_is_heard_of_now_is_remembered(clock, monkeypatch):
    monkeypatch.setattr(rate_limit, "MAX_KEYS", 3)
    buckets = Buckets("1/s", None)
    assert buckets.take("ann")
    for other in "bcdefg":
        clock.now += 0.01
        assert buckets.take(other)
        # Refused, and not forgotten for that.
        assert not buckets.take("ann")
    assert len(buckets) == 3
    assert buckets.take("b") and not buckets.take("g")


def test_a_connection_that_has_gone_is_forgotten():
    class Gone:
        pass

    buckets, gone = Buckets("1/s", None), Gone()
    assert buckets.take(gone) and not buckets.take(gone) and len(buckets) == 1
    del gone
    gc.collect()
    assert len(buckets) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *[
            ({"rate": rate}, f"rate is {rate!r}: write it as 20/s, 600/m or 5000/h")
            for rate in ("", "20", "20/", "/s", "0/s", "-1/s", "1.5/s", "20/d", "20/s/s", "²/s")
        ],
        ({"burst": 0}, "burst is 0: it must be at least 1"),
        ({"rate": 20}, "option 'rate' is 20"),
        ({"per": "ip"}, "option 'per' is 'ip'"),
        ({"action": None}, "option 'action' is None"),
    ],
)
def test_a_wrong_option_is_told_when_the_pipeline_is_built(options, words):
    with pytest.raises(PipelineError) as caught:
        load_entry({"NAME": PATH, "OPTIONS": options})
    assert caught.value.id == "filtered_websocket.E007"
    assert words in caught.value.message and repr(PATH) in caught.value.message


def test_two_entries_count_apart_and_are_shown_in_their_chain(clock):
    pipeline = Pipeline([PATH, {"NAME": PATH, "OPTIONS": {"rate": "2/h"}}])
    assert pipeline.lines() == ["data       | rate_limit | rate_limit"]
    first, second = pipeline.data.filters
    assert first is RateLimitFilter and first._buckets is not second._buckets


async def test_what_is_one_too_many_is_dropped(clock):
    async with connect(limited(rate="2/s")) as ann, connect(limited(rate="2/s")) as bob:
        for client in (ann, bob):
            for message in "123":
                await client.send(message)
            assert [await client.receive(), await client.receive()] == ["1", "2"]
            assert await client.received_nothing()
        clock.now += 0.5
        await ann.send("4")
        assert await ann.receive() == "4"


async def test_what_is_one_too_many_is_answered(clock):
    async with connect(limited(rate="1/s", action="answer")) as ann:
        for message in "123":
            await ann.send(message)
        error = "Error: Too many messages"
        assert [await ann.receive() for _ in range(3)] == ["1", error, error]


async def test_what_is_one_too_many_closes(clock):
    async with connect(limited(rate="1/s", action="close")) as ann:
        await ann.send("1")
        await ann.send("2")
        assert await ann.receive() == "1"
        with pytest.raises(Closed, match="4102 'too many messages'"):
            await ann.receive()


async def test_per_user_and_per_address_count_connections_together(clock, django_user_model):
    ann, bob = (django_user_model(pk=pk, username=f"{pk}") for pk in (1, 2))
    near, far = ("192.0.2.1", 1), ("192.0.2.2", 1)
    for per, same, other in (
        ("user", {"user": ann, "client": near}, {"user": bob, "client": near}),
        ("address", {"user": ann, "client": near}, {"user": ann, "client": far}),
    ):
        app = FilteredWebSocketConsumer.as_asgi(filters=limited(rate="1/s", per=per))
        # Anonymous and without an address: counted by itself.
        bare = {"user": None, "client": None}
        clients = [await shake_hands(app, **who) for who in (same, same, other, bare, bare)]
        for client in clients:
            await client.send("x")
            await client.settle()
        assert [client._output.empty() for client in clients] == [False, True, *[False] * 3]
        for client in clients:
            await client.close()
