"""A shop in which everything is used, and one customer whom nothing may remember."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.features import operations as features
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.client import Client
from kaizenml.training import operations as training

START = datetime(2026, 1, 1, tzinfo=UTC)
WHO, TOWN, BASKET = 48151623, "Quastenberg", "zenobia-set"
ORDERS = ("z-order-9000001", "z-order-9000002", "z-order-9000003")
SUBJECT = f"customer_id={WHO}"
SETTINGS = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
time = "ordered_at"
key = "order_id"
unit = "customer_id"
[features.people]
dataset = "customers"
entity = "customer_id"
columns = ["town", "visits"]
at = "seen_at"
[features.channels]
dataset = "orders"
entity = "channel"
columns = ["basket"]
at = "ordered_at"
[train]
budget = "1s"
threads = 1
[gates]
rate = 30
p99_ms = 2000
load_seconds = 0.3
parity_rows = 50
"""


def orders(rows: int, *, first: int = 0, theirs: tuple[str, ...] = ()) -> pa.Table:
    """Orders of forty customers; the last ones are the one customer's."""
    rng = np.random.default_rng([7, first])
    price, channel = rng.gamma(2.0, 30.0, rows), rng.choice(["web", "app", "store"], rows)
    who = rng.integers(10_000_000, 10_000_040, rows)
    own = slice(rows - len(theirs), rows)
    who[own] = WHO
    place = np.where(who == WHO, TOWN, np.char.add("Town", (who % 5).astype(str)))
    returned = rng.random(rows) < 1 / (1 + np.exp(-(0.03 * (price - 60) + 1.5 * (channel == "web") - 1.0)))
    names = [f"o{first + n}" for n in range(rows - len(theirs))] + list(theirs)
    return pa.table(
        {
            "order_id": names,
            "customer_id": who,
            "ordered_at": pa.array([START + timedelta(minutes=first + n) for n in range(rows)], pa.timestamp("us", tz="UTC")),
            "price": price,
            "channel": channel,
            "place": place,
            "basket": np.where(who == WHO, BASKET, "plain"),
            "returned": returned,
        }
    )


def customers(*, later: int = 0) -> pa.Table:
    who = [*range(10_000_000, 10_000_040), WHO]
    seen = [START + timedelta(days=later, minutes=n) for n in range(len(who))]
    towns = [f"Town{n % 5}" for n in who[:-1]] + [TOWN]
    return pa.table({"customer_id": who, "town": towns, "visits": [n % 7 for n in who], "seen_at": pa.array(seen, pa.timestamp("us", tz="UTC"))})


def make(root: Path) -> Context:
    """Add data (twice, with bad rows), push, materialise, train, release and deploy."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "kaizen.toml").write_text(SETTINGS, encoding="utf-8")
    ctx = opened(root)
    data.add(ctx, "customers", table=customers(), time="seen_at")
    data.add(ctx, "orders", table=orders(900, theirs=ORDERS[:1]), key="order_id", time="ordered_at")
    data.add(ctx, "orders", table=orders(300, first=900, theirs=ORDERS[1:2]))
    bad = orders(10, first=1200, theirs=("z-bad",))
    data.add(ctx, "orders", table=bad.set_column(2, "ordered_at", pa.array([*bad["ordered_at"].to_pylist()[:-1], None], bad["ordered_at"].type)))
    data.add(ctx, "orders", table=orders(30, first=1220, theirs=ORDERS[2:]))  # the newest of its channel
    for name in ("people", "channels"):
        features.materialize(ctx, name)
    features.push(ctx, "people", [{"customer_id": who, "town": town, "visits": 3, "seen_at": "2026-02-01T00:00:00Z"} for who, town in pushed()])
    model = registry.register(ctx, training.train(ctx).id, name="shop")
    rollouts.deploy(ctx, "shop", releases.create(ctx, model.ref, why="first").ref, why="first")
    return ctx


def pushed() -> list[tuple[int, str]]:
    return [(WHO, TOWN), (10_000_001, "Town1")]


def opened(root: Path) -> Context:
    clock = SimulatedClock(root / ".kaizen" / "clock", START + timedelta(days=40))
    return open_project(root, actor="tester", clock=clock)


def ask(ctx: Context, client: Client, *, tell: bool = True) -> list[str]:
    """Ask about the customer by row and by key, and about others; return the ids of all answers."""
    rows: list[dict[str, Any]] = orders(12, first=2000, theirs=("z-asked-1", ORDERS[1])).drop_columns(["returned"]).to_pylist()
    for row in rows:
        row["ordered_at"] = row["ordered_at"].isoformat()
    ids = [each["id"] for each in client.predict("shop", rows)["predictions"]]
    bare = {name: value for name, value in rows[0].items() if name != "order_id"} | {"customer_id": None}
    ids += [each["id"] for each in client.predict("shop", [bare | {"customer_id": WHO}])["predictions"]]
    ids += [each["id"] for each in client.predict("shop", [bare], unit=str(WHO))["predictions"]]
    ids += [each["id"] for each in client.predict("shop", [bare | {"order_id": ORDERS[0]}])["predictions"]]
    if tell:
        client.outcomes("shop", [{"id": identity, "value": True} for identity in ids])
    return ids


@contextmanager
def served(ctx: Context) -> Iterator[Client]:
    """Run the serving engine as a process of its own."""
    command = [sys.executable, "-m", "kaizenml.serving", "--state", str(ctx.state), "--port", "0", "--workers", "1"]
    environment = {**os.environ, "KAIZEN_CLOCK": str(ctx.state / "clock")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            with Client(f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}") as client:
                yield client
        finally:
            process.terminate()
            process.wait(20)
