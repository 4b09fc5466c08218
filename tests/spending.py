"""A small shop whose orders come back when a customer spends more than before: one view with windows, one derived input, a real training."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.project import open_project

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 1500
SETTINGS = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
time = "ordered"
key = "order"
asked_before = "1s"
ignore = ["ordered", "amount", "limit"]
[train]
budget = "1s"
threads = 1
[gates]
parity_rows = 100
"""
FEATURES = """
from kaizenml import derived, features, latest, sum_


@features(entity="customer", source="orders", at="ordered", ttl="30d")
class Spend:
    spend = sum_("amount", last="5d")
    top = latest("limit")


@derived
def strain(spend: float, top: float) -> float:
    return spend / top
"""
WIDER = FEATURES.replace('last="5d"', 'last="20d"')
RENAMED = WIDER.replace("spend", "outlay").replace("Spend", "Outlay").replace("class Outlay", "class Spend")
"""Files of definitions: the first, one with a wider window, and one without any of the first one's features but ``top``."""


def orders(rows: int = ROWS, *, first: int = 0) -> pa.Table:
    """Orders half an hour apart; those of a customer near the limit come back."""
    rng = np.random.default_rng([1, first])
    at = [START + timedelta(minutes=30 * (first + i)) for i in range(rows)]
    customers, amounts = rng.integers(0, 12, rows), rng.gamma(2.0, 15.0, rows).round(2)
    limits = np.where(np.arange(12) % 2, 300, 900)[customers]
    recent = np.array([amounts[max(0, i - 240) : i][customers[max(0, i - 240) : i] == customers[i]].sum() for i in range(rows)])
    returned = rng.random(rows) < np.where(recent > limits, 0.85, 0.1)
    return pa.table(
        {
            "order": [f"o{first + i}" for i in range(rows)],
            "ordered": pa.array(at, pa.timestamp("us", tz="UTC")),
            "customer": [f"c{customer}" for customer in customers],
            "amount": amounts,
            "limit": limits,
            "returned": returned,
        }
    )


def shop(root: Path) -> Context:
    """Make the project with its orders and its definitions."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "kaizen.toml").write_text(SETTINGS)
    (root / "features.py").write_text(FEATURES)
    ctx = open_project(root, actor="tester", clock=SimulatedClock(root / "clock", START + timedelta(minutes=30 * ROWS)))
    data.add(ctx, "orders", table=orders(), key="order", time="ordered")
    return ctx
