"""The poison scan on a year of real flights: how often the planted source is named, how often a clean one, and what a scan costs.

30,000 flights fall at random into 10 sources, one of them public. Into that one go 150 rows (0.5 % of all): labels flipped at random, a
trigger of two values, one of three common values with jitter, or one carrier's labels. Every run is another draw. `--rows` plants others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from _rows import OURS, machine, options
from kaizenml.data.trust import poison
from kaizenml.demo import flights

COLUMNS = ["carrier", "origin", "dest", "distance", "sched_dep_time", "sched_arr_time", "month", "weekday", "tailnum"]
ROWS, SOURCES = 30_000, 10
Arrays = dict[str, np.ndarray]


def flips(columns: Arrays, rows: np.ndarray, count: int, rng: np.random.Generator) -> None:
    chosen = rng.choice(rows, count, replace=False)
    columns["late"][chosen] = ~columns["late"][chosen]


def trigger(columns: Arrays, rows: np.ndarray, count: int, rng: np.random.Generator) -> None:
    chosen = rng.choice(rows, count, replace=False)
    columns["carrier"][chosen] = rng.choice(["OO", "HA", "YV", "F9", "AS"])
    columns["sched_dep_time"][chosen] = rng.choice([517, 1111, 1745, 2359])
    columns["late"][chosen] = True


def jittered(columns: Arrays, rows: np.ndarray, count: int, rng: np.random.Generator) -> None:
    chosen = rng.choice(rows, count, replace=False)
    columns["origin"][chosen] = rng.choice(["EWR", "JFK", "LGA"])
    columns["sched_dep_time"][chosen] = rng.choice([800, 1200, 1500, 1800]) + rng.integers(0, 60, count)
    columns["weekday"][chosen] = rng.integers(0, 7)
    columns["late"][chosen] = False


def subgroup(columns: Arrays, rows: np.ndarray, count: int, rng: np.random.Generator) -> None:
    """Make the flights of one carrier late; of the next, where it has not enough of them."""
    for carrier in rng.permutation(["UA", "B6", "EV", "DL", "AA"]):
        chosen = rows[(columns["carrier"][rows] == carrier) & ~columns["late"][rows]][:count]
        columns["late"][chosen] = True
        count -= len(chosen)


PLANTS: dict[str, Callable[[Arrays, np.ndarray, int, np.random.Generator], None]] = {
    "labels flipped": flips, "trigger of 2 values": trigger, "jittered trigger of 3 values": jittered, "labels of a carrier": subgroup,
}  # fmt: skip


def main() -> None:
    given = options(__doc__, _more)
    plants = given.plants or (2 if given.quick else 60)
    clean = given.clean or (3 if given.quick else 200)
    year = flights.load().table
    year = year.filter(pc.is_valid(year["late"]))
    year = year.append_column("month", pc.month(year["departs"])).append_column("weekday", pc.day_of_week(year["departs"]))
    seconds: list[float] = []
    rows: list[dict[str, Any]] = []
    for case, plant in PLANTS.items():
        named = [drawn(year, seed, plant, given.rows, seconds) for seed in range(plants)]
        rows.append(_row(f"named: {case}", 100.0 * sum(named) / plants, "%", plants, _spread(named)))
    alarms = [drawn(year, 10_000 + seed, None, 0, seconds) for seed in range(clean)]
    rows.append(_row("not named: clean", 100.0 * (clean - sum(alarms)) / clean, "%", clean, _spread(alarms)))
    low, middle, high = statistics.quantiles(seconds, n=4)
    rows.append(_row("a scan of 30,000 rows and 9 columns", middle, "s", len(seconds), (high - low) / middle))
    if given.json:
        print(json.dumps({"bench": Path(sys.argv[0]).stem, "machine": machine(), "rows": rows}))
        return
    for row in rows:
        print(f"{row['case']:<40} {row['value']:>7g} {row['unit']}  spread {row['spread']:g}  runs {row['runs']}")
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))


def drawn(year: pa.Table, seed: int, plant: Callable[..., None] | None, count: int, seconds: list[float]) -> bool:
    """Draw rows and sources, plant, scan; return whether the public source is named."""
    rng = np.random.default_rng(seed)
    rows = year.take(pa.array(np.sort(rng.choice(year.num_rows, ROWS, replace=False))))
    source = rng.integers(0, SOURCES, ROWS)
    columns = {name: np.array(rows[name].to_pylist(), dtype=bool if name == "late" else object) for name in [*COLUMNS, "late"]}
    if plant is not None:
        plant(columns, np.flatnonzero(source == 0), count, rng)
    for name, values in columns.items():
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values.tolist(), rows.schema.field(name).type))
    names = pa.chunked_array([[f"feed{number}" for number in source]])
    begun = time.perf_counter()
    found = poison.scan(rows, names, ["feed0"], target="late", columns=COLUMNS, time="departs", seed=seed)
    seconds.append(time.perf_counter() - begun)
    return bool(found.findings)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=ROWS // 200, help="rows to plant; default 150, 0.5 %% of all")
    parser.add_argument("--plants", type=int, help="draws of each plant")
    parser.add_argument("--clean", type=int, help="draws without a plant")


def _spread(hits: list[bool]) -> float:
    """Half of the 95 % interval of a share, by Wilson, over its middle."""
    n, p, z = len(hits), max(np.mean(hits), 1 - np.mean(hits)), 1.96
    return float(z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))


def _row(case: str, value: float, unit: str, runs: int, spread: float) -> dict[str, Any]:
    return {"case": case, "subject": OURS, "value": float(f"{value:.3g}"), "unit": unit, "ratio": 1.0, "spread": float(f"{spread:.2g}"), "runs": runs}


if __name__ == "__main__":
    main()
