"""Each measurement of the benchmarks, once: with few clients, and of ours alone."""

import signal

import pytest

from benchmarks import clients, load, machine
from benchmarks.bench import Bench, make_sessions
from benchmarks.curves import CURVES
from benchmarks.processes import Valkey
from benchmarks.scenarios import SCENARIOS

from ..waiting import LIMIT
from .processes import Process, free_port

FEW = 4
#: What a scenario measures, where it is not CPU.
FIGURES = {
    "recipients-200": {"alike_us", "look_us", "each_us"},
    "history-50": {"kept_ratio", "redis_ratio"},
    "recover-1000": {"script_calls", "recover_us"},
    "spoken-200": {"plain_us", "json_us", "json_ratio", "protobuf_us", "protobuf_ratio"},
    "spoken-groups": {"plain_us", "json_ratio", "protobuf_ratio"},
    "spoken-history": {"plain_us", "json_ratio", "protobuf_ratio"},
    "spoken-recovery": {"plain_us", "json_ratio", "protobuf_ratio"},
    "pusher-200": {"plain_us", "pusher_us", "pusher_ratio"},
    "pusher-groups": {"plain_us", "pusher_us", "pusher_ratio"},
    "streams-200": {"socket_us", "stream_us", "sse_us", "stream_kb", "sse_ratio", "sse_kb_ratio"},
    "users-5000": {"first_us", "next_us", "all_us"},
    "users-5000-gc": {"first_us", "next_us", "all_us"},
    "connect": {"connect_rate", "connect_cpu_us"},
    "anonymous": {"connect_rate", "connect_cpu_us"},
    "idle-10000": {"memory_kb"},
    "drain-5000": {"arrived_s", "back_s", "back_ratio"},
    "crowd-10000": {"alone_p99_ms", "idle_ratio", "flood_ratio"},
    "redis-400": {"redis_commands"},
    "curve-processes": {"cpu_us@1", "redis_commands@2", "memory_kb@2"},
    "curve-bytes": {"cpu_us@16", "memory_kb@256"},
    "curve-connections": {"cpu_us@100", "memory_kb@300"},
    "curve-groups": {"cpu_us@1", "cpu_us@10"},
    "curve-members": {"cpu_us@1", "cpu_us@10"},
}
#: The same as another, with more clients.
LARGER = {"fanout-3000", "redis-4000"}


class Started(Process):
    """A contender as :class:`benchmarks.processes.Process` has it, but on any core, and forked."""

    def __init__(self, command, port, env):
        super().__init__(command, env=env)
        self.port = port

    def __enter__(self):
        try:
            self.listens_on(self.port)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc_info):
        self.signal(signal.SIGKILL)
        self.wait()

    def end(self):
        self.signal(signal.SIGTERM)


class Small(Bench):
    """As few as there can be."""

    def count(self, whole, quick):
        return 2 if whole < 10 else FEW

    def start(self, contender, **variables):
        port = free_port()
        environment = self.environment(contender, port) | variables
        return Started(contender.command(port), port, environment)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    database = str(tmp_path_factory.mktemp("bench") / "db.sqlite3")
    with Valkey(machine.LOAD_CORE) as valkey:
        yield Small(valkey, make_sessions(database, FEW), database, seconds=0.1, quick=True)


def contender_of(scenario):
    """Ours on daphne, as the tests have no uvloop; through Redis where that is measured."""
    *_, last = (one for one in scenario.contenders if one.name.startswith("ours-daphne"))
    return last


@pytest.mark.parametrize(
    "scenario", [one for one in SCENARIOS if one.name not in LARGER], ids=lambda one: one.name
)
def test_each_scenario_measures_ours(bench, scenario, monkeypatch):
    monkeypatch.setattr(load, "STALL", LIMIT)
    monkeypatch.setattr(clients, "STALL", LIMIT)
    contender = contender_of(scenario)
    take = scenario.measure
    figures = take(bench, contender)
    assert FIGURES.get(scenario.name, {"cpu_us"}) <= figures.keys()
    assert contender.redis or "redis_commands" not in figures


def test_every_scenario_that_has_other_figures_is_known():
    names = {scenario.name for scenario in SCENARIOS}
    assert names >= FIGURES.keys() | LARGER | {curve.name for curve in CURVES}


def test_each_user_has_a_session_of_its_own(bench):
    assert len(set(bench.cookies)) == FEW
