"""The parts of the benchmarks that need no server and no clock."""

import json
import select
import socket
import struct
import sys
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as command
from benchmarks import growth, machine, needs, report, tables
from benchmarks.chart import Panel, picture
from benchmarks.claims import CLAIMS, Claim, on_both
from benchmarks.clients import SO_TIMESTAMPNS, Client, LoadError, Place, Stream
from benchmarks.contenders import BY_NAME, CONTENDERS, RAW, SOCKETIO
from benchmarks.curves import CURVES
from benchmarks.load import Load, received_at
from benchmarks.processes import Publisher, ServerFailed
from benchmarks.reasons import REASONS
from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS
from benchmarks.stats import Spread, percentile
from benchmarks.wire import MASK, PING, PONG, TEXT, Wire, WireError, build_frame, take_frames

from .snippets import ROOT
from .waiting import LIMIT

pytestmark = pytest.mark.repeats

PAGES = [ROOT / "docs" / name for name in ("performance.md", "scale.md")]
LATEST = ROOT / "benchmarks" / "results" / "latest.json"


# Statistics


def test_percentiles_are_values_that_were_measured():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, p) for p in (0, 20, 50, 99, 100)] == [1, 1, 3, 5, 5]
    assert percentile([7.0], 50) == 7


def test_there_is_no_percentile_of_nothing():
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_spread_has_the_median_and_the_range():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([]) is None


# Results


def measured(**medians):
    """Results of two rounds of fanout-200, the second a tenth above the first."""
    results = Results()
    for name, value in medians.items():
        for number in range(2):
            figures = {"cpu_us": value * (1 + number / 10)}
            results.add("fanout-200", name.replace("_", "-"), number, figures)
    return results


def test_results_are_the_same_after_a_journey_through_a_file(tmp_path):
    results = measured(limit=2.0)
    results.skip("self-1", "legacy", "sends nothing to its sender")
    results.about = {"date": "today"}
    results.save(tmp_path / "deep" / "results.json")
    assert Results.load(tmp_path / "deep" / "results.json") == results


def test_results_of_another_version_are_refused(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"version": 99, "figures": {}, "absent": {}, "about": {}}))
    with pytest.raises(ValueError, match=r"results\.json has version 99"):
        Results.load(path)


def test_scenarios_measured_again_take_the_place_of_those_before():
    first, later = Results(), Results()
    first.about = {"date": "then"}
    later.about = {"date": "now"}
    for name in ("echo", "connect"):
        first.add(name, "bun", 0, {"us": 1.0})
    first.skip("echo", "limit", "failed")
    first.skip("connect", "limit", "has none")
    later.add("echo", "limit", 0, {"us": 2.0})
    both = first.with_again(later)
    assert both.figures == {"connect": first.figures["connect"], "echo": later.figures["echo"]}
    assert both.absent == {"connect": {"limit": "has none"}}
    assert both.about == {"date": "then", "again": {"echo": "now"}}
    assert both.with_again(both).about["again"] == {"echo": "then", "connect": "then"}


@pytest.mark.parametrize(
    "options", [[], ["--scenario", "echo", "--quick"], ["--scenario", "echo", "--only", "bun"]]
)
def test_only_whole_scenarios_take_the_place_of_others(options, capsys):
    with pytest.raises(SystemExit):
        command.parse(["--again", *options])
    assert "--again needs --scenario" in capsys.readouterr().err
    assert command.parse(["--again", "--scenario", "echo"]).again


def test_the_page_says_what_was_measured_again():
    results = Results.load(command.RESULTS / "latest.json")
    results.about["again"] = {"echo": "2026-01-01", "connect": "2026-01-01"}
    said = report.machine(results)
    assert "Scenarios measured again, whole: 2026-01-01, `echo`, `connect`.\n" in said


def test_figures_keep_four_significant_digits():
    results = Results()
    results.add("echo", "limit", 0, {"rate": 123456.0, "cpu_us": 2.34567})
    assert results.figures["echo"]["limit"] == [{"round": 0, "rate": 123500.0, "cpu_us": 2.346}]


