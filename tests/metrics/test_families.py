"""Names, labels and documentation of metrics, and the dashboard that shows them."""

import json
import re
from collections import Counter

from filtered_websocket.connections.refusals import OUTCOMES, OUTCOMES_OF_CODES
from filtered_websocket.metrics.families import FAMILIES

from ..snippets import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text()
BOARD = json.loads((ROOT / "docs" / "grafana.json").read_text())
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
#: Each name in the exposition -> its labels.
SERIES = {
    family.name + suffix: {*family.labels, *(["le"] if suffix == "_bucket" else [])}
    for family in FAMILIES
    for suffix in SUFFIXES[family.kind]
}
#: Set by Prometheus.
OF_TARGET = {"job", "instance"}


def test_names_follow_the_conventions_of_prometheus():
    assert len(SERIES) == sum(len(SUFFIXES[family.kind]) for family in FAMILIES)
    for family in FAMILIES:
        assert re.fullmatch(r"fws_[a-z]+(_[a-z]+)*", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.kind != "histogram" or family.name.endswith("_seconds")
        assert not re.search(r"_(count|sum|bucket|info_total)$", family.name)
        assert family.help.endswith(".") and "\n" not in family.help


def test_the_table_of_the_page_has_every_metric_as_it_is():
    rows = re.findall(r"^\| `(fws_\w+)` \| (\w+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (
            family.name,
            family.kind,
            ", ".join(f"`{label}`" for label in family.labels) or "-",
            family.help,
        )
        for family in FAMILIES
    ]


def test_the_page_names_every_outcome_of_a_handshake():
    section = PAGE.partition("| outcome | is |")[2].partition("\n\n")[0]
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.+?) \|", section, re.MULTILINE)))
    named = {"accepted", "left", "no_route", "closed"}
    assert Counter(listed) == Counter(named | {*OUTCOMES.values(), *OUTCOMES_OF_CODES.values()})


def expressions():
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def test_the_pages_queries_are_about_metrics_that_there_are():
    queries = re.findall(r"^\| .+? \| `(.+?)` \|$", PAGE.partition("PromQL")[2], re.MULTILINE)
    assert len(queries) > 4
    for query in queries:
        check_query(query)


def test_each_expression_of_the_dashboard_is_about_a_metric_that_there_is():
    found = list(expressions())
    assert len(found) > 40
    for _, expression in found:
        check_query(expression)
    assert {name for _, one in found for name in re.findall(r"fws_\w+", one)} == {
        *(family.name for family in FAMILIES if family.kind != "histogram"),
        *re.findall(r"fws_\w+_seconds_\w+", json.dumps(BOARD)),
    }


def check_query(query):
    names = re.findall(r"fws_\w+", query)
    assert names and set(names) <= SERIES.keys(), query
    assert query.count("(") == query.count(")") and query.count("{") == query.count("}")
    labels = set.intersection(*[SERIES[name] for name in names])
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert set(re.split(r", ?", grouped)) <= labels | OF_TARGET, query
    for name, chosen in re.findall(r"(fws_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)=", chosen)) <= SERIES[name] | OF_TARGET, query
    # Only what grows has a rate.
    for name in re.findall(r"rate\((fws_\w+)", query):
        assert name.endswith(("_total", "_bucket", "_sum", "_count")), query
    if "histogram_quantile" in query:
        assert re.search(r"by \(le\b", query), query


def test_the_dashboard_has_no_panel_on_another_and_no_unknown_variable():
    assert BOARD["title"] and BOARD["uid"] and BOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    places = Counter()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["targets"] and panel["datasource"]["uid"] == "${datasource}"
            for target in panel["targets"]:
                assert target["legendFormat"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                places[x, y] += 1
    assert set(places.values()) == {1}
    variables = {variable["name"] for variable in BOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(BOARD)))
    assert used - {"__rate_interval", "__all"} == variables
