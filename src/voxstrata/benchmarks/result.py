"""What a benchmark found: medians of each way, and ratios to the one they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from voxstrata.benchmarks.measure import Runs


@dataclass(frozen=True)
class Row:
    """One case.

    Args:
        case: what was run, name -> value, e.g. {"clip_s": 5, "pass": "forward"}.
        runs: way -> its runs, in the same order of turns for all.
    """

    case: Mapping[str, Any]
    runs: Mapping[str, Runs]

    def time_ratio(self, mode: str, reference: str) -> float | None:
        """Median over the turns of the time of a way over that of the reference; None if one has none."""
        ours, theirs = self.runs[mode], self.runs[reference]
        if ours.fault or theirs.fault:
            return None
        return median(a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True))

    def cpu_ratio(self, mode: str, reference: str) -> float | None:
        """As `time_ratio`, of processor time, which other work on the machine changes less."""
        ours, theirs = self.runs[mode].cpu_seconds, self.runs[reference].cpu_seconds
        ratios = [a / b for a, b in zip(ours, theirs, strict=False) if b > 0]
        return median(ratios) if ratios else None

    def memory_ratio(self, mode: str, reference: str) -> float | None:
        """Peak memory of a way over that of the reference, both beyond resident; None if not known."""
        ours, theirs = self.runs[mode].peak_bytes, self.runs[reference].peak_bytes
        return ours / theirs if ours is not None and theirs else None


@dataclass(frozen=True)
class BenchmarkResult:
    """A benchmark's answer.

    Args:
        name: of the benchmark.
        compares: way -> what it is, in words.
        reference: the way that the ratios are over.
        settings: what was fixed.
        machine: what the figures depend on.
        rows: one a case.
        also_over: further ways that ratios are given over, in the JSON.
        memory: what the peaks are.
        figures: what is counted, not timed, name -> number.
    """

    name: str
    compares: Mapping[str, str]
    reference: str
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]
    also_over: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    memory: str = "peak beyond resident"

    def as_dict(self) -> dict[str, Any]:
        """As JSON: per case and way the median, every run, the peak and the ratios, or its fault."""
        return {
            "benchmark": self.name,
            "compares": dict(self.compares),
            "reference": self.reference,
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "rows": [{**row.case, "modes": self._modes(row)} for row in self.rows],
            **({"figures": dict(self.figures)} if self.figures else {}),
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings, and a row per case and way: median, peak and ratios to the reference."""
        headings = [*self.rows[0].case] if self.rows else []
        headings += ["way", "median s", "MB", "time ratio", "CPU ratio", "memory ratio"]
        return headings, [
            [
                *map(str, row.case.values()),
                mode,
                "failed" if runs.fault else f"{runs.median_s:.3f}",
                "-" if runs.peak_bytes is None else f"{runs.peak_bytes / 1e6:.0f}",
                _ratio(row.time_ratio(mode, self.reference)),
                _ratio(row.cpu_ratio(mode, self.reference)),
                _ratio(row.memory_ratio(mode, self.reference)),
            ]
            for row in self.rows
            for mode, runs in row.runs.items()
        ]

    def faults(self) -> list[str]:
        """Which way failed on which case, and why."""
        return [
            f"{mode} failed on {', '.join(map(str, row.case.values()))}: {runs.fault}"
            for row in self.rows
            for mode, runs in row.runs.items()
            if runs.fault
        ]

    def _modes(self, row: Row) -> dict[str, Any]:
        modes: dict[str, Any] = {}
        for mode, runs in row.runs.items():
            if runs.fault:
                modes[mode] = {"fault": runs.fault}
                continue
            modes[mode] = {
                "median_s": runs.median_s,
                "runs_s": list(runs.seconds),
                "cpu_s": list(runs.cpu_seconds),
                "peak_bytes": runs.peak_bytes,
            }
            if mode != self.reference:
                modes[mode] |= _ratios(row, mode, self.reference)
            if others := [other for other in self.also_over if other != mode]:
                modes[mode]["over"] = {other: _ratios(row, mode, other) for other in others}
        return modes


def _ratios(row: Row, mode: str, reference: str) -> dict[str, float | None]:
    return {
        "time_ratio": row.time_ratio(mode, reference),
        "cpu_ratio": row.cpu_ratio(mode, reference),
        "memory_ratio": row.memory_ratio(mode, reference),
    }


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