# Claims


def claim(words="words", of="ours-daphne", **changes):
    fields = {"over": "limit", "bound": 1.4, **changes}
    return Claim(words, "fanout-200", "cpu_us", of, **fields)


def test_a_ratio_is_taken_round_by_round():
    results = Results()
    for number, (ours, limit) in enumerate([(2.0, 2.0), (30.0, 20.0), (4.0, 2.0)]):
        results.add("fanout-200", "ours-daphne", number, {"cpu_us": ours})
        results.add("fanout-200", "limit", number, {"cpu_us": limit})
    assert claim().measure(results) == Spread(1.5, 1.0, 2.0, 3)


def test_a_round_that_one_side_missed_is_in_no_ratio():
    results = measured(ours_daphne=3.0)
    results.add("fanout-200", "limit", 1, {"cpu_us": 1.1})
    spread = claim().measure(results)
    assert (spread.rounds, round(spread.median, 6)) == (1, 3.0)


def test_a_difference_is_taken_round_by_round():
    results = measured(ours_daphne=30.0, bare_daphne=20.0)
    assert claim(over=None, less="bare-daphne").measure(results).low == 10.0


@pytest.mark.parametrize(
    ("figure", "at_least", "met"),
    [(1.4, False, True), (1.41, False, False), (1.4, True, True), (1.39, True, False)],
)
def test_a_claim_is_met_up_to_its_bound(figure, at_least, met):
    assert claim(at_least=at_least).is_met(Spread(figure, figure, figure, 1)) is met


@pytest.mark.parametrize(
    ("ours", "words"),
    [(2.0, ("<= 1.4", "1 (1-1)", "met")), (3.0, ("<= 1.4", "1.5 (1.5-1.5)", "**missed**"))],
)
def test_a_verdict_says_bound_figure_and_judgement(ours, words):
    assert report.verdict(claim(), measured(ours_daphne=ours, limit=2.0)) == words


def test_a_verdict_without_figures_is_no_success():
    assert report.verdict(claim(), Results()) == ("<= 1.4", "-", "not measured")


def test_a_claim_for_both_servers_is_two():
    daphne, uvicorn = on_both("{0} / {0}", "echo", "cpu_us", over="bare-{}", bound=1.5)
    assert daphne == Claim(
        "daphne / daphne", "echo", "cpu_us", "ours-daphne", "bare-daphne", bound=1.5
    )
    assert (uvicorn.of, uvicorn.over, uvicorn.words) == (
        "ours-uvicorn",
        "bare-uvicorn",
        "uvicorn / uvicorn",
    )


def test_what_is_missed_is_listed_with_its_reason_and_what_was_not_measured(monkeypatch):
    monkeypatch.setattr(report, "CLAIMS", [claim(words="a"), claim(words="b", of="ours-uvicorn")])
    results = measured(ours_daphne=3.0, limit=2.0)
    for reason, said in [({}, "The reason is not known yet"), ({"a": "Because"}, "Because")]:
        monkeypatch.setattr(report, "REASONS", reason)
        assert report.missed(results).splitlines() == [
            f"- {said}:",
            "    - a: 1.5 (1.5-1.5), the bound is <= 1.4.",
            "- Not measured in this run: b.",
        ]
    monkeypatch.setattr(report, "CLAIMS", [claim(words="a"), claim(words="c")])
    monkeypatch.setattr(report, "REASONS", {"a": "Because", "c": "Because"})
    assert report.missed(results).splitlines() == [
        "- Because:",
        "    - a: 1.5 (1.5-1.5), the bound is <= 1.4.",
        "    - c: 1.5 (1.5-1.5), the bound is <= 1.4.",
    ]
    met = measured(ours_daphne=2.0, ours_uvicorn=2.0, limit=2.0)
    assert report.missed(met) == "Nothing that was measured."


