"""Our features at work: joins, materialization and look-ups, as asked by lines of JSON. ``_feature_work.py DATA FOLDER ONLINE``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet

from kaizenml.data import operations as data
from kaizenml.features import operations
from kaizenml.features.offline import frame
from kaizenml.features.online.reading import look_up as read_online
from kaizenml.project import open_project

TOML = """
[project]
name = "bench"
{online}
[task]
dataset = "asked_{first}"
target = "late"
time = "at"
"""
VIEW = """
[features.{name}_{kind}]
dataset = "{name}"
entity = "customer"
columns = {columns}
at = "at"
{ttl}
"""


def main() -> None:
    given, folder, online = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    plan: dict[str, Any] = json.loads((given / "plan.json").read_text())
    toml = TOML.format(online="" if online == "sqlite" else f'online = "{online}"', first=plan["asked"][0])
    for name, view in plan["views"].items():
        for kind, ttl in (("ttl", f'ttl = "{view["ttl_s"]}s"'), ("forever", "")):
            toml += VIEW.format(name=name, kind=kind, columns=json.dumps(view["columns"]), ttl=ttl)
    folder.mkdir(parents=True)
    (folder / "kaizen.toml").write_text(toml, encoding="utf-8")
    ctx = open_project(folder, actor="bench")
    for name in plan["views"]:
        data.add(ctx, name, table=pyarrow.parquet.read_table(given / f"{name}.parquet"), time="at")
    for rows in plan["asked"]:
        data.add(ctx, f"asked_{rows}", table=pyarrow.parquet.read_table(given / f"asked_{rows}.parquet"), time="at")
    every = {view.name: view for view in frame.views(ctx)}

    def join(kind: str, rows: int) -> dict[str, Any]:
        views = [every[f"{name}_{kind}"] for name in plan["views"]]
        begun = time.perf_counter()
        found = frame.training_frame(ctx, f"asked_{rows}", views=views)
        seconds = time.perf_counter() - begun
        columns = [f"{name}_{kind}_{column}" for name, view in plan["views"].items() for column in view["columns"]]
        return {"seconds": seconds, "rows": found.num_rows, "sums": [pc.sum(found[column]).as_py() or 0.0 for column in columns]}

    def materialize() -> dict[str, Any]:
        begun = time.perf_counter()
        for name in plan["online"]:
            operations.materialize(ctx, f"{name}_forever", everything=True)
        return {"seconds": time.perf_counter() - begun}

    def look_up(keys: list[int], calls: int) -> dict[str, Any]:
        uses = frame.uses([every[f"{name}_forever"] for name in plan["online"]])
        rows, now, taken = [{"customer": key} for key in keys], ctx.clock.timestamp(), []
        found: Any = None
        for _ in range(calls):
            begun = time.perf_counter()
            found = read_online(ctx.online, uses, rows, now)
            taken.append(time.perf_counter() - begun)
        columns = [f"{name}_forever_{column}" for name in plan["online"] for column in plan["views"][name]["columns"]]
        return {"seconds": sorted(taken)[len(taken) // 2], "sums": [sum(row[column] or 0.0 for row in found) for column in columns]}

    print(json.dumps({"ready": True}), flush=True)
    work = {"join": join, "materialize": materialize, "look_up": look_up}
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(work[asked.pop("do")](**asked)), flush=True)


if __name__ == "__main__":
    main()
