"""One piece of work on a dataset in a process of its own; says in JSON how long it took and how much memory. ``_data_work.py WHAT FOLDER FILE``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
from deltalake import DeltaTable, write_deltalake

from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.governance import operations as governance
from kaizenml.project import open_project

NAME, COLUMNS = "orders", ["customer_id", "amount", "shop"]


def ours(what: str, folder: Path, file: str) -> Callable[[], Any]:
    """Return the work as our project does it."""
    folder.mkdir(exist_ok=True)
    if not (folder / "kaizen.toml").exists():
        (folder / "kaizen.toml").write_text('[project]\nname = "bench"\n', encoding="utf-8")
    ctx = open_project(folder, actor="bench")
    return {
        "ingest": lambda: data.add(ctx, NAME, file, key="order_id", time="at").rows,
        "append": lambda: data.add(ctx, NAME, file).rows,
        "read": lambda: tables.read(ctx, NAME, COLUMNS).num_rows,
        "read first": lambda: tables.read(ctx, f"{NAME}@1", COLUMNS).num_rows,
        "forget": lambda: governance.forget(ctx, subject=["customer_id=7"], why="asked for"),
    }[what]


def alone(what: str, folder: Path, file: str) -> Callable[[], Any]:
    """Return the work as deltalake does it: no contract, no quarantine, no keys, no hash, no profile."""

    def write(mode: str) -> int:
        path = Path(file)
        if path.suffix == ".csv":
            rows: pa.RecordBatchReader = pyarrow.csv.open_csv(path)
        else:
            rows = pyarrow.dataset.dataset(path).scanner().to_reader()
        write_deltalake(folder, rows, mode=mode)
        return 0

    def forget() -> int:
        table = DeltaTable(folder)
        table.delete("customer_id = 7")
        table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
        return 0

    def read(version: int | None) -> int:
        found: pa.Table = pa.table(DeltaTable(folder, version=version).to_pyarrow_table(columns=COLUMNS))
        return found.num_rows

    return {
        "ingest": lambda: write("overwrite"), "append": lambda: write("append"), "read": lambda: read(None), "read first": lambda: read(0),
        "forget": forget,
    }[what]  # fmt: skip


def main() -> None:
    who, what, folder, file = sys.argv[1:]
    work = {"ours": ours, "alone": alone}[who](what, Path(folder), file)
    pc.sum(pa.array([1]))
    begun = time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    peak = next(line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "memory": int(peak.split()[1]) / 1024}), flush=True)
    os._exit(0)  # Arrow's threads may still hold files of deltalake's Python class, and abort an interpreter that ends meanwhile


if __name__ == "__main__":
    main()