def test_reasons_are_given_for_what_can_be_missed():
    everything = Results()
    for curve in CURVES:
        for name in curve.names:
            for metric in growth.METRICS:
                everything.add(curve.name, name, 0, {f"{metric}@{n}": 1.0 for n in curve.sizes})
    known = {one.words for one in CLAIMS} | {one.words for one in growth.of_ours(everything)}
    assert REASONS.keys() <= known


def test_claims_name_scenarios_and_contenders_that_measure_them():
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    for one in CLAIMS:
        able = {
            contender.name
            for contender in scenarios[one.scenario].contenders
            if scenarios[one.scenario].excuse(contender) is None
        }
        assert {one.of, one.over or one.of, one.less or one.of} <= able, one.words
    assert len({one.words for one in CLAIMS}) == len(CLAIMS)


# The wire


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_frames_are_read_as_they_are_built(size):
    payload = b"a" * size
    buffer = bytearray(build_frame(payload) + build_frame(b"next", PING))
    assert take_frames(buffer) == [(TEXT, payload), (PING, b"next")]
    assert buffer == b""


def test_a_frame_that_is_not_whole_yet_stays_in_the_buffer():
    frame = build_frame(b"a" * 200)
    for size in range(len(frame)):
        buffer = bytearray(frame[:size])
        assert take_frames(buffer) == []
        assert buffer == frame[:size]


def test_a_client_masks_what_it_sends():
    frame = build_frame(b"hello", mask=MASK)
    assert frame[1] == 0x80 | 5
    assert frame[2:6] == MASK
    assert bytes(byte ^ MASK[at % 4] for at, byte in enumerate(frame[6:])) == b"hello"


def test_a_masked_frame_of_a_server_is_not_understood():
    with pytest.raises(WireError):
        take_frames(bytearray(build_frame(b"hello", mask=MASK)))


def test_an_anonymous_handshake_has_no_cookie():
    assert b"Cookie" not in RAW.request("/", 9000, "")


def test_an_opening_handshake_carries_an_origin_and_the_session():
    request = RAW.request(RAW.target("fan", "g"), 9000, "secret").decode()
    assert request.startswith("GET /fan/g/ HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n")
    assert "\r\nOrigin: http://127.0.0.1:9000\r\n" in request
    assert request.endswith("\r\nCookie: sessionid=secret\r\n\r\n")


# The load, with hand-fed sockets


class Ends:
    """A load with one sender and some receivers; ``servers`` are their other ends."""

    def __init__(self, receivers, wire=RAW):
        self.stream = Stream()
        self.load = Load(wire, ["secret"])
        self.servers = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            for number in range(receivers + 1):
                place = Place(port, "/", self.stream, sends=number == 0, receives=number > 0)
                client = Client(place, wire)
                client.socket.setblocking(False)
                self.load.clients[client.socket.fileno()] = client
                self.load._epoll.register(client.socket, select.EPOLLIN)
                server, _ = listener.accept()
                server.settimeout(LIMIT)
                self.servers.append(server)

    def close(self):
        with self.load:
            for server in self.servers:
                server.close()


@pytest.fixture
def ends():
    made = []

    def make(receivers=2, wire=RAW):
        made.append(Ends(receivers, wire))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


def test_a_message_is_finished_when_its_last_receiver_has_it(ends):
    pair = ends()
    pair.load.send(pair.stream, 2)
    assert pair.servers[0].recv(1000) == RAW.outgoing * 2
    pair.servers[1].sendall(RAW.incoming * 2)
    assert pair.load.pump(5) == []
    pair.servers[2].sendall(RAW.incoming)
    assert pair.load.pump(5) == [pair.stream]
    assert pair.stream.left == [0, 1]
    assert pair.load.deliveries == 3


def test_a_message_of_another_process_is_waited_for(ends):
    pair = ends()
    pair.load.expect(pair.stream)
    for server in pair.servers[1:]:
        server.sendall(RAW.incoming)
    pair.load.receive(1)
    assert pair.stream.left == [0]


