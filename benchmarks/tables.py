"""Figures as text: numbers, cells, Markdown tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from .contenders import BY_NAME
from .results import Results
from .stats import Spread

MISSING = "-"


@dataclass(frozen=True)
class Column:
    heading: str
    scenario: str
    metric: str
    less_is_better: bool = True


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        digits = f"{value:,.0f}" if abs(value) < 1000 else f"{float(f'{value:.3g}'):,.0f}"
        return digits.replace(",", " ")
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def cell(spread: Spread | None) -> str:
    """The median, and where there were more rounds their range."""
    if spread is None:
        return MISSING
    if spread.rounds == 1:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.low)}-{number(spread.high)})"


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are figures."""
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(results: Results, columns: Sequence[Column]) -> str:
    """Contenders down, columns across; who has no figure at all is left out."""
    rows = []
    for name, contender in BY_NAME.items():
        cells = [cell(results.spread(c.scenario, name, c.metric)) for c in columns]
        if any(text != MISSING for text in cells):
            rows.append([f"**{contender.title}**" if contender.ours else contender.title, *cells])
    if not rows:
        return "Not measured yet."
    return markdown(["", *(column.heading for column in columns)], rows)
