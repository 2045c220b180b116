"""Thousands of users in one process: what each one costs Redis, and a message to one of them."""

import pytest

from benchmarks.storm import Storm
from benchmarks.wire import Wire
from filtered_websocket.layer.envelope import group_key
from filtered_websocket.publish import publish_to_user
from filtered_websocket.publishing.direct import close_senders

from ..presence.test_reading import use_layer
from ..waiting import LIMIT
from .conftest import mib

pytestmark = pytest.mark.timeout(600)
ROUNDS = 3
#: The home group, the one of orders to all processes, and the one that the process asks itself by.
OWN = 3


@pytest.fixture
def client(valkey, settings):
    """Of the Redis that this process publishes to."""
    use_layer(settings, "pubsub", valkey.url)
    with valkey.client() as client:
        yield client
    close_senders()


def calls(client, command):
    """How often Redis was given this command."""
    return client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def test_a_user_costs_one_subscription_and_a_message_to_one_reaches_nobody_else(
    serve, kind, cookies, sizes, client, show
):
    site = serve()
    empty, subscribes = site.memory, calls(client, "subscribe")
    users = range(1, sizes.users + 1)
    pages = [Wire(b"").request("/me/", site.port, cookie) for cookie in cookies]
    # Every fifth one has two devices.
    devices = [*users, *users[::5]]
    with Storm(site.port, [pages[pk - 1] for pk in devices], len(devices)) as storm:
        storm.arrive()
        channels = [f"asgi__group__{group_key(f'user:{pk}')}" for pk in users]
        assert {count for _, count in client.pubsub_numsub(*channels)} == {1}
        assert len(client.pubsub_channels("asgi__group__*")) <= sizes.users + OWN
        assert calls(client, "subscribe") - subscribes <= sizes.users + OWN
        assert sum(int(one["sub"]) for one in client.client_list()) <= sizes.users + OWN
        memory, publishes = site.memory, calls(client, "publish")
        for number in range(ROUNDS):
            for pk in users:
                publish_to_user(pk, f"{number} to {pk}")
        # A few more are what the process asks itself meanwhile, every five seconds.
        more = calls(client, "publish") - publishes - ROUNDS * sizes.users
        assert 0 <= more < sizes.users
        storm.step_until(lambda: all(one.heard[ROUNDS - 1 :] for one in storm.clients), LIMIT)
        for pk, one in zip(devices, storm.clients, strict=True):
            assert one.heard == [f"{number} to {pk}".encode() for number in range(ROUNDS)]
        show(
            f"{kind}, {sizes.users} users with {len(devices)} devices: a subscription each;"
            f" memory: {mib(empty)} without them, {mib(memory)} with them"
        )
    assert "Traceback" not in site.output