def test_who_joins_later_gets_what_is_sent_from_then_on(ends):
    pair = ends(receivers=1)
    pair.load.send(pair.stream)
    pair.servers[1].sendall(RAW.incoming)
    assert pair.load.pump(5) == [pair.stream]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place(listener.getsockname()[1], "/", pair.stream, sends=False, receives=True)
        late = Client(place, RAW)
        pair.load.clients[late.socket.fileno()] = late
        pair.load.send(pair.stream)
        assert (late.got, pair.stream.left) == (1, [0, 2])


def test_from_then_on_messages_have_another_size(ends):
    pair = ends(receivers=1)
    larger = Wire(b"y" * 70_000)
    pair.load.speak(larger)
    pair.load.send(pair.stream)
    pair.servers[1].sendall(larger.incoming)
    while not pair.stream.done_at[0]:
        pair.load.pump(5)
    assert pair.load.deliveries == 1


def test_pings_and_parts_are_no_deliveries(ends):
    pair = ends(receivers=1)
    pair.load.send(pair.stream, 2)
    server = pair.servers[1]
    server.sendall(build_frame(b"beat", PING) + RAW.incoming[:100])
    assert pair.load.pump(5) == []
    assert server.recv(1000) == build_frame(b"beat", PONG, MASK)
    server.sendall(RAW.incoming[100:] + RAW.incoming)
    assert pair.load.pump(5) == [pair.stream, pair.stream]


def test_a_message_too_many_is_an_error(ends):
    pair = ends(receivers=1)
    pair.load.send(pair.stream)
    pair.servers[1].sendall(RAW.incoming * 2)
    with pytest.raises(LoadError, match="more messages arrived"):
        pair.load.pump(5)


def test_a_message_that_comes_back_to_its_sender_is_an_error(ends):
    pair = ends(receivers=1)
    pair.load.send(pair.stream)
    pair.servers[0].sendall(RAW.incoming)
    with pytest.raises(LoadError, match="more messages arrived"):
        pair.load.pump(5)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (build_frame(b"\x0f\xa4", 8), "closed with 4004"),
        (b"", "closed by the server"),
    ],
)
def test_a_connection_that_ends_is_an_error(ends, last, words):
    pair = ends(receivers=1)
    pair.servers[1].sendall(last)
    pair.servers[1].shutdown(socket.SHUT_WR)
    with pytest.raises(LoadError, match=words):
        pair.load.pump(5)


def test_what_is_no_message_is_an_error(ends):
    pair = ends(receivers=1)
    pair.servers[1].sendall(build_frame(b"something else"))
    with pytest.raises(WireError, match="something else"):
        pair.load.pump(5)


def test_the_kernel_says_when_a_message_came():
    stamp = struct.pack("=qq", 5, 7)
    assert received_at([(socket.SOL_SOCKET, SO_TIMESTAMPNS, stamp)]) == 5_000_000_007
    assert received_at([]) > 10**18


def test_a_client_of_socket_io_is_in_when_its_namespace_is(ends):
    pair = ends(receivers=0, wire=SOCKETIO)
    [client] = pair.load.clients.values()
    assert not client.greet(b"HTTP/1.1 101 Switching")
    assert not client.greet(b" Protocols\r\n\r\n" + build_frame(b'0{"sid":"a"}'))
    assert pair.servers[0].recv(100) == build_frame(b"40", mask=MASK)
    assert client.greet(build_frame(b'40{"sid":"b"}'))


def test_a_refused_handshake_says_how(ends):
    [client] = ends(receivers=0).load.clients.values()
    with pytest.raises(LoadError, match=r"refused: HTTP/1\.1 403 Forbidden"):
        client.greet(b"HTTP/1.1 403 Forbidden\r\n\r\n")


# Who takes part


def test_a_contender_without_its_program_is_skipped_with_a_reason(monkeypatch):
    monkeypatch.setattr(needs.shutil, "which", lambda name: None)
    results = Results()
    options = command.parse(["--scenario", "fanout-200", "--only", "node-ws,limit"])
    steps = command.plan(options, results)
    assert {contender.name for _, _, contender in steps} == {"limit"}
    assert results.absent == {"fanout-200": {"node-ws": "node is not installed"}}
    assert report.absences(results) == "- Node `ws`: node is not installed (fanout-200)"


