"""What Prometheus gets, from one process and from several."""

import itertools
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, Counter, values
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from filtered_websocket import observe
from filtered_websocket.filters.broadcast_messages import BroadcastMessagesFilter
from filtered_websocket.metrics import access, prometheus
from filtered_websocket.metrics.access import DIRECTORY
from filtered_websocket.metrics.families import FAMILIES
from filtered_websocket.metrics.prometheus import BUCKETS, Files, expose
from filtered_websocket.testing import connect

from ..snippets import named
from .test_readings import named_route

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.delenv(DIRECTORY, raising=False)


def samples(accepted="", read=read_text):
    """(name, labels) -> value, of what the page shows."""
    text, _ = expose(accepted)
    found = {}
    for family in read(text.decode()):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


#: A pipeline of the same filters and home group is the same one, and goes on counting.
homes = itertools.count()


@pytest.mark.parametrize(
    ("accepted", "content_type", "read"),
    [
        ("", "text/plain", read_text),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "text/plain", read_text),
        (f"{OPENMETRICS},text/plain;q=0.5", "application/openmetrics-text", read_openmetrics),
    ],
)
async def test_the_page_is_in_the_format_that_is_accepted(accepted, content_type, read):
    home = f"page {next(homes)}"
    app = named_route(f"/{home}/", filters=[BroadcastMessagesFilter], groups=[home])
    async with connect(app) as ann:
        await ann.send("x")
        await ann.settle()
        found = samples(accepted, read)
    assert expose(accepted)[1].startswith(content_type)
    assert found["fws_connections", (("route", f"/{home}/"), ("server", "other"))] == 1
    path = "filtered_websocket.filters.broadcast_messages.BroadcastMessagesFilter"
    labels = ("chain", "message"), ("filter", path)
    whole = (*labels, ("route", f"/{home}/"))
    assert found["fws_filter_seconds_count", whole] == 1
    assert found["fws_filter_seconds_bucket", (*labels, ("le", "+Inf"), whole[-1])] == 1
    assert found["fws_filter_seconds_sum", whole] > 0
    assert found["fws_filter_errors_total", whole] == 0


def test_buckets_add_up(monkeypatch):
    times = observe.Times()
    for seconds in (0, 0.0001, 0.2, 11):
        times.note(seconds)
    family = next(one for one in FAMILIES if one.name == "fws_event_loop_lag_seconds")
    monkeypatch.setattr(prometheus, "FAMILIES", [family._replace(read=lambda: [((), times)])])
    found = {labels[0][1]: value for (name, labels), value in samples().items() if labels}
    assert list(found) == list(BUCKETS)
    assert [found[bound] for bound in ("2.5e-05", "0.0001", "0.1", "0.25", "10.0", "+Inf")] == [
        *(1, 2, 2, 3, 3, 4)
    ]


def test_a_sites_own_registry_takes_them_and_refuses_others_of_these_names():
    registry = CollectorRegistry(auto_describe=True)
    lines = named("docs/metrics.md")["metrics: a registry of your own"]
    exec(lines.replace("from prometheus_client import REGISTRY", ""), {"REGISTRY": registry})
    assert registry.get_sample_value("fws_groups") == 0
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Counter("fws_deliveries", "of another", registry=registry)


