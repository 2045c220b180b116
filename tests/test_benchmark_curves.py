"""How costs grow: what the benchmarks make of figures at several sizes."""

from xml.etree import ElementTree

import pytest

from benchmarks import growth, report
from benchmarks.chart import picture
from benchmarks.contenders import BY_NAME
from benchmarks.curves import CURVES
from benchmarks.lines import Line, LinePanel
from benchmarks.results import Results
from benchmarks.scenarios import SCENARIOS


def texts(svg):
    return [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]


def grown(curve, contender, figures, metric="cpu_us"):
    """Results with these figures at these sizes."""
    results = Results()
    results.add(curve, contender, 0, {f"{metric}@{size}": f for size, f in figures.items()})
    return results


def test_points_are_in_the_order_of_their_sizes_and_medians_of_rounds():
    results = grown("curve-groups", "ours-daphne", {100: 3.0, 1: 1.0, 10: 2.0})
    results.add("curve-groups", "ours-daphne", 1, {"cpu_us@1": 2.0, "memory_kb@1": 9.0})
    found = growth.points(results, "curve-groups", "ours-daphne", "cpu_us")
    assert found == [(1, 1.5), (10, 2.0), (100, 3.0)]
    assert growth.points(results, "curve-groups", "node-ws", "cpu_us") == []


@pytest.mark.parametrize("power", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_of_the_size_has_its_exponent(power):
    some = [(size, 3.0 * size**power) for size in (1, 10, 100, 1000, 10_000)]
    assert round(growth.exponent(some), 6) == power


def test_what_rises_only_in_the_end_is_found():
    some = [(size, 10 + 0.0015 * size) for size in (1, 10, 100, 1000, 10_000)]
    assert growth.slope(some) < growth.TOLERANCE < growth.exponent(some)


def test_a_cost_that_is_shared_out_and_then_flat_is_flat():
    some = [(size, 2.0 + 200 / size) for size in (1, 10, 100, 1000, 10_000)]
    assert growth.slope(some) < growth.exponent(some) <= 0


def test_two_sizes_are_no_curve():
    assert growth.exponent([(1, 1.0), (10, 10.0)]) is None


@pytest.mark.parametrize(
    ("curve", "metric", "power", "verdict"),
    [
        ("curve-groups", "cpu_us", 0.05, "flat"),
        ("curve-groups", "cpu_us", 0.2, "**rises**: ours, daphne"),
        ("curve-bytes", "cpu_us", 1.0, "at most proportional"),
        ("curve-bytes", "cpu_us", 1.2, "**rises**: ours, daphne"),
        ("curve-bytes", "redis_commands", 0.5, "**rises**: ours, daphne"),
    ],
)
def test_a_verdict_on_a_curve_names_who_rises_faster_than_it_must(curve, metric, power, verdict):
    figures = {size: 5.0 * size**power for size in (10, 100, 1000, 10_000)}
    results = grown(curve, "ours-daphne", figures, metric)
    results.figures[curve]["node-ws"] = results.figures[curve]["ours-daphne"]
    [some] = growth.by_plot(results)
    assert growth.verdict(some) == verdict
    assert growth.table(results).splitlines()[-1].endswith(f"| {verdict} |")


def test_what_the_sockets_themselves_cost_more_is_left_to_all():
    results = Results()
    for name, power in (("ours-daphne", 0.25), ("limit", 0.2)):
        figures = {f"cpu_us@{size}": size**power for size in (100, 1000, 10_000)}
        results.add("curve-members", name, 0, figures)
    [one] = growth.of_ours(results)
    assert (one.bound, one.is_met) == (0.3, True)
    assert growth.table(results).endswith("| <= 0.3 | as the limit |")


def test_a_peer_that_rises_is_no_verdict_on_ours():
    results = grown("curve-groups", "node-ws", {1: 1.0, 10: 10.0, 100: 100.0})
    assert growth.of_ours(results) == []
    assert "rises" not in growth.table(results)


def test_a_curve_is_drawn_with_both_ends_of_each_line():
    results = grown("curve-members", "ours-daphne", {1: 100.0, 10: 20.0, 10_000: 5.0})
    svg = ElementTree.fromstring(report.pictures(results)["curves.svg"])
    words = texts(svg)
    assert "members of a group: CPU per delivery" in words
    assert {"1", "10", "10 000", "ours, daphne: 100 to 5.00"} <= {*words}
    assert len(svg.findall(".//{http://www.w3.org/2000/svg}circle")) == 3


def test_a_line_chart_with_one_flat_line_or_none_is_well_formed():
    flat = LinePanel("a < b", "us", "members", [Line("one", [(1, 2.0), (2, 2.0)], True)])
    empty = LinePanel("empty", "us", "members", [])
    words = texts(ElementTree.fromstring(picture("both", [flat, empty])))
    assert {"a < b", "empty", "one: 2.00 to 2.00"} <= {*words}


def test_every_curve_is_a_scenario_with_ours():
    names = {scenario.name: scenario for scenario in SCENARIOS}
    for curve in CURVES:
        assert names[curve.name].names == curve.names
        assert any(BY_NAME[name].ours for name in curve.names)
        assert len(curve.sizes) >= 3 and [*curve.sizes] == sorted(curve.sizes)


def test_a_curve_that_rises_is_missed(monkeypatch):
    monkeypatch.setattr(report, "CLAIMS", [])
    results = grown("curve-groups", "ours-daphne", {1: 1.0, 10: 10.0, 100: 100.0})
    _, line = report.missed(results).splitlines()
    assert line.startswith("    - groups of one: CPU per delivery, ours, daphne: exponent 1.00,")
