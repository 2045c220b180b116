"""All clients are dropped at once, and reconnect."""

import contextlib
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.crowd import Crowd
from benchmarks.stats import percentile
from benchmarks.storm import Storm

from ..waiting import LIMIT, PROMISE_FACTOR, Watch, measure
from .conftest import mib

pytestmark = pytest.mark.timeout(600)
#: In how many seconds all are back after the server was killed.
BACK = 30.0
#: And after a drain, in how many times what so many first connections take.
FACTOR = 2.0
#: Of a socket that is handed on, as docs/load.md says it: meanwhile nobody accepts, and whoever
#: finds the queue full asks again after one second, three and seven.
BACKLOG = 4096
#: What becomes of the first server: the signal, whether both get one listening socket, as
#: from systemd, and whether the second one is started before.
HOW = {
    "killed": (signal.SIGKILL, False, False),
    "drained": (signal.SIGTERM, False, False),
    "drained, its socket handed on": (signal.SIGTERM, True, False),
    "drained beside the next one": (signal.SIGTERM, True, True),
}


@contextlib.contextmanager
def listening():
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize("how", HOW)
def test_clients_of_a_server_that_ended_all_come_back_to_the_next(
    serve, kind, how, cookie, sizes, show
):
    number, inherits, is_early = HOW[how]
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening()) if inherits else None
        queue = {"backlog": BACKLOG} if inherits else {}
        first = serve(listener=listener, **queue)

        def follow():
            if not is_early:
                first.wait()
            return serve(port=first.port, listener=listener, **queue)

        crowd = stack.enter_context(Crowd(first.port, cookie))
        storm = Storm(first.port, [crowd.request("room")], sizes.storm)
        stack.enter_context(storm)
        pool = stack.enter_context(ThreadPoolExecutor())
        watch = Watch()
        storm.arrive()
        arrived = watch.seconds
        before = first.memory
        storm.handshakes.clear()
        following = pool.submit(follow)
        if is_early:
            storm.step_until(following.done, LIMIT)
        watch.restart()
        first.signal(number)
        # Whoever is open when the first one has ended is so at the next server.
        ended = pool.submit(first.wait)
        storm.step_until(lambda: ended.done() and following.done(), LIMIT)
        storm.step_until(lambda: storm.open == sizes.storm, PROMISE_FACTOR * BACK)
        took = watch.seconds
        second = following.result()
        storm.say(b"welcome back")
        show(
            f"{kind} was {how}: all {sizes.storm} were back after {took:.1f} s,"
            f" {took / arrived:.2f} of their first {arrived:.1f} s; memory"
            f" {mib(before)}, then {mib(second.memory)}\n    handshakes:"
            f" p50 {percentile(storm.handshakes, 50):.2f} s,"
            f" p99 {percentile(storm.handshakes, 99):.2f} s; on the way: {dict(storm.ends)}"
        )
        assert [client.heard for client in storm.clients[1:]] == [[b"welcome back"]] * (
            sizes.storm - 1
        )
        assert storm.open == sizes.storm
        assert "Traceback" not in second.output
        bound = BACK if how == "killed" else FACTOR * arrived
        measure(f"all {sizes.storm} were back", took, bound)
