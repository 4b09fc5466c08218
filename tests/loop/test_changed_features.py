"""A definition changes under a served release: what it reads goes on, the loop learns what is defined now, and nothing mixes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from live_project import served

from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import tables
from kaizenml.features import operations as features
from kaizenml.loop import operations as loop
from kaizenml.monitoring import reference
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving.client import Client
from kaizenml.training import model_file
from kaizenml.training import operations as training
from spending import RENAMED, WIDER, shop


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    """The shop with its first release at work, and its features online."""
    ctx = shop(tmp_path / "shop")
    model = registry.register(ctx, training.train(ctx, run_id="first").id)
    features.materialize(ctx, "spend")
    rollouts.deploy(ctx, "shop", releases.create(ctx, model.ref, skip=["load", "naive"], why="a test").ref)
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


def define(ctx: Context, text: str) -> None:
    (ctx.root / "features.py").write_text(text)


def use_of(ctx: Context, release: str) -> list[str]:
    return [use.ref for use in reference.signature_of(ctx, release).views]


def push(ctx: Context, to: Client | None, number: int, amount: float) -> None:
    """Push an order of one moment ago."""
    at = (ctx.clock.now() - timedelta(seconds=1)).isoformat()
    row = {"order": f"p{number}", "customer": "c1", "ordered": at, "amount": amount, "limit": 300}
    if to is None:
        features.push(ctx, "spend", [row])
    else:
        to.push("spend", [row])


def test_pushes_reach_the_version_that_is_served_beside_the_one_of_now(ctx: Context) -> None:
    (old,) = use_of(ctx, "shop@1")
    name = old.replace(".", "@")
    push(ctx, None, 0, 1000.0)  # waits under the old version while the definition changes
    define(ctx, WIDER)
    features.materialize(ctx, "spend")
    assert tables.version(ctx, "orders").rows == 1501  # nothing that waited is lost
    first = [features.get(ctx, each, "c1").values["spend"] for each in (name, "spend")]
    assert first[0] < first[1]
    push(ctx, None, 1, 100.0)
    with served(ctx) as client:
        push(ctx, client, 2, 10.0)
        answer = client.predict("shop", [{"customer": "c1"}])
        assert answer["predictions"][0]["decided_by"] == "model"
    then = [features.get(ctx, each, "c1").values["spend"] for each in (name, "spend")]
    assert [now - before for before, now in zip(first, then, strict=True)] == pytest.approx([110.0, 110.0])
    assert features.check(ctx, "spend").same
    assert features.check(ctx, name).same
    assert tables.version(ctx, "orders").rows == 1503  # each row once
    training.train(ctx, refit="first", run_id="second")
    after = releases.create(ctx, registry.register(ctx, "second").ref, skip=["load", "naive"], why="a test")
    rollouts.deploy(ctx, "shop", after.ref)
    push(ctx, None, 3, 1.0)
    assert features.get(ctx, name, "c1").values["spend"] - then[0] == pytest.approx(1.0)  # where a rollback would go
    rollouts.deploy(ctx, "shop", releases.create(ctx, "shop@2", skip=["load", "naive"], why="a test").ref)
    push(ctx, None, 4, 5.0)
    assert features.get(ctx, name, "c1").values["spend"] - then[0] == pytest.approx(1.0)  # nobody reads it any more
    assert features.get(ctx, "spend", "c1").values["spend"] - then[1] == pytest.approx(6.0)


def test_a_reference_that_is_made_again_is_the_one_that_was(ctx: Context) -> None:
    before = reference.of(ctx, "shop@1")
    define(ctx, WIDER)
    reference.path_of(ctx, "shop@1").unlink()
    assert reference.of(ctx, "shop@1") == before
    define(ctx, RENAMED)
    assert reference.make(ctx, "shop@1") == before


@pytest.mark.slow
def test_the_loop_refits_with_todays_definitions(ctx: Context) -> None:
    define(ctx, WIDER)
    done = loop.improve(ctx, until="release", why="asked")
    assert not done.search
    assert training.show(ctx, str(done.run)).parameters["refit_of"] == "first"
    signature = model_file.read(ctx.state / training.show(ctx, str(done.run)).folder).signature
    assert [use.ref for use in signature.views] != use_of(ctx, "shop@1")
    assert [use.ref for use in signature.views] == [features.show(ctx, "spend").ref]


@pytest.mark.slow
def test_the_loop_searches_anew_where_an_input_of_the_recipe_is_gone_and_labelled_rows_bring_no_features(ctx: Context) -> None:
    clock = ctx.clock
    assert isinstance(clock, SimulatedClock)
    with served(ctx) as client:
        answer = client.predict("shop", [{"customer": f"c{number}"} for number in range(12)])
        client.outcomes("shop", [{"id": each["id"], "value": True} for each in answer["predictions"]])
        clock.advance(timedelta(hours=2))
    define(ctx, RENAMED)
    done = loop.improve(ctx, until="release", why="asked")
    assert done.search
    assert "asked; a new recipe was searched for: neither orders@2 nor a feature gives the input 's" in done.why
    assert training.show(ctx, str(done.run)).parameters["refit_of"] is None
    version = tables.version(ctx, "orders")
    assert version.rows == 1512
    assert set(version.columns) == {"order", "ordered", "customer", "amount", "limit", "returned"}
