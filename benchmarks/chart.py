"""Bar charts as SVG, small enough to read in a diff."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from xml.sax.saxutils import escape

from .tables import number

WIDTH, LABELS, VALUES, BAR, HEAD, FOOT = 860, 320, 110, 24, 46, 20
OURS, OTHERS, SPREAD = "#2f6fdb", "#9aa4b2", "#1f2937"

#: Label, median, low, high, whether it is ours.
Bar = tuple[str, float, float, float, bool]


@dataclass(frozen=True)
class Panel:
    """
    Horizontal bars from the best to the worst, each with the range of its rounds.

    The scale is the square root: between the best and the worst lies a factor of fifty,
    and the best still differ.
    """

    title: str
    unit: str
    bars: Sequence[Bar]
    less_is_better: bool = True

    @property
    def height(self) -> int:
        return HEAD + BAR * len(self.bars) + FOOT

    def draw(self, top: int) -> list[str]:
        longest = max((bar[3] for bar in self.bars), default=1.0) ** 0.5 or 1.0

        def scale(value: float) -> float:
            return round(max(value, 0.0) ** 0.5 / longest * (WIDTH - LABELS - VALUES), 1)

        better = "less" if self.less_is_better else "more"
        lines = [
            f'<text x="12" y="{top + 20}" font-size="15" font-weight="bold">'
            f"{escape(self.title)}</text>",
            f'<text x="12" y="{top + 37}" fill="#555555">'
            f"{escape(self.unit)}; {better} is better; square root scale</text>",
        ]
        ordered = sorted(self.bars, key=lambda bar: bar[1], reverse=not self.less_is_better)
        for row, (label, middle, low, high, is_ours) in enumerate(ordered):
            y = top + HEAD + row * BAR
            weight = ' font-weight="bold"' if is_ours else ""
            lines += [
                f'<text x="{LABELS - 8}" y="{y + 16}" text-anchor="end"{weight}>'
                f"{escape(label)}</text>",
                f'<rect x="{LABELS}" y="{y + 4}" width="{scale(middle)}" height="{BAR - 8}"'
                f' fill="{OURS if is_ours else OTHERS}"/>',
                f'<line x1="{LABELS + scale(low)}" x2="{LABELS + scale(high)}"'
                f' y1="{y + BAR // 2}" y2="{y + BAR // 2}" stroke="{SPREAD}" stroke-width="2"/>',
                f'<text x="{LABELS + scale(high) + 6}" y="{y + 16}">{number(middle)}</text>',
            ]
        return lines


class Drawn(Protocol):
    """A part of a picture."""

    @property
    def height(self) -> int: ...

    def draw(self, top: int) -> list[str]: ...


def picture(title: str, panels: Sequence[Drawn]) -> str:
    """Panels one under the other, as one picture."""
    height = sum(panel.height for panel in panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img" font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    top = 0
    for panel in panels:
        lines += panel.draw(top)
        top += panel.height
    return "\n".join([*lines, "</svg>", ""])