def test_a_contender_without_its_packages_is_skipped_with_a_reason(monkeypatch, tmp_path):
    monkeypatch.setattr(needs.shutil, "which", lambda name: "/bin/" + name)
    monkeypatch.setattr(needs, "NODE_MODULES", tmp_path)
    monkeypatch.setattr(needs, "LEGACY", tmp_path)
    assert BY_NAME["node-ws"].missing() == "npm has not installed ws"
    assert BY_NAME["legacy"].missing() == "filtered-websocket 0.4.1 is not installed"
    (tmp_path / "ws").mkdir()
    (tmp_path / "fws_server").touch()
    assert BY_NAME["node-ws"].missing() is None
    assert BY_NAME["legacy"].missing() is None


def test_without_the_history_this_package_as_it_was_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(needs, "BEFORE_FOLDER", tmp_path)
    results = Results()
    options = command.parse(
        ["--scenario", "users-5000", "--rounds", "1", "--only", "before-daphne-redis"]
    )
    assert command.plan(options, results) == []
    assert "is not in the history of this repository" in report.absences(results)
    (tmp_path / "filtered_websocket").mkdir()
    assert [one.name for _, _, one in command.plan(options, Results())] == ["before-daphne-redis"]


def test_bun_is_what_npm_has_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(needs, "NODE_MODULES", tmp_path)
    assert BY_NAME["bun"].missing() == "npm has not installed bun"
    (tmp_path / "bun").mkdir()
    assert BY_NAME["bun"].missing() is None


def publisher(code):
    return Publisher([sys.executable, "-c", code], machine.LOAD_CORE, {})


def test_a_publisher_is_told_to_publish_and_says_when_it_has():
    code = "print('ready', flush=True)\nfor line in iter(input, 'end'): print('sent', flush=True)"
    with publisher(code) as other:
        for _ in range(2):
            other.tell("each")
            other.has_sent()


def test_a_publisher_that_ends_says_why():
    with pytest.raises(ServerFailed, match="no such module"), publisher("print('no such module')"):
        pass


def test_what_a_contender_cannot_do_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(needs, "LEGACY", tmp_path)
    (tmp_path / "fws_server").touch()
    results = Results()
    options = command.parse(["--scenario", "self-1,groups-1000", "--only", "legacy"])
    assert command.plan(options, results) == []
    assert results.absent == {
        "self-1": {"legacy": "sends nothing to its sender"},
        "groups-1000": {"legacy": "has one group"},
    }


def test_rounds_are_interleaved():
    options = command.parse(
        ["--scenario", "fanout-200", "--only", "limit,ours-daphne", "--rounds", "2"]
    )
    steps = command.plan(options, Results())
    order = [(number, contender.name) for _, number, contender in steps]
    assert order == [(0, "ours-daphne"), (0, "limit"), (1, "ours-daphne"), (1, "limit")]


@pytest.mark.parametrize("option", ["--only", "--scenario"])
def test_an_unknown_name_is_answered_with_those_that_are_known(option, capsys):
    with pytest.raises(SystemExit):
        command.parse([option, "nobody"])
    assert "'nobody' is none of" in capsys.readouterr().err


def test_titles_are_unique():
    assert len({contender.title for contender in CONTENDERS}) == len(CONTENDERS)


# What is written


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (2.345, "2.35"), (23.45, "23.4"), (999.4, "999"), (341234.0, "341 000")],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert tables.number(value) == text


def test_a_cell_has_a_range_where_there_were_rounds():
    assert tables.cell(None) == "-"
    assert tables.cell(Spread(2.0, 2.0, 2.0, 1)) == "2.00"
    assert tables.cell(Spread(2.0, 1.0, 3.0, 3)) == "2.00 (1.00-3.00)"


