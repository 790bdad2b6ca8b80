"""Results of benchmarks, and their table."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


class NotHereError(Exception):
    """The machine lacks a program that a benchmark needs; the text names the program."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement with its peers' figures from the same run, all in `unit`.

    `reach` is the upper bound that docs/explanation/benchmarks.md sets, in `unit`, or in multiples of the
    peer named in `reach_of`; None stands for no bound. `bounds` has further bounds, in multiples of peers. A
    bound of a peer that was not measured is left out. `load` describes the machine before the measurement.
    """

    what: str
    unit: str
    ours: float
    peers: dict[str, float] = field(default_factory=dict)
    reach: float | None = None
    reach_of: str = ""
    note: str = ""
    bounds: dict[str, float] = field(default_factory=dict)
    load: str = ""

    @property
    def ratios(self) -> dict[str, float]:
        """The ratio of each peer's figure to ours; above 1 the peer takes, or costs, more."""
        return {name: value / self.ours if self.ours else math.inf for name, value in self.peers.items()}

    @property
    def met(self) -> bool | None:
        """Whether our figure is within all bounds; None without a bound."""
        bounds = [times * self.peers[peer] for peer, times in self._multiples().items()]
        if self.reach is not None and not self.reach_of:
            bounds.append(self.reach)
        return self.ours <= min(bounds) if bounds else None

    @property
    def to_reach(self) -> str:
        """The bounds as text, empty without a bound."""
        texts = [_figure(self.reach, self.unit)] if self.reach is not None and not self.reach_of else []
        return ", ".join([*texts, *(f"{times:g} x {peer}" for peer, times in self._multiples().items())])

    def _multiples(self) -> dict[str, float]:
        """Return the bounds in multiples of peers that were measured."""
        multiples = dict(self.bounds)
        if self.reach is not None and self.reach_of:
            multiples[self.reach_of] = self.reach
        return {peer: times for peer, times in multiples.items() if peer in self.peers}

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
    lines = [("what", "ours", "peers, same run", "peer / ours", "to reach", "", "load"), *map(_cells, rows)]
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
        row.to_reach or "-",
        f"{verdict} ({row.note})" if row.note else verdict,
        row.load,
    )


def _figure(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3g}x" if math.isfinite(ratio) else "(ours is 0)"


def machine_load() -> str:
    """Return the mean number of runnable processes in the last minute, and the number of processes."""
    processes = sum(name.isdigit() for name in os.listdir("/proc"))
    return f"{os.getloadavg()[0]:.2f}, {processes} processes"