# Several processes


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """As where the server was started with the directory in its environment."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue())
    monkeypatch.setattr(prometheus, "files", Files())
    return tmp_path


#: The pid of a process that runs as long as the machine does.
RUNS_ALWAYS = 1


def ended_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write_as(monkeypatch, pid):
    """The values of now, in files of another process."""
    with monkeypatch.context() as patch:
        patch.setattr(values, "ValueClass", values.MultiProcessValue(lambda: pid))
        Files().write()


async def test_the_page_shows_the_sum_of_all_processes(shared, monkeypatch):
    app = named_route("/shared/", filters=[BroadcastMessagesFilter], groups=["shared"])
    mine = ("fws_connections", (("route", "/shared/"), ("server", "other")))
    async with connect(app) as ann, connect(app) as bob:
        await ann.send("12345")
        await bob.receive()
        alone = samples()
        write_as(monkeypatch, RUNS_ALWAYS)
        both = samples()
    assert alone[mine] == 2 and both[mine] == 4
    assert alone["fws_deliveries_total", ()] > 0
    for (name, labels), value in alone.items():
        if "filter" in dict(labels) and "/shared/" not in str(labels):
            continue  # routes of other tests, which may be forgotten at any time
        # Of these, the smallest and the largest.
        factor = 1 if name in ("fws_layer_up", "fws_info") else 2
        assert both[name, labels] == factor * value, name


async def test_the_layer_is_away_where_it_is_for_one_process(shared, monkeypatch):
    async with connect([]) as ann:
        hub = ann.connection._view.host
        hub.layer_is_lost = True
        write_as(monkeypatch, RUNS_ALWAYS)
        hub.layer_is_lost = False
        assert samples()["fws_layer_up", ()] == 0


async def test_a_process_that_has_ended_has_no_connections_and_what_it_counted_stays(
    shared, monkeypatch
):
    app = named_route("/killed/", filters=[], groups=["killed"])
    mine = ("fws_connections", (("route", "/killed/"), ("server", "other")))
    async with connect(app) as ann:
        await ann.send("12345")
        await ann.settle()
        alone = samples()
        write_as(monkeypatch, ended_pid())
        both = samples()
    assert both[mine] == alone[mine] == 1
    name = "fws_received_bytes_total", ()
    assert both[name] == 2 * alone[name] > 0
    assert len(list(shared.glob("gauge_live*"))) == len({"sum", "min", "max"})


def test_a_process_of_another_user_runs(monkeypatch):
    def kill(pid, number):
        raise PermissionError

    monkeypatch.setattr(prometheus.os, "kill", kill)
    assert prometheus._runs(RUNS_ALWAYS)


async def test_a_route_without_connections_has_none_whatever_was_written(shared):
    app = named_route("/gone/", filters=[], groups=["gone"])
    async with connect(app):
        assert connections_of(samples()) == {"/gone/": 1}
    assert connections_of(samples()) == {"/gone/": 0}


def connections_of(found):
    return {
        dict(labels)["route"]: value
        for (name, labels), value in found.items()
        if name == "fws_connections"
    }


def test_metrics_of_the_site_in_that_directory_are_for_its_own_page(shared):
    values.ValueClass("counter", "mine", "mine_total", (), (), "Of the site.").inc(1)
    assert {name[:4] for name, _ in samples()} == {"fws_"}


def test_values_are_written_every_two_seconds_and_at_the_end(monkeypatch):
    files = Files()
    written = []
    monkeypatch.setattr(files, "write", lambda: written.append(1))
    for _ in range(9):
        files.tick(False)
    assert len(written) == 3
    files.tick(True)
    assert len(written) == 4


async def test_where_the_directory_is_named_a_process_writes_while_it_has_connections(
    shared, monkeypatch
):
    monkeypatch.setattr(observe, "on_tick", [])
    monkeypatch.setattr(prometheus, "on_tick", observe.on_tick)
    for _ in range(2):  # apps may be set up again
        access.share_metrics()
    assert observe.on_tick == [prometheus.files.tick]
    app = named_route("/written/", filters=[], groups=["written"])
    async with connect(app) as ann:
        await ann.send("x")
        await ann.settle()
        assert list(shared.glob("counter_*.db"))
        prometheus.files.write()
    # Without a question to this process: as another one reads it.
    written = connections_of(read_files(shared))
    assert written == {"/written/": 0}


def read_files(folder):
    [*found] = prometheus.multiprocess.MultiProcessCollector(None, str(folder)).collect()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in found
        for sample in metric.samples
    }


@pytest.mark.parametrize("named", ["", "missing"])
def test_nothing_is_written_where_no_directory_is_named_or_nothing_is_installed(
    monkeypatch, tmp_path, named
):
    monkeypatch.setattr(observe, "on_tick", [])
    monkeypatch.setattr(prometheus, "on_tick", observe.on_tick)
    monkeypatch.setattr(access, "has_prometheus", lambda: False)
    if named:
        monkeypatch.setenv(DIRECTORY, str(tmp_path))
    access.share_metrics()
    assert observe.on_tick == []


async def test_values_that_cannot_be_written_cost_a_line_in_the_log(monkeypatch, caplog):
    def fail(is_last):
        raise OSError("no space left")

    monkeypatch.setattr(observe, "on_tick", [fail])
    async with connect([]) as ann:
        hub = ann.connection._view.host
    assert hub.counts["task_failed"] == 2  # at its begin, and at its end
    assert caplog.text.count("cannot call") == 1 and "no space left" in caplog.text