def test_a_table_has_who_was_measured_and_marks_ours():
    results = measured(ours_daphne=3.0, limit=2.0)
    columns = [tables.Column("us", "fanout-200", "cpu_us")]
    assert tables.table(results, columns).splitlines() == [
        "|  | us |",
        "| --- | ---: |",
        "| **ours, daphne** | 3.15 (3.00-3.30) |",
        "| the limit: uvloop transport, frame built before | 2.10 (2.00-2.20) |",
    ]


def test_who_is_faster_than_ours_is_named():
    found = report.faster(measured(ours_daphne=3.0, node_ws=1.0, legacy=9.0, limit=0.5))
    assert found == (
        "- CPU per delivery, 200 clients: Node `ws` 1.05; ours at best 3.15 us (daphne)"
    )
    assert report.faster(measured(ours_daphne=1.0, node_ws=2.0)) == "None in this run."


@pytest.mark.parametrize(
    ("busy", "words"),
    [(99.0, "the load slowed no server down"), (60.0, "the load may have slowed down")],
)
def test_the_load_is_suspected_where_a_server_waited(busy, words):
    results = Results()
    figures = {"rate": 400_000.0, "server_busy": busy, "others_busy": 0.0}
    results.add("fanout-200", "limit", 0, figures)
    results.add("fanout-200", "node-ws", 0, {**figures, "rate": 200_000.0})
    assert words in report.proof(results)
    assert "2.00 times those of Node `ws`" in report.proof(results)


def test_a_run_without_the_limit_proves_nothing():
    assert "may have been too slow" in report.proof(measured(ours_daphne=1.0))


def texts(svg):
    return [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_a_chart_is_well_formed_and_has_the_best_first():
    bars = [("a < b & c", 2.0, 1.0, 3.0, True), ("other", 1.0, 1.0, 1.0, False)]
    panels = [Panel("less & less", "us", bars), Panel("more", "/s", bars, less_is_better=False)]
    svg = ElementTree.fromstring(picture("title & more", panels))
    assert texts(svg) == [
        *(
            "less & less",
            "us; less is better; square root scale",
            "other",
            "1.00",
            "a < b & c",
            "2.00",
        ),
        *("more", "/s; more is better; square root scale", "a < b & c", "2.00", "other", "1.00"),
    ]


def test_a_panel_without_bars_is_well_formed():
    assert texts(ElementTree.fromstring(picture("title", [Panel("empty", "us", [])])))


def test_every_plot_names_who_was_measured():
    pictures = report.pictures(measured(ours_daphne=3.0))
    for name, svg in pictures.items():
        drawn = " ".join(map(str, texts(ElementTree.fromstring(svg))))
        assert ("ours, daphne" in drawn) == (name != "curves.svg")


def test_blocks_of_a_page_are_written_anew():
    page = "a\n<!-- generated: absences -->\nold\nolder\n<!-- end -->\nb\n"
    assert report.fill(page, Results()) == (
        "a\n<!-- generated: absences -->\nNo contender was left out.\n<!-- end -->\nb\n"
    )


def test_a_block_that_nobody_writes_is_an_error():
    with pytest.raises(KeyError, match="gossip"):
        report.fill("<!-- generated: gossip -->\n\n<!-- end -->", Results())


def test_a_report_is_made_of_whatever_was_measured():
    text = "\n".join(report.lines(measured(ours_daphne=3.0)))
    assert "not measured" in text
    assert "Nothing has been measured yet." in text


def test_the_page_and_the_plots_are_what_the_kept_figures_say():
    results = Results.load(LATEST)
    for path in PAGES:
        page = path.read_text()
        assert report.fill(page, results) == page
    for name, svg in report.pictures(results).items():
        assert (LATEST.parent / name).read_text() == svg


def test_the_pages_have_every_block():
    page = "".join(path.read_text() for path in PAGES)
    assert all(page.count(f"<!-- generated: {name} -->") == 1 for name in report.BLOCKS)
