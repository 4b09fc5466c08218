"""Our features at work: joins, materialization and look-ups, as asked by lines of JSON. ``_feature_work.py DATA FOLDER ONLINE``."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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

    def floor(keys: list[int], calls: int) -> dict[str, Any]:
        return _floor(online, [f"kaizen:bench:on:{every[f'{name}_forever'].ref}:{key}".encode() for name in plan["online"] for key in keys], calls)

    print(json.dumps({"ready": True}), flush=True)
    work = {"join": join, "materialize": materialize, "look_up": look_up, "floor": floor}
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(work[asked.pop("do")](**asked)), flush=True)


def _floor(url: str, names: list[bytes], calls: int) -> dict[str, Any]:
    """Take the time below which nobody comes: the same values over a bare socket, parsed in C and not looked at; and redis-py's PING."""
    import hiredis
    import redis

    parts, reader = urlsplit(url), hiredis.Reader()
    message = b"".join([b"*%d\r\n" % (len(names) + 1), *(b"$%d\r\n%s\r\n" % (len(part), part) for part in (b"MGET", *names))])
    with socket.create_connection((parts.hostname or "", parts.port or 6379)) as bare, redis.Redis.from_url(url) as client:

        def fetch() -> list[bytes]:
            bare.sendall(message)
            while (answer := reader.gets()) is False:
                reader.feed(bare.recv(1 << 16))
            return list(answer)

        assert all(fetch()), "the store is filled before"
        return {"fetch": _median(fetch, calls), "ping": _median(client.ping, calls)}


def _median(call: Callable[[], object], calls: int) -> float:
    taken = []
    for _ in range(calls):
        begun = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[len(taken) // 2]


if __name__ == "__main__":
    main()
