"""A small shop, and the processes of its console."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.loop import operations as loop
from kaizenml.serving.client import Client

START = datetime(2026, 8, 1, tzinfo=UTC)
NOW = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 6
PER_DAY = 60
TOML = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
time = "ordered_at"
key = "id"
[train]
budget = "2s"
threads = 1
[fallback]
outside = 3.0
[loop]
min_new_rows = 100000
"""
VIEW = """
[features.plans]
dataset = "plans"
entity = "plan"
columns = ["fee", "seats"]
at = "since"
"""


@dataclass
class Shop:
    """An open project and its simulated clock; ``ask`` sends a day's orders to the serving process and their outcomes after."""

    ctx: Context
    clock: SimulatedClock
    client: Client

    def ask(self, rows: int = PER_DAY, seed: int = 0) -> None:
        table = orders(rows, np.random.default_rng(seed), self.clock.now(), prefix=f"n{seed}-")
        inputs = [
            {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items() if name not in ("returned", "id")}
            for row in table.to_pylist()
        ]
        answers = self.client.predict("shop", inputs, unit=f"u{seed}")["predictions"]
        truths = table["returned"].to_pylist()
        self.client.outcomes("shop", [{"id": answer["id"], "value": truth} for answer, truth in zip(answers, truths, strict=True)])

    def watch(self) -> None:
        loop.tick(self.ctx)


def orders(rows: int, rng: np.random.Generator, until: datetime, *, prefix: str = "o", step: timedelta = timedelta(seconds=7)) -> pa.Table:
    """Orders, the newest just before ``until``; every third column matters for whether they come back."""
    price = rng.gamma(2, 30, rows).round(2)
    plan = rng.choice(["basic", "plus", "pro"], rows, p=[0.6, 0.3, 0.1])
    age = rng.integers(18, 80, rows)
    odds = -1.2 + 0.06 * (price - 60) + np.where(plan == "basic", 1.2, -1.2)
    times = [until - step * (rows - i) for i in range(rows)]
    return pa.table(
        {
            "id": [f"{prefix}{i}" for i in range(rows)], "ordered_at": pa.array(times, pa.timestamp("us", "UTC")), "price": price, "plan": plan,
            "age": age, "member": rng.random(rows) < 0.4, "returned": rng.random(rows) < 1 / (1 + np.exp(-odds)),
        }
    )  # fmt: skip


def start(module: str, *arguments: str, clock: SimulatedClock | None = None, **environ: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """Start a part of kaizenml as a process of its own and wait until it listens."""
    variables = {**os.environ, **({"KAIZEN_CLOCK": str(clock.path)} if clock else {}), **environ}
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], env=variables, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{module} ended with {process.wait(10)}"
    return process, msgspec.json.decode(line)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)
    assert process.stdout is not None
    process.stdout.close()


