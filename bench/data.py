"""Datasets: rows a second and memory of taking them in, reading versions, and forgetting a person, beside deltalake by itself.

What stands beside ours writes the same rows to the same format, and nothing else: no contract, no quarantine, no keys, no hash, no
profile; and its older versions are gone once a person is forgotten. ``--rows 50000000`` measures with many.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from _rows import OURS, Measured, options, report

ALONE = "deltalake by itself"
WORK = Path(__file__).with_name("_data_work.py")
PIECE = 1_000_000


def main() -> None:
    given = options(__doc__, _more)
    rows = given.rows or (20_000 if given.quick else 5_000_000)
    runs = given.rounds or (2 if given.quick else 3)
    with tempfile.TemporaryDirectory(prefix="kzd-", dir=given.folder) as name:
        folder = Path(name)
        files = {kind: str(folder / f"orders.{kind}") for kind in ("csv", "parquet")}
        _write(files, rows, begin=0)
        more = {kind: str(folder / f"more.{kind}") for kind in ("csv", "parquet")}
        _write(more, max(rows // 10, 1), begin=rows)
        report([_run(folder, files, more["parquet"], rows) for _ in range(runs)], given)


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, help="how many; default 5 million")
    parser.add_argument("--rounds", type=int, help="how often; default 3")
    parser.add_argument("--folder", help="where there is room: about 400 bytes for each row; default the system's folder for temporary files")


def _write(files: dict[str, str], rows: int, *, begin: int) -> None:
    """Write the same rows as CSV and Parquet."""
    rng = np.random.default_rng(begin)
    schema = _piece(rng, 0, 1).schema
    with pyarrow.csv.CSVWriter(files["csv"], schema) as text, pyarrow.parquet.ParquetWriter(files["parquet"], schema) as packed:
        for place in range(begin, begin + rows, PIECE):
            piece = _piece(rng, place, min(PIECE, begin + rows - place))
            text.write_table(piece)
            packed.write_table(piece)


def _piece(rng: np.random.Generator, begin: int, rows: int) -> pa.Table:
    numbers = np.arange(begin, begin + rows)
    columns: dict[str, Any] = {
        "order_id": numbers,
        "customer_id": rng.integers(0, 200_000, rows),
        "at": pa.array(1_767_225_600_000_000 + numbers * 1_000_000, pa.timestamp("us", "UTC")),
        "shop": pa.array(np.array(["north", "south", "east", "west"])[rng.integers(0, 4, rows)]),
        "amount": rng.gamma(2.0, 20.0, rows).round(2),
        "returned": rng.random(rows) < 0.1,
    }
    columns |= {f"feature_{place}": rng.normal(size=rows).astype(np.float32).astype(np.float64) for place in range(4)}
    return pa.table(columns)


def _run(folder: Path, files: dict[str, str], more: str, rows: int) -> list[Measured]:
    made: list[Measured] = []
    for who, subject in (("ours", OURS), ("alone", ALONE)):
        for kind, file in files.items():
            state = folder / f"{who}-{kind}"
            shutil.rmtree(state, ignore_errors=True)
            found = _work(who, "ingest", state, file)
            made.append((f"take in {rows:,} rows of {kind.upper()}", subject, "1/s", rows / found["seconds"]))
            made.append((f"take in {rows:,} rows of {kind.upper()}, memory", subject, "MB", found["memory"]))
        state = folder / f"{who}-parquet"
        made.append((f"take in {rows // 10:,} rows more", subject, "1/s", rows / 10 / _work(who, "append", state, more)["seconds"]))
        made.append(("read 3 columns of the newest version", subject, "s", _work(who, "read", state)["seconds"]))
        made.append(("read 3 columns of the first version", subject, "s", _work(who, "read first", state)["seconds"]))
        found = _work(who, "forget", state)
        made.append(("forget a person", subject, "s", found["seconds"]))
        made.append(("forget a person, memory", subject, "MB", found["memory"]))
    return made


def _work(who: str, what: str, folder: Path, file: str = "") -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(WORK), who, what, str(folder), file], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
