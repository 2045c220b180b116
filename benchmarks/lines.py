"""Line charts as SVG: what a cost is at each size, both on scales of powers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from .chart import OTHERS, OURS, WIDTH
from .tables import number

LEFT, LEGEND, HEAD, PLOT, FOOT = 70, 340, 52, 190, 48
DASHES = ("", "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    label: str
    points: Sequence[tuple[int, float]]
    is_ours: bool


@dataclass(frozen=True)
class Scale:
    """From figures to places, by their logarithms."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, room: float) -> "Scale":
        """With so much room, as a factor, below and above."""
        return cls(min(values) / room, max(values) * room, start, end)


@dataclass(frozen=True)
class LinePanel:
    """Ours in colour, each with a dash of its own; the ends of each line have their figures."""

    title: str
    unit: str
    #: What grows.
    size: str
    lines: Sequence[Line]

    @property
    def height(self) -> int:
        return HEAD + PLOT + FOOT

    def draw(self, top: int) -> list[str]:
        drawn = [
            f'<text x="12" y="{top + 20}" font-size="15" font-weight="bold">'
            f"{escape(self.title)}</text>",
            f'<text x="12" y="{top + 37}" fill="#555555">'
            f"{escape(self.unit)}; both scales are logarithmic</text>",
        ]
        sizes = sorted({size for line in self.lines for size, _ in line.points})
        figures = [max(figure, 1e-3) for line in self.lines for _, figure in line.points]
        if not sizes:
            return drawn
        bottom = top + HEAD + PLOT
        # No plot makes a mountain of noise: the axis spans a factor of ten at least.
        room = max(1.2, math.sqrt(10 * min(figures) / max(figures)))
        across = Scale.of([float(size) for size in sizes], LEFT, WIDTH - LEGEND, 1.05)
        up = Scale.of(figures, bottom, top + HEAD, room)
        drawn += self._axes(sizes, across, up, bottom)
        for at, line in enumerate(self.lines):
            drawn += self._line(line, at, across, up, top)
        return drawn

    def _axes(self, sizes: Sequence[int], across: Scale, up: Scale, bottom: int) -> list[str]:
        drawn = []
        for size in sizes:
            x = across.place(size)
            label = f"{size:,}".replace(",", " ")
            drawn += [
                f'<line x1="{x}" x2="{x}" y1="{bottom - PLOT}" y2="{bottom}" stroke="#e5e7eb"/>',
                f'<text x="{x}" y="{bottom + 16}" text-anchor="middle">{label}</text>',
            ]
        for figure in (up.low, math.sqrt(up.low * up.high), up.high):
            y = up.place(figure)
            drawn += [
                f'<line x1="{LEFT}" x2="{WIDTH - LEGEND}" y1="{y}" y2="{y}" stroke="#e5e7eb"/>',
                f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{number(figure)}</text>',
            ]
        middle = (LEFT + WIDTH - LEGEND) // 2
        drawn.append(
            f'<text x="{middle}" y="{bottom + 34}" text-anchor="middle" fill="#555555">'
            f"{escape(self.size)}</text>"
        )
        return drawn

    def _line(self, line: Line, at: int, across: Scale, up: Scale, top: int) -> list[str]:
        colour = OURS if line.is_ours else OTHERS
        places = [(across.place(x), up.place(max(y, 1e-3))) for x, y in line.points]
        path = " ".join(f"{x},{y}" for x, y in places)
        dash = f' stroke-dasharray="{DASHES[at % len(DASHES)]}"' if at % len(DASHES) else ""
        look = f'fill="none" stroke="{colour}" stroke-width="2"{dash}'
        y, x = top + HEAD + 12 + at * 22, WIDTH - LEGEND + 14
        weight = ' font-weight="bold"' if line.is_ours else ""
        ends = f"{number(line.points[0][1])} to {number(line.points[-1][1])}"
        return [
            f'<polyline points="{path}" {look}/>',
            *(f'<circle cx="{px}" cy="{py}" r="3" fill="{colour}"/>' for px, py in places),
            f'<line x1="{x}" x2="{x + 28}" y1="{y - 4}" y2="{y - 4}" {look}/>',
            f'<text x="{x + 34}" y="{y}"{weight}>{escape(line.label)}: {ends}</text>',
        ]
