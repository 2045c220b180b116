"""Tables and sentences from figures: on the terminal, and into the documentation."""

import re
from collections.abc import Iterator

from .chart import Panel, bar_charts
from .claims import CLAIMS, Claim
from .contenders import BY_NAME
from .findings import absences, costs, faster, proof
from .results import Results
from .tables import MISSING, Column, markdown, table

COLUMNS = (
    Column("us / delivery", "fanout-200", "cpu_us"),
    Column("deliveries / s", "fanout-200", "rate", less_is_better=False),
    Column("fan-out p50, ms", "fanout-200", "fanout_p50_ms"),
    Column("p99", "fanout-200", "fanout_p99_ms"),
    Column("latency p50, ms", "fanout-200", "latency_p50_ms"),
    Column("p99", "fanout-200", "latency_p99_ms"),
    Column("connections / s", "connect", "connect_rate", less_is_better=False),
    Column("KiB / connection", "idle-10000", "memory_kb"),
    Column("Redis commands / broadcast", "redis-400", "redis_commands"),
)
SIZES = (
    Column("1 client, to itself", "self-1", "cpu_us"),
    Column("200 in one group", "fanout-200", "cpu_us"),
    Column("3 000 in one group", "fanout-3000", "cpu_us"),
    Column("1 000 groups of 3", "groups-1000", "cpu_us"),
    Column("echo", "echo", "cpu_us"),
    Column("3 000: fan-out p50, ms", "fanout-3000", "fanout_p50_ms"),
    Column("p99", "fanout-3000", "fanout_p99_ms"),
    Column("Redis commands, 4 000 clients", "redis-4000", "redis_commands"),
)


def verdict(claim: Claim, results: Results) -> tuple[str, str, str]:
    """Bound, figure, and whether it was met, as text."""
    bound = f"{'>=' if claim.at_least else '<='} {claim.bound:g}"
    spread = claim.measure(results)
    if spread is None:
        return bound, MISSING, "not measured"
    digits = f"{spread.median:.3g}"
    if spread.rounds > 1:
        digits += f" ({spread.low:.3g}-{spread.high:.3g})"
    return bound, digits, "met" if claim.is_met(spread) else "**missed**"


def verdicts(results: Results) -> str:
    rows = [[claim.words, *verdict(claim, results)] for claim in CLAIMS]
    return markdown(["", "bound", "measured", ""], rows)


def machine(results: Results) -> str:
    """The machine, the date and the versions."""
    about = results.about
    if not about:
        return "Nothing has been measured yet."
    host = about["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['date']}; {host['cpu']}, {host['cores']} cores, {host['memory_gib']:g} GiB,"
        f" {host['kernel']}; load average {host['load_average']:.2f} before it began.\n"
        f"Servers on core {host['server_core']}; load and Valkey on core {host['load_core']}.\n\n"
        f"{versions}."
    )


#: Every figure that has a plot, the most important first.
PLOTS = (
    ("A message to 200 clients: CPU per delivery", "us of the server", COLUMNS[0]),
    ("A message to 200 clients: deliveries per second", "one core", COLUMNS[1]),
    ("A message to 200 clients: median fan-out time", "ms, 20 messages a second", COLUMNS[2]),
    ("A message to 200 clients: 99th percentile of fan-out", "ms, 20 a second", COLUMNS[3]),
    ("A message to 200 clients: median latency", "ms, 20 messages a second", COLUMNS[4]),
    ("A message to 200 clients: 99th percentile of latency", "ms, 20 a second", COLUMNS[5]),
    ("A message to 3 000 clients: CPU per delivery", "us of the server", SIZES[2]),
    ("A message to 3 000 clients: median fan-out time", "ms", SIZES[5]),
    ("Connections", "per second, with a session where it has any", COLUMNS[6]),
    ("Memory", "KiB per idle connection, of 10 000", COLUMNS[7]),
    ("Redis commands", "per broadcast to 400 clients of 2 processes", COLUMNS[8]),
)


def panel(title: str, unit: str, column: Column, results: Results) -> Panel:
    bars = [
        (BY_NAME[name].title.replace("`", ""), s.median, s.low, s.high, BY_NAME[name].ours)
        for name, s in results.measured(column.scenario, column.metric)
    ]
    return Panel(title, unit, bars, column.less_is_better)


def pictures(results: Results) -> dict[str, str]:
    """File name -> SVG: the first plot by itself, and all of them."""
    panels = [panel(*plot, results) for plot in PLOTS]
    return {
        "fanout.svg": bar_charts("CPU per delivery", panels[:1]),
        "all.svg": bar_charts("Side by side", panels),
    }


#: Name of a block in the documentation -> what writes it.
BLOCKS = {
    "machine": machine,
    "verdicts": verdicts,
    "table": lambda results: table(results, COLUMNS),
    "sizes": lambda results: table(results, SIZES),
    "costs": costs,
    "faster": faster,
    "proof": proof,
    "absences": absences,
}


def fill(page: str, results: Results) -> str:
    """A page with its generated blocks written anew; KeyError for an unknown block."""

    def block(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}\n{BLOCKS[name](results)}\n{end}"

    return re.sub(r"(<!-- generated: (\w+) -->)\n.*?(<!-- end -->)", block, page, flags=re.DOTALL)


def lines(results: Results) -> Iterator[str]:
    """The whole report for a terminal."""
    for name, write in BLOCKS.items():
        yield f"\n== {name} ==\n"
        yield write(results)
