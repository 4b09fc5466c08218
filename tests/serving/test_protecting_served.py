"""What features are looked up by becomes pseudonyms while a release answers that was made before: it goes on answering with its features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from in_process import running

from kaizenml.data import operations as data
from kaizenml.errors import Unavailable
from kaizenml.features import operations as features
from kaizenml.governance import operations as governance
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts import publishing, snapshot
from kaizenml.training import operations as training

SETTINGS = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
ignore = ["customer_id"]
[features.people]
dataset = "people"
entity = "customer_id"
columns = ["loyalty"]
[train]
budget = "1s"
threads = 1
"""
CUSTOMERS = [f"c-{4815162 + n}" for n in range(40)]


def journal(state: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in (state / "journal").rglob("*") if file.is_file()}


@pytest.mark.slow
def test_a_release_of_before_finds_its_features_by_the_raw_key_and_keeps_no_raw_key_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kaizen.toml").write_text(SETTINGS)
    rng = np.random.default_rng(1)
    loyalty, who = rng.random(40), rng.integers(0, 40, 600)
    ctx = open_project(tmp_path, actor="tester")
    data.add(ctx, "people", table=pa.table({"customer_id": CUSTOMERS, "loyalty": loyalty}))
    returned = rng.random(600) < np.where(loyalty[who] > 0.5, 0.9, 0.1)
    data.add(ctx, "orders", table=pa.table({"customer_id": [CUSTOMERS[n] for n in who], "price": rng.random(600), "returned": returned}))
    features.materialize(ctx, "people")
    model = registry.register(ctx, training.train(ctx).id, name="shop")
    rollouts.deploy(ctx, "shop", releases.create(ctx, model.ref, skip=["naive", "champion", "load"], why="a test").ref)
    asked = {"inputs": [{"customer_id": each, "price": 0.5} for each in CUSTOMERS]}
    with running(ctx.state) as ask:
        before = [each["probabilities"] for each in ask("POST", "/predict/shop", asked).document["predictions"]]
        governance.protect(ctx, "people", column="customer_id", decision="pseudonym", why="it only joins")
        features.materialize(ctx, "people", everything=True)
        route = publishing.publish(ctx).endpoints["shop"]
        assert route.hidden == ["customer_id"]
    kept = journal(ctx.state)
    assert CUSTOMERS[3].encode() in b"".join(kept.values())
    with running(ctx.state) as ask:
        after = [each["probabilities"] for each in ask("POST", "/predict/shop", asked).document["predictions"]]
    assert after == before
    fresh = b"".join(held for file, held in journal(ctx.state).items() if file not in kept)
    assert len(fresh) > 1000
    assert b"c-48151" not in fresh
    assert len({str(each) for each in before}) > 10, "features tell customers apart"

    def away(*_: object) -> None:
        raise Unavailable("the tables cannot be reached", remedy="wait")

    monkeypatch.setattr(features, "hidden_entities", away)
    rollouts.kill(ctx, "shop", why="a drill")
    killed = snapshot.read(ctx.state / "serving" / snapshot.FILE).endpoints["shop"]
    assert killed.killed == "a drill"
    assert (killed.hidden, killed.key_print) == (route.hidden, route.key_print)
    ctx.online.close()
    ctx.catalog.close()
