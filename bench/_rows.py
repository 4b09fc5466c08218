"""What all benchmarks share: their options, the rows that they print, and how the rows come from interleaved runs.

Rows are ``{case, subject, value, unit, ratio, spread, runs}``: ``value`` is the median of ``runs`` runs, ``spread`` the
distance between their quartiles over the median, ``ratio`` the subject's cost over ours in the same run (the median
of it; above 1 we are cheaper, and 1 in our own rows).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

OURS = "kaizenml"
RATES = ("1/s",)  # units of which more is better: their ratio is ours over the subject's
FIELDS = ("case", "subject", "value", "unit", "ratio", "spread", "runs")
Row = dict[str, str | float | int]
Measured = tuple[str, str, str, float]  # case, subject, unit, cost


def options(about: str, more: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    """Read ``--quick`` and ``--json``, and what ``more`` adds."""
    parser = argparse.ArgumentParser(description=about.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs: to see that it works")
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    if more is not None:
        more(parser)
    return parser.parse_args()


def report(made: list[list[Measured]], given: argparse.Namespace) -> None:
    """Print the rows of interleaved runs: each of ``made`` measured every subject in every case once."""
    rows = summed_up(made)
    if given.json:
        print(json.dumps({"bench": Path(sys.argv[0]).stem, "machine": machine(), "rows": rows}))
        return
    lines = [FIELDS, *([_text(row[field]) for field in FIELDS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = zip(FIELDS, line, widths, strict=True)
        print("  ".join(text.ljust(width) if field in ("case", "subject", "unit") else text.rjust(width) for field, text, width in cells))
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))


def summed_up(made: list[list[Measured]]) -> list[Row]:
    """Return a row for each case and subject, in the order of the first run."""
    costs: dict[tuple[str, str, str], list[float]] = {}
    for run in made:
        for case, subject, unit, cost in run:
            costs.setdefault((case, subject, unit), []).append(cost)
    rows: list[Row] = []
    for (case, subject, unit), values in costs.items():
        ours = costs[(case, OURS, unit)]
        middle = statistics.median(values)
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (middle, middle, middle)
        ratio = statistics.median(own / value if unit in RATES else value / own for value, own in zip(values, ours, strict=True))
        rows.append(
            dict(zip(FIELDS, (case, subject, _rounded(middle), unit, _rounded(ratio), _rounded((high - low) / middle), len(values)), strict=True))
        )
    return rows


def machine() -> dict[str, str | int]:
    """Say what it was measured on."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _text(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
