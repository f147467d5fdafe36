"""What a benchmark found: medians of each way, and ratios to the one they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

    def time_ratio(self, mode: str, reference: str) -> float:
        """Median over the turns of the time of a way over that of the reference."""
        pairs = zip(self.runs[mode].seconds, self.runs[reference].seconds, strict=True)
        return median(ours / theirs for ours, theirs in pairs)

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
    """

    name: str
    compares: Mapping[str, str]
    reference: str
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON: per case and way the median, every run, the peak, and the ratios to the reference."""
        return {
            "benchmark": self.name,
            "compares": dict(self.compares),
            "reference": self.reference,
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "rows": [{**row.case, "modes": self._modes(row)} for row in self.rows],
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells: the case, then each way's median and peak, then the others' ratios."""
        others = [mode for mode in self.compares if mode != self.reference]
        headings = [*self.rows[0].case] if self.rows else []
        for mode in self.compares:
            headings += [f"{mode} s", f"{mode} MB"]
        for mode in others:
            headings += [f"{mode} time ratio", "memory ratio"]
        cells = []
        for row in self.rows:
            line = [str(value) for value in row.case.values()]
            for mode in self.compares:
                runs = row.runs[mode]
                peak = "-" if runs.peak_bytes is None else f"{runs.peak_bytes / 1e6:.0f}"
                line += [f"{runs.median_s:.3f}", peak]
            for mode in others:
                memory = row.memory_ratio(mode, self.reference)
                line += [
                    f"{row.time_ratio(mode, self.reference):.2f}",
                    "-" if memory is None else f"{memory:.2f}",
                ]
            cells.append(line)
        return headings, cells

    def _modes(self, row: Row) -> dict[str, Any]:
        modes: dict[str, Any] = {}
        for mode, runs in row.runs.items():
            modes[mode] = {
                "median_s": runs.median_s,
                "runs_s": list(runs.seconds),
                "peak_bytes": runs.peak_bytes,
            }
            if mode != self.reference:
                modes[mode]["time_ratio"] = row.time_ratio(mode, self.reference)
                modes[mode]["memory_ratio"] = row.memory_ratio(mode, self.reference)
        return modes
