"""Results of benchmarks, and their table."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


class NotHereError(Exception):
    """The machine lacks a program that a benchmark needs; the text names the program."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement with its peers' figures from the same run, all in `unit`.

    `reach` is the upper bound that docs/explanation/benchmarks.md sets, in `unit`, or in multiples of the
    peer named in `reach_of`; None stands for no bound.
    """

    what: str
    unit: str
    ours: float
    peers: dict[str, float] = field(default_factory=dict)
    reach: float | None = None
    reach_of: str = ""
    note: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """The ratio of each peer's figure to ours; above 1 the peer takes, or costs, more."""
        return {name: value / self.ours if self.ours else math.inf for name, value in self.peers.items()}

    @property
    def met(self) -> bool | None:
        """Whether our figure is within the bound; None without a bound."""
        if self.reach is None:
            return None
        bound = self.reach * self.peers[self.reach_of] if self.reach_of else self.reach
        return self.ours <= bound

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON, with None for infinite ratios."""
        ratios = {name: ratio if math.isfinite(ratio) else None for name, ratio in self.ratios.items()}
        return {**asdict(self), "ratios": ratios, "met": self.met}


def percentile(values: Iterable[float], fraction: float) -> float:
    """Return the value below which `fraction` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def render(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table, aligned for a terminal."""
    lines = [("what", "ours", "peers, same run", "peer / ours", "to reach", ""), *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def _cells(row: Row) -> tuple[str, ...]:
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    return (
        row.what,
        _figure(row.ours, row.unit),
        ", ".join(f"{name} {_figure(value, row.unit)}" for name, value in row.peers.items()) or "-",
        ", ".join(f"{name} {_ratio(ratio)}" for name, ratio in row.ratios.items()) or "-",
        _reach(row),
        f"{verdict} ({row.note})" if row.note else verdict,
    )


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3g}x" if math.isfinite(ratio) else "(ours is 0)"


def _reach(row: Row) -> str:
    if row.reach is None:
        return "-"
    return f"{row.reach:g} x {row.reach_of}" if row.reach_of else _figure(row.reach, row.unit)
