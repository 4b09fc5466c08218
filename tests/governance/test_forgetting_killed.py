"""Killed at any moment, a forgetting leaves every version readable, and the next one ends it."""

from __future__ import annotations

import shutil
from pathlib import Path

import every_byte
import numpy as np
import pyarrow.compute as pc
import pytest
import whole_shop as shop

from forked import forked
from kaizenml import audit
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.governance import operations as governance
from kaizenml.governance.forgetting import certificate
from kaizenml.governance.forgetting import wish as wishes
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.serving import operations as serving
from made_once import made_once

IMPORTS = """
import sys
import pyarrow.dataset, pyarrow.parquet
from kaizenml.clock import SimulatedClock
from kaizenml.governance import operations as governance
from kaizenml.project import open_project
"""
WORK = f"""
ctx = open_project(sys.argv[1], actor="tester", clock=SimulatedClock(sys.argv[1] + "/.kaizen/clock"))
governance.forget(ctx, subject=["{shop.SUBJECT}"], why="asked")
"""
KILLS = 14


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop with answers and outcomes, most of them still in the journal."""

    def fill(root: Path) -> None:
        ctx = shop.make(root)
        with shop.served(ctx) as client:
            shop.ask(ctx, client)
            serving.drain(ctx)
            shop.ask(ctx, client)
        ctx.online.close()
        ctx.catalog.close()

    return made_once(tmp_path_factory, "killed-shop", fill)


@pytest.mark.slow
def test_whoever_is_killed_is_followed_by_one_that_ends_the_work(made: Path, tmp_path: Path):
    root = tmp_path / "shop"
    shutil.copytree(made, root)
    ctx = shop.opened(root)
    versions = data.versions(ctx, "orders")
    others = {each.ref: tables.read(ctx, each.ref).filter(pc.field("customer_id") != shop.WHO) for each in versions}
    rng = np.random.default_rng(0)
    killed = 0
    with forked(IMPORTS, WORK, str(root)) as worker:
        for pause in rng.permutation(np.linspace(0.05, 1.2, KILLS)):
            worker.start()
            if worker.wait(float(pause)) is not None:
                break
            worker.kill()
            killed += 1
            for ref, rows in others.items():
                assert tables.read(ctx, ref).filter(pc.field("customer_id") != shop.WHO).equals(rows)
            assert releases.show(ctx, "shop@1").state == "passed"
    done = governance.forget(ctx, subject=[shop.SUBJECT], why="asked") if wishes.unfinished(ctx.state) else governance.forgotten(ctx)[0]
    assert killed
    assert done.number == 1
    gone = {"rows of orders": 3, "rows of customers": 1, "quarantine of orders": 1, "predictions of shop": 10, "outcomes": 10}
    assert {name: done.removed[name] for name in gone} == gone
    assert [each.release for each in done.learnt] == ["shop@1"]
    assert every_byte.found(root, shop.TOWN, shop.BASKET, *shop.ORDERS, numbers=(shop.WHO,)) == []
    assert wishes.unfinished(ctx.state) == []
    for ref, rows in others.items():
        assert tables.read(ctx, ref).equals(rows)
        data.verify(ctx, ref)
    releases.verify(ctx, "shop@1")
    registry.verify(ctx, "shop@1")
    audit.verify(ctx)
    assert len(audit.list(ctx, kind="data.forgotten")) == 1
    assert [each.number for each in certificate.every(ctx.state)] == [1]
    ctx.online.close()
    ctx.catalog.close()
