"""Feast at work: joins, materialization and look-ups, as asked by lines of JSON. ``feast_work.py DATA FOLDER OFFLINE ONLINE``."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

data, folder, offline, online = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
PLAN = json.loads((data / "plan.json").read_text())
folder.mkdir(parents=True)
store_of = {"sqlite": f"path: {folder / 'online.db'}", "redis": f"type: redis\n    connection_string: {online.partition(':')[2]}"}
(folder / "feature_store.yaml").write_text(
    f"""project: bench
registry: {folder / "registry.db"}
provider: local
offline_store:
    type: {offline}
online_store:
    {store_of[online.partition(":")[0]]}
entity_key_serialization_version: 3
"""
)
store = FeatureStore(repo_path=str(folder))
customer = Entity(name="customer", join_keys=["customer"], value_type=ValueType.INT64)
views = {}
for name, view in PLAN["views"].items():
    for kind, ttl in (("ttl", timedelta(seconds=view["ttl_s"])), ("forever", timedelta(0))):
        source = FileSource(name=f"{name}_{kind}_source", path=str(data / f"{name}.parquet"), timestamp_field="at")
        schema = [Field(name=column, dtype=Float64) for column in view["columns"]]
        views[name, kind] = FeatureView(name=f"{name}_{kind}", entities=[customer], ttl=ttl, schema=schema, source=source)
store.apply([customer, *views.values()])


def features(kind: str, names: list[str]) -> list[str]:
    return [f"{name}_{kind}:{column}" for name in names for column in PLAN["views"][name]["columns"]]


def join(kind: str, rows: int) -> dict:
    asked = pa.parquet.read_table(data / f"asked_{rows}.parquet").to_pandas().rename(columns={"at": "event_timestamp"})
    begun = time.perf_counter()
    found = store.get_historical_features(entity_df=asked, features=features(kind, list(PLAN["views"]))).to_arrow()
    seconds = time.perf_counter() - begun
    columns = [column for view in PLAN["views"].values() for column in view["columns"]]
    return {"seconds": seconds, "rows": found.num_rows, "sums": [pc.sum(found[column]).as_py() or 0.0 for column in columns]}


def materialize() -> dict:
    begun = time.perf_counter()
    start, end = (datetime.fromtimestamp(PLAN[edge], UTC) for edge in ("first", "last"))
    store.materialize(start, end, feature_views=[views[name, "forever"].name for name in PLAN["online"]])
    return {"seconds": time.perf_counter() - begun}


def look_up(keys: list[int], calls: int) -> dict:
    names, taken = features("forever", PLAN["online"]), []
    rows = [{"customer": key} for key in keys]
    for _ in range(calls):
        begun = time.perf_counter()
        found = store.get_online_features(features=names, entity_rows=rows).to_dict()
        taken.append(time.perf_counter() - begun)
    columns = [column for name in PLAN["online"] for column in PLAN["views"][name]["columns"]]
    return {"seconds": sorted(taken)[len(taken) // 2], "sums": [sum(value or 0.0 for value in found[column]) for column in columns]}


print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps({"join": join, "materialize": materialize, "look_up": look_up}[asked.pop("do")](**asked)), flush=True)
