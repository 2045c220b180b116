"""All clients are dropped at once, and reconnect."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.crowd import Crowd
from benchmarks.stats import percentile
from benchmarks.storm import Storm

from ..waiting import LIMIT, PROMISE_FACTOR, Watch, measure
from .conftest import mib

pytestmark = pytest.mark.timeout(600)
#: In how many seconds all are back.
BACK = 30.0
HOW = {"killed": signal.SIGKILL, "drained": signal.SIGTERM}


@pytest.mark.parametrize("how", HOW)
def test_clients_of_a_server_that_ended_all_come_back_to_the_next(
    serve, kind, how, cookie, sizes, show
):
    first = serve()

    def follow():
        first.wait()
        return serve(port=first.port)

    with (
        Crowd(first.port, cookie) as crowd,
        Storm(first.port, [crowd.request("room")], sizes.storm) as storm,
        ThreadPoolExecutor() as pool,
    ):
        storm.arrive()
        before = first.memory
        storm.handshakes.clear()
        watch = Watch()
        first.signal(HOW[how])
        following = pool.submit(follow)
        # Whoever is open then is so at the next server.
        storm.step_until(following.done, LIMIT)
        storm.step_until(lambda: storm.open == sizes.storm, PROMISE_FACTOR * BACK)
        took = watch.seconds
        second = following.result()
        storm.say(b"welcome back")
        show(
            f"{kind} was {how}: all {sizes.storm} were back after {took:.1f} s; memory"
            f" {mib(before)}, then {mib(second.memory)}\n    handshakes:"
            f" p50 {percentile(storm.handshakes, 50):.2f} s,"
            f" p99 {percentile(storm.handshakes, 99):.2f} s; on the way: {dict(storm.ends)}"
        )
        assert [client.heard for client in storm.clients[1:]] == [[b"welcome back"]] * (
            sizes.storm - 1
        )
        assert storm.open == sizes.storm
        assert "Traceback" not in second.output
        measure(f"all {sizes.storm} were back", took, BACK)
