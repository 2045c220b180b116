"""Tables and sentences from figures: on the terminal, and into the documentation."""

import re
from collections.abc import Iterator

from . import growth, scale
from .chart import Panel, picture
from .claims import CLAIMS, Claim
from .columns import (
    COLUMNS,
    CONNECTING,
    CROWDS,
    HISTORY,
    PLOTS,
    RECIPIENTS,
    SIZES,
    SPOKEN,
    SPOKEN_BY_PUSHER,
    STREAMS,
    USERS,
)
from .contenders import BY_NAME
from .findings import absences, costs, faster, proof
from .reasons import REASONS
from .results import Results
from .tables import MISSING, Column, markdown, table


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


def missed(results: Results) -> str:
    """Each bound that the last run missed, by the reason; and which it did not measure."""
    #: Reason -> what was missed for it.
    found: dict[str, list[str]] = {}
    unknown = []

    def note(words: str, figures: str) -> None:
        reason = REASONS.get(words, "The reason is not known yet")
        found.setdefault(reason, []).append(f"    - {words}: {figures}.")

    for claim in CLAIMS:
        bound, figure, outcome = verdict(claim, results)
        if outcome == "not measured":
            unknown.append(claim.words)
        elif outcome != "met":
            note(claim.words, f"{figure}, the bound is {bound}")
    for one in growth.of_ours(results):
        if one.exponent is None:
            unknown.append(one.words)
        elif not one.is_met:
            note(one.words, f"exponent {one.exponent:.2f}, the bound is <= {one.bound:g}")
    text = [line for reason, which in found.items() for line in (f"- {reason}:", *which)]
    text = text or ["Nothing that was measured."]
    if unknown:
        text.append(f"- Not measured in this run: {'; '.join(unknown)}.")
    return "\n".join(text)


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
    dates: dict[str, list[str]] = {}
    for name, date in about.get("again", {}).items():
        dates.setdefault(date, []).append(f"`{name}`")
    again = "".join(
        f"Scenarios measured again, whole: {date}, {', '.join(names)}.\n"
        for date, names in dates.items()
    )
    return (
        f"{about['date']}; {host['cpu']}, {host['cores']} cores, {host['memory_gib']:g} GiB,"
        f" {host['kernel']}; load average {host['load_average']:.2f} before it began.\n"
        f"Servers on core {host['server_core']}; load and Valkey on core {host['load_core']}.\n"
        f"{again}\n{versions}."
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
        "fanout.svg": picture("CPU per delivery", panels[:1]),
        "all.svg": picture("Side by side", panels),
        "curves.svg": picture("How costs grow", growth.panels(results)),
    }


#: Name of a block in the documentation -> what writes it.
BLOCKS = {
    "missed": missed,
    "machine": machine,
    "verdicts": verdicts,
    "table": lambda results: table(results, COLUMNS),
    "sizes": lambda results: table(results, SIZES),
    "connecting": lambda results: table(results, CONNECTING),
    "users": lambda results: table(results, USERS),
    "recipients": lambda results: table(results, RECIPIENTS),
    "history": lambda results: table(results, HISTORY),
    "spoken": lambda results: table(results, SPOKEN),
    "pusher": lambda results: table(results, SPOKEN_BY_PUSHER),
    "streams": lambda results: table(results, STREAMS),
    "crowds": lambda results: table(results, CROWDS),
    "curves": growth.table,
    "costs": costs,
    "faster": faster,
    "proof": proof,
    "absences": absences,
    **scale.BLOCKS,
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
