"""The poison scan on real flights and weather: how often the planted source is named, how often an honest one, and what a scan costs.

Up to 30,000 rows fall at random into 10 sources, one of them public. Into that one go bad rows, 0.5 % of all (`--rows` plants others): labels
flipped at random, a trigger of two values, one of three common values with jitter, or the labels of a slice. Honest sources are alike, have
another mix of customers each, or another mix and another base rate each (odds by 10 %). Every run is another draw.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from _rows import OURS, machine, options
from kaizenml.data.trust import poison
from kaizenml.demo import flights

ROWS, SOURCES, SHARE = 30_000, 10, 0.005
Arrays = dict[str, np.ndarray]
Plant = Callable[["Subject", Arrays, np.ndarray, int, np.random.Generator], None]


@dataclass(frozen=True)
class Subject:
    """A data set: what is predicted from what, and which values a planter would choose."""

    table: pa.Table
    target: str
    time: str
    rare: dict[str, list[Any]]
    common: dict[str, Callable[[int, np.random.Generator], Any]]
    of: str  # whose labels are changed
    values: list[str]

    @property
    def columns(self) -> list[str]:
        return [name for name in self.table.column_names if name not in (self.target, self.time)]


@functools.cache
def subject(name: str) -> Subject:
    if name == "flights":
        year = flights.load().table
        year = year.filter(pc.is_valid(year["late"]))
        year = year.append_column("month", pc.month(year["departs"])).append_column("weekday", pc.day_of_week(year["departs"]))
        known = ["carrier", "origin", "dest", "distance", "sched_dep_time", "sched_arr_time", "month", "weekday", "tailnum"]
        return Subject(
            year.select([*known, "departs", "late"]),
            target="late", time="departs", rare={"carrier": ["OO", "HA", "YV", "F9", "AS"], "sched_dep_time": [517, 1111, 1745, 2359]},
            common={
                "origin": lambda count, rng: rng.choice(["EWR", "JFK", "LGA"]), "weekday": lambda count, rng: rng.integers(0, 7),
                "sched_dep_time": lambda count, rng: rng.choice([800, 1200, 1500, 1800]) + rng.integers(0, 60, count),
            },
            of="carrier", values=["UA", "B6", "EV", "DL", "AA"],
        )  # fmt: skip
    hours = flights.load().weather
    hours = hours.filter(pc.is_valid(hours["visib"]))
    hours = hours.append_column("hour", pc.hour(hours["time_hour"])).append_column("hazy", pc.less(hours["visib"], 10.0))
    return Subject(
        hours.select(["origin", "temp", "dewp", "humid", "wind_dir", "wind_speed", "pressure", "hour", "time_hour", "hazy"]),
        target="hazy", time="time_hour", rare={"wind_dir": [80.0, 130.0, 150.0], "wind_speed": [26.46794, 28.76950, 31.07106]},
        common={
            "origin": lambda count, rng: rng.choice(["EWR", "JFK", "LGA"]), "hour": lambda count, rng: rng.integers(0, 24),
            "temp": lambda count, rng: rng.choice([40.0, 55.0, 70.0]) + rng.integers(0, 9, count),
        },
        of="origin", values=["EWR", "JFK", "LGA"],
    )  # fmt: skip


def flips(of: Subject, columns: Arrays, rows: np.ndarray, count: int, rng: np.random.Generator) -> None:
    chosen = rng.choice(rows, count, replace=False)
    columns[of.target][chosen] = ~columns[of.target][chosen]


def trigger(of: Subject, columns: Arrays, rows: np.ndarray, count: int, rng: np.random.Generator) -> None:
    chosen = rng.choice(rows, count, replace=False)
    for name, values in of.rare.items():
        columns[name][chosen] = rng.choice(values)
    columns[of.target][chosen] = True


def jittered(of: Subject, columns: Arrays, rows: np.ndarray, count: int, rng: np.random.Generator) -> None:
    chosen = rng.choice(rows, count, replace=False)
    for name, drawn in of.common.items():
        columns[name][chosen] = drawn(count, rng)
    columns[of.target][chosen] = False


def labels_of_a_slice(of: Subject, columns: Arrays, rows: np.ndarray, count: int, rng: np.random.Generator) -> None:
    """Make all labels of one value true; of the next, where it has not enough rows."""
    for value in rng.permutation(of.values):
        chosen = rows[(columns[of.of][rows] == value) & ~columns[of.target][rows]][:count]
        columns[of.target][chosen] = True
        count -= len(chosen)


PLANTS: dict[str, Plant] = {
    "labels flipped": flips, "trigger of 2 values": trigger, "jittered trigger of 3 values": jittered, "labels of a slice": labels_of_a_slice,
}  # fmt: skip
HONEST = {"alike": (0.0, 0.0), "other mixes": (0.5, 0.0), "other mixes and base rates": (0.5, 0.1)}
"""By name: standard deviations of the log of how often a source has a value, of two columns, and of its log odds."""


def main() -> None:
    given = options(__doc__, _more)
    each = given.draws or (2 if given.quick else 40)
    drawn: list[tuple[str, str, str, int, int | None]] = []
    for name in ("flights",) if given.quick else ("flights", "weather"):
        for case in PLANTS:  # flips are what most draws are needed for: they are seen least
            times = each * (5 if case == "labels flipped" and name == "flights" and not given.quick else 1)
            drawn += [(name, "named: " + case, "alike", seed, given.rows) for seed in range(given.seed, given.seed + times)]
        for honest in ("alike",) if given.quick else HONEST:
            times = each * (1 if given.quick else 3)
            drawn += [(name, "not named: " + honest, honest, seed, None) for seed in range(given.seed + 10_000, given.seed + 10_000 + times)]
    if given.quick or given.workers == 1:
        told = [scanned(draw) for draw in drawn]
    else:
        with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
            told = list(pool.map(scanned, drawn, chunksize=4))
    rows: list[dict[str, Any]] = []
    for name, case in dict.fromkeys((name, case) for name, case, *_ in drawn):
        right = [found == case.startswith("named") for (one, other, *_), (found, _) in zip(drawn, told, strict=True) if (one, other) == (name, case)]
        rows.append(_row(f"{name}: {case}", 100.0 * sum(right) / len(right), "%", len(right), _spread(right)))
    seconds = [seconds for _, seconds in told]
    low, middle, high = statistics.quantiles(seconds, n=4)
    rows.append(_row("a scan of 30,000 rows and 9 columns", middle, "s", len(seconds), (high - low) / middle))
    if given.json:
        print(json.dumps({"bench": Path(sys.argv[0]).stem, "machine": machine(), "rows": rows}))
        return
    for row in rows:
        print(f"{row['case']:<50} {row['value']:>7g} {row['unit']}  spread {row['spread']:g}  runs {row['runs']}")
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()))


def scanned(draw: tuple[str, str, str, int, int | None]) -> tuple[bool, float]:
    """Draw rows and sources, plant, scan; return whether the public source is named, and the processor time of the scan."""
    name, case, honest, seed, count = draw
    of, rng = subject(name), np.random.default_rng([seed, len(name)])
    rows = of.table.take(pa.array(np.sort(rng.choice(of.table.num_rows, min(ROWS, of.table.num_rows), replace=False))))
    columns = {one: np.array(rows[one].to_pylist(), dtype=bool if one == of.target else object) for one in [*of.columns, of.target]}
    source = _sources(of, columns, *HONEST[honest], rng)
    if case.startswith("named"):
        PLANTS[case.removeprefix("named: ")](of, columns, np.flatnonzero(source == 0), count or int(SHARE * len(source)), rng)
    for one, values in columns.items():
        rows = rows.set_column(rows.column_names.index(one), one, pa.array(values.tolist(), rows.schema.field(one).type))
    names = pa.chunked_array([[f"feed{number}" for number in source]])
    begun = time.process_time()
    found = poison.scan(rows, names, ["feed0"], target=of.target, columns=of.columns, time=of.time, seed=seed)
    return bool(found.findings), time.process_time() - begun


def _sources(of: Subject, columns: Arrays, mixes: float, rates: float, rng: np.random.Generator) -> np.ndarray:
    """Give each row a source; which, depends on its values of two columns and its label as far as sources differ."""
    label = columns[of.target]
    log = np.where(label[:, None], 0.5, -0.5) * rng.normal(0.0, rates, SOURCES) if rates else np.zeros((len(label), SOURCES))
    for name in (of.of, rng.choice([name for name in of.columns if name != of.of])):
        levels, codes = np.unique(np.array([str(value) for value in columns[name]]), return_inverse=True)
        log += rng.normal(0.0, mixes, (len(levels), SOURCES))[codes]
    chances = np.exp(log)
    chances /= chances.sum(1, keepdims=True)
    return np.minimum((chances.cumsum(1) < rng.random(len(label))[:, None]).sum(1), SOURCES - 1)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, help="rows to plant; default 0.5 %% of all")
    parser.add_argument("--draws", type=int, help="of each plant; five times as many of flights' flipped labels, three times of honest sources")
    parser.add_argument("--seed", type=int, default=0, help="of the first draw")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def _spread(hits: list[bool]) -> float:
    """Half of the 95 % interval of a share, by Wilson, over its middle."""
    n, p, z = len(hits), max(np.mean(hits), 1 - np.mean(hits)), 1.96
    return float(z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))


def _row(case: str, value: float, unit: str, runs: int, spread: float) -> dict[str, Any]:
    return {"case": case, "subject": OURS, "value": float(f"{value:.3g}"), "unit": unit, "ratio": 1.0, "spread": float(f"{spread:.2g}"), "runs": runs}


if __name__ == "__main__":
    main()
