"""The figures of all rounds: stored, saved and looked up."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .stats import Spread

VERSION = 1


def rounded(value: float) -> float:
    """Four significant digits: more would be noise, and bytes."""
    return float(f"{value:.4g}")


@dataclass
class Results:
    """
    ``figures[scenario][contender]`` is one dict of metrics per round, with its number;
    ``absent`` says in words why a contender has none.
    """

    figures: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def add(self, scenario: str, contender: str, number: int, figures: dict[str, float]) -> None:
        rounds = self.figures.setdefault(scenario, {}).setdefault(contender, [])
        rounded_figures = {metric: rounded(value) for metric, value in figures.items()}
        rounds.append({"round": number, **rounded_figures})

    def skip(self, scenario: str, contender: str, reason: str) -> None:
        self.absent.setdefault(scenario, {})[contender] = reason

    def rounds(self, scenario: str, contender: str, metric: str) -> dict[int, float]:
        """Number of the round -> figure, of those in which it was measured."""
        return {
            int(figures["round"]): figures[metric]
            for figures in self.figures.get(scenario, {}).get(contender, [])
            if metric in figures
        }

    def spread(self, scenario: str, contender: str, metric: str) -> Spread | None:
        return Spread.of([*self.rounds(scenario, contender, metric).values()])

    def measured(self, scenario: str, metric: str) -> Iterator[tuple[str, Spread]]:
        """Contenders that have this figure, and its spread."""
        for contender in self.figures.get(scenario, {}):
            spread = self.spread(scenario, contender, metric)
            if spread is not None:
                yield contender, spread

    def with_again(self, later: "Results") -> "Results":
        """These, but for the scenarios that ``later`` measured, and when it did."""
        again = later.figures.keys() | later.absent.keys()
        when = {name: later.about["date"] for name in sorted(again)}
        return Results(
            {**self.figures, **later.figures},
            {name: why for name, why in self.absent.items() if name not in again} | later.absent,
            {**self.about, "again": {**self.about.get("again", {}), **when}},
        )

    def save(self, path: Path) -> None:
        data = {
            "version": VERSION,
            "about": self.about,
            "absent": self.absent,
            "figures": self.figures,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Results":
        data = json.loads(path.read_text())
        if data["version"] != VERSION:
            raise ValueError(f"{path.name} has version {data['version']}, not {VERSION}")
        return cls(data["figures"], data["absent"], data["about"])
