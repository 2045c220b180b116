"""How fast costs grow with what a curve grows: points, a fit, a verdict, a plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .contenders import BY_NAME
from .curves import CURVES, IN_MEMORY, IN_REDIS, LIMIT, Curve
from .lines import Line, LinePanel
from .results import Results
from .stats import Spread
from .tables import MISSING, markdown, number

#: What a fit may be above what is allowed: caches of the processor, and noise.
TOLERANCE = 0.1
#: Of more sizes than these, the largest are a curve of their own.
MANY = 4
#: Metric -> what it is, and its unit; ``{}`` is what the curve measures the memory of.
METRICS = {
    "cpu_us": ("CPU per delivery", "us"),
    "redis_commands": ("Redis commands per message", ""),
    "memory_kb": ("memory per {}", "KiB"),
}

Points = Sequence[tuple[int, float]]


def points(results: Results, curve: str, contender: str, metric: str) -> Points:
    """Size and figure, by size."""
    names = {
        name
        for figures in results.figures.get(curve, {}).get(contender, [])
        for name in figures
        if name.startswith(f"{metric}@")
    }
    found = []
    for name in names:
        spread = Spread.of([*results.rounds(curve, contender, name).values()])
        assert spread is not None
        found.append((int(name.partition("@")[2]), spread.median))
    return sorted(found)


def slope(some: Points) -> float:
    """The exponent of the power of the size that comes nearest to the figures (least squares)."""
    logs = [(math.log(size), math.log(max(figure, 1e-9))) for size, figure in some]
    x, y = (sum(pair[at] for pair in logs) / len(logs) for at in (0, 1))
    return sum((a - x) * (b - y) for a, b in logs) / sum((a - x) ** 2 for a, _ in logs)


def exponent(some: Points) -> float | None:
    """
    The same of all sizes, or of the three largest of many, whichever is more: what rises
    only in the end is found, too. None of fewer than three.
    """
    if len(some) < 3:
        return None
    return max(slope(some), slope(some[-3:])) if len(some) > MANY else slope(some)


@dataclass(frozen=True)
class Growth:
    """One metric of one contender on one curve, and whether it rises no faster than it must."""

    curve: Curve
    contender: str
    metric: str
    points: Points
    #: The exponent of the limit: what the system's own sockets cost more, whoever writes.
    least: float = 0.0

    @property
    def words(self) -> str:
        what = METRICS[self.metric][0].format(self.curve.memory)
        return f"{self.curve.title}: {what}, {BY_NAME[self.contender].title}"

    @property
    def bound(self) -> float:
        """Of the exponent; of Redis commands there may be no more, whatever grows."""
        allowed = 0.0 if self.metric == "redis_commands" else self.curve.exponent
        return round(max(allowed, self.least) + TOLERANCE, 2)

    @property
    def exponent(self) -> float | None:
        return exponent(self.points)

    @property
    def is_met(self) -> bool:
        return self.exponent is not None and self.exponent <= self.bound

    @property
    def cell(self) -> str:
        """The figures of the smallest and the largest size, and the exponent."""
        ends = f"{number(self.points[0][1])} to {number(self.points[-1][1])}"
        return ends if self.exponent is None else f"{ends} ({self.exponent:.2f})"


def growths(results: Results) -> list[Growth]:
    """Of everything that was measured, ours and others."""
    return [
        Growth(curve, name, metric, found, least if metric == "cpu_us" else 0.0)
        for curve in CURVES
        for least in [exponent(points(results, curve.name, LIMIT, "cpu_us")) or 0.0]
        for metric in METRICS
        for name in curve.names
        if (found := points(results, curve.name, name, metric))
    ]


def by_plot(results: Results) -> list[list[Growth]]:
    """The same, those together that have the curve and the metric in common."""
    found: dict[tuple[str, str], list[Growth]] = {}
    for one in growths(results):
        found.setdefault((one.curve.name, one.metric), []).append(one)
    return [*found.values()]


def of_ours(results: Results) -> list[Growth]:
    """Ours: those that have to be met."""
    return [one for one in growths(results) if BY_NAME[one.contender].ours]


def verdict(some: Sequence[Growth]) -> str:
    """Whether ours rise no faster than they must."""
    ours = [one for one in some if BY_NAME[one.contender].ours]
    if any(one.exponent is None for one in ours):
        return "too few sizes"
    rising = [BY_NAME[one.contender].title for one in ours if not one.is_met]
    if rising:
        return f"**rises**: {'; '.join(rising)}"
    if some[0].curve.exponent and some[0].metric != "redis_commands":
        return "at most proportional"
    return "flat" if some[0].bound <= TOLERANCE else "as the limit"


def table(results: Results) -> str:
    names = (*IN_MEMORY, *IN_REDIS, LIMIT)
    rows = []
    for some in by_plot(results):
        first = some[0]
        what, unit = METRICS[first.metric]
        cells = {one.contender: one.cell for one in some}
        sizes = f"{first.points[0][0]:,} to {first.points[-1][0]:,}".replace(",", " ")
        rows.append(
            [
                f"{sizes} {first.curve.title}: {what.format(first.curve.memory)}"
                f"{f', {unit}' if unit else ''}",
                *(cells.get(name, MISSING) for name in names),
                f"<= {first.bound:g}",
                verdict(some),
            ]
        )
    if not rows:
        return "No curve was measured in this run."
    titles = [BY_NAME[name].title.partition(":")[0] for name in names]
    return markdown(["", *titles, "bound of the exponent", "ours"], rows)


def panels(results: Results) -> list[LinePanel]:
    """A plot of each metric of each curve."""
    return [
        LinePanel(
            f"{some[0].curve.title}: {METRICS[some[0].metric][0].format(some[0].curve.memory)}",
            METRICS[some[0].metric][1] or "commands",
            some[0].curve.unit,
            [
                Line(
                    BY_NAME[one.contender].title.replace("`", ""),
                    one.points,
                    BY_NAME[one.contender].ours,
                )
                for one in some
            ],
        )
        for some in by_plot(results)
    ]
