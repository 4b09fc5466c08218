"""A small project in production: trained, gated, deployed, served by a real process, with answers and outcomes."""

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
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.client import Client
from kaizenml.training import operations as training

START = datetime(2026, 1, 1, tzinfo=UTC)
ENDPOINT = "shop"
SETTINGS = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
time = "ordered_at"
key = "order_id"
[train]
budget = "1s"
threads = 1
max_rows = 1500
[gates]
rate = 30
p99_ms = 2000
load_seconds = 0.5
parity_rows = 100
[loop]
min_new_rows = 300
cooldown = "1h"
canary_weight = 0.3
"""


def orders(rows: int, *, first: int = 0, flipped: bool = False, seed: int = 0) -> pa.Table:
    """Orders whose return depends on price and channel; ``flipped`` turns the dependence round."""
    rng = np.random.default_rng([seed, first])
    price, discount = rng.gamma(2.0, 30.0, rows), rng.random(rows)
    channel = rng.choice(["web", "app", "shop"], rows)
    logit = 0.03 * (price - 60) + 1.5 * (channel == "web") - 1.0
    returned = rng.random(rows) < 1 / (1 + np.exp(logit if flipped else -logit))
    at = [START + timedelta(minutes=first + i) for i in range(rows)]
    return pa.table(
        {
            "order_id": [f"o{first + i}" for i in range(rows)],
            "ordered_at": pa.array(at, pa.timestamp("us", tz="UTC")),
            "price": price,
            "discount": discount,
            "channel": channel,
            "returned": returned,
        }
    )


def make(root: Path) -> Context:
    """Make the project and bring its first release to the endpoint."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "kaizen.toml").write_text(SETTINGS)
    clock = SimulatedClock(root / ".kaizen" / "clock", START + timedelta(days=3))
    ctx = open_project(root, actor="tester", clock=clock)
    data.add(ctx, "orders", table=orders(3000), key="order_id", time="ordered_at")
    model = registry.register(ctx, training.train(ctx).id, name=ENDPOINT)
    release = releases.create(ctx, model.ref, why="first")
    rollouts.deploy(ctx, ENDPOINT, release.ref, why="first")
    return ctx


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


def live(ctx: Context, client: Client, rows: int, *, first: int, flipped: bool = False) -> list[str]:
    """Ask about ``rows`` orders and tell what became of them; return the predictions' ids."""
    clock = ctx.clock
    assert isinstance(clock, SimulatedClock)
    table = orders(rows, first=first, flipped=flipped)
    ids: list[str] = []
    asked = table.drop_columns(["returned"]).to_pylist()
    for row in asked:
        row["ordered_at"] = row["ordered_at"].isoformat()
    truth = table["returned"].to_pylist()
    for low in range(0, rows, 20):
        clock.advance(timedelta(hours=2))
        answer: dict[str, Any] = client.predict(ENDPOINT, asked[low : low + 20])
        fresh = [prediction["id"] for prediction in answer["predictions"]]
        client.outcomes(ENDPOINT, [{"id": i, "value": v} for i, v in zip(fresh, truth[low : low + 20], strict=True)])
        ids += fresh
    return ids
