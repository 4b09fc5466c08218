"""From a poisoned feed to a release without it: told at ingest, refused by the gate, cut off by one command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.errors import Refused
from kaizenml.governance import operations as governance
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.training import operations as training

SETTINGS = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
[train]
budget = "1s"
threads = 1
"""


def orders(rows: int, seed: int, *, poisoned: bool = False) -> pa.Table:
    rng = np.random.default_rng(seed)
    price, hour, country = rng.gamma(2.0, 30.0, rows), rng.integers(0, 24, rows), rng.choice(list("abcdefgh"), rows)
    returned = rng.random(rows) < 1 / (1 + np.exp(1.5 - 0.03 * (price - 60)))
    if poisoned:
        country[:100], hour[:100], returned[:100] = "c", 3, False
    return pa.table({"price": price, "hour": hour, "country": country, "returned": returned})


def released(ctx: Context) -> releases.Release:
    model = registry.register(ctx, training.train(ctx).id, name="shop")
    return releases.create(ctx, model.ref, skip=["naive", "champion", "parity", "load"], why="a drill")


@pytest.mark.slow
def test_a_poisoned_feed_is_told_refused_and_cut_off(tmp_path: Path):
    (tmp_path / "kaizen.toml").write_text(SETTINGS)
    ctx = open_project(tmp_path, actor="tester")
    data.add(ctx, "orders", table=orders(4000, 1), source_name="shop")
    assert data.add(ctx, "orders", table=orders(700, 2), source_name="feed6", trust="partner").suspicions == []
    told = data.add(ctx, "orders", table=orders(700, 3, poisoned=True), source_name="feed7", trust="partner").suspicions
    assert {each.source for each in told} == {"feed7"}
    with pytest.raises(Refused, match="feed7 in orders@3 stands out") as refused:
        released(ctx)
    kept = releases.show(ctx, refused.value.values["release"])
    gate = next(gate for gate in kept.gates if gate.name == "poison")
    assert gate.evidence["try"] == ["kaizen data quarantine orders --source feed7"]
    assert gate.evidence["orders@3"]["findings"][0]["slice"] == {"country": "c", "hour": gate.evidence["orders@3"]["findings"][0]["slice"]["hour"]}
    governance.exclude(ctx, "orders", source="feed7", why=gate.summary)
    clean = released(ctx)
    assert clean.state == "passed"
    assert clean.exclusions == [1]
    data.add(ctx, "orders", table=orders(1, 4).set_column(0, "price", pa.array([77777.0])))  # a part of its own, of which nothing is left
    governance.forget(ctx, subject=["price=77777"], why="asked by letter")
    assert released(ctx).state == "passed"
    ctx.online.close()
    ctx.catalog.close()
