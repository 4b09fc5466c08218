"""Training frames over a view with more rows than should be in memory: time and the most memory, cut by entity and in one piece.

A million rows ask (fewer with few rows behind the view). ``--rows 50000000`` measures with many: about 100 bytes of disk for each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from _rows import OURS, Measured, options, report
from kaizenml.data import operations as data
from kaizenml.features.offline import frame, splitting
from kaizenml.project import open_project

WHOLE = "in one piece"
DAY_US = 86_400_000_000
FIRST_US = 1_767_225_600_000_000
DAYS = 60
PIECE = 1_000_000
TOML = """
[project]
name = "bench"
[task]
dataset = "asked"
target = "late"
time = "at"
[features.newest]
dataset = "events"
entity = "customer"
columns = ["x0", "x1", "x2", "x3"]
at = "at"
ttl = "30d"
"""
PYTHON = """
from kaizenml import count, features, mean, sum_
@features(entity="customer", source="events", at="at")
class Windows:
    spent_7d = sum_("x0", last="7d")
    orders_1d = count(last="1d")
    mean_30d = mean("x1", last="30d")
"""


def main() -> None:
    given = options(__doc__, _more)
    if given.work:
        print(json.dumps(_work(Path(given.folder), given.work, given.piece)))
        return
    rows = given.rows or (200_000 if given.quick else 10_000_000)
    piece = min(splitting.ROWS, rows // 4)
    with tempfile.TemporaryDirectory(prefix="kzfr-", dir=given.folder) as name:
        folder = Path(name)
        _write(folder, rows)
        report([_run(folder, rows, piece) for _ in range(given.rounds or 2)], given)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, help="rows behind the view; default 10 million")
    parser.add_argument("--rounds", type=int, help="how often; default 2")
    parser.add_argument("--folder", help="where there is room; default the system's folder for temporary files")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--piece", type=int, help=argparse.SUPPRESS)


def _write(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(5)
    customers = max(rows // 100, 10)
    with pyarrow.parquet.ParquetWriter(folder / "events.parquet", _events(rng, 1, 0.0, 1.0, customers).schema) as file:
        for begin in range(0, rows, PIECE):
            file.write_table(_events(rng, min(PIECE, rows - begin), begin / rows, min(begin + PIECE, rows) / rows, customers))
    asked = min(1_000_000, rows // 10)
    at = np.sort(rng.integers(DAYS // 2 * DAY_US, DAYS * DAY_US, asked)) + FIRST_US
    table = {"customer": rng.integers(0, customers, asked), "at": pa.array(at, pa.timestamp("us", "UTC")), "late": rng.random(asked) < 0.5}
    pyarrow.parquet.write_table(pa.table(table), folder / "asked.parquet")
    (folder / "kaizen.toml").write_text(TOML, encoding="utf-8")
    (folder / "features.py").write_text(PYTHON, encoding="utf-8")
    ctx = open_project(folder, actor="bench")
    for name in ("events", "asked"):
        data.add(ctx, name, str(folder / f"{name}.parquet"), time="at")
    ctx.catalog.close()


def _events(rng: np.random.Generator, rows: int, begin: float, end: float, customers: int) -> pa.Table:
    at = np.sort(rng.integers(int(begin * DAYS * DAY_US), int(end * DAYS * DAY_US), rows)) + FIRST_US
    columns = {"customer": rng.integers(0, customers, rows), "at": pa.array(at, pa.timestamp("us", "UTC"))}
    return pa.table(columns | {f"x{place}": rng.normal(size=rows) for place in range(4)})


def _run(folder: Path, rows: int, piece: int) -> list[Measured]:
    made: list[Measured] = []
    for view, told in (("newest", "4 newest values"), ("windows", "3 windows")):
        sums = set()
        for subject, size in ((OURS, piece), (WHOLE, rows)):
            command = [sys.executable, __file__, "--folder", str(folder), "--work", view, "--piece", str(size)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            sums.add(tuple(found["sums"]))
            made += [(f"{told} out of {rows:,} rows", subject, unit, found[unit]) for unit in ("s", "s of CPU", "MB")]
        assert len(sums) == 1, "cut or not, the values are the same"
    return made


def _work(folder: Path, view: str, piece: int) -> dict[str, object]:
    splitting.ROWS = piece
    ctx = open_project(folder, actor="bench")
    begun, used = time.perf_counter(), time.process_time()
    table = frame.training_frame(ctx, "asked", views=[frame.view_named(ctx, view)], recorded=False)
    taken, used = time.perf_counter() - begun, time.process_time() - used
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    sums = [str(pc.sum(table[name]).as_py()) for name in table.column_names if name not in ("customer", "at", "late")]
    return {"s": taken, "s of CPU": used, "MB": peak, "sums": sums}


if __name__ == "__main__":
    main()
