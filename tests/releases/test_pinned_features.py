"""Definitions change between training and release, and after: what belongs to a model goes by the features that it pins."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.errors import RecipeOutdated
from kaizenml.features.offline import frame
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.training import model_file
from kaizenml.training import operations as training
from spending import RENAMED, ROWS, WIDER, orders, shop

CHEAP = {"skip": ["load", "naive"], "why": "these are about the model"}


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    ctx = shop(tmp_path_factory.mktemp("pinned") / "shop")
    registry.register(ctx, training.train(ctx, run_id="first").id)
    data.add(ctx, "orders", table=orders(600, first=ROWS), mode="append", partial=True)
    yield ctx
    ctx.online.close()
    ctx.catalog.close()


@pytest.mark.parametrize("features", [WIDER, RENAMED, "def broken(:\n", None], ids=["wider", "renamed", "broken", "gone"])
def test_a_release_is_made_and_judged_by_the_features_its_model_learnt(ctx: Context, features: str | None) -> None:
    before = releases.create(ctx, "shop@1", **CHEAP)
    kept = (ctx.root / "features.py").read_text()
    if features is None:
        (ctx.root / "features.py").unlink()
    else:
        (ctx.root / "features.py").write_text(features)
    try:
        after = releases.create(ctx, "shop@1", **CHEAP)
    finally:
        (ctx.root / "features.py").write_text(kept)
    assert after.state == "passed"
    assert after.pins == before.pins
    assert after.hash == before.hash  # the example row, too, holds what the model would have been asked
    for name in ("example.json", "model/model.json"):
        assert (ctx.state / after.bundle / name).read_bytes() == (ctx.state / before.bundle / name).read_bytes()


def test_the_example_of_a_release_leaves_features_to_the_online_store(ctx: Context) -> None:
    made = releases.create(ctx, "shop@1", **CHEAP)
    rows = json.loads((ctx.state / made.bundle / "example.json").read_text())
    assert [sorted(row) for row in rows] == [["customer", "order", "ordered"]] * 3
    assert "strain" not in (ctx.state / made.bundle / "card.md").read_text().partition('{"inputs"')[2].partition("\n")[0]


def test_the_frame_of_a_model_is_that_of_its_training(ctx: Context) -> None:
    signature = model_file.read(registry.folder_of(ctx, registry.show(ctx, "shop@1"))).signature
    learnt = frame.training_frame(ctx, "orders@1", recorded=False)
    kept = (ctx.root / "features.py").read_text()
    (ctx.root / "features.py").write_text(WIDER)
    try:
        again, todays = frame.frame_of(ctx, signature, "orders@1"), frame.training_frame(ctx, "orders@1", recorded=False)
    finally:
        (ctx.root / "features.py").write_text(kept)
    assert again.select(learnt.column_names).equals(learnt)
    assert not todays["spend"].equals(learnt["spend"])


def test_a_refit_learns_todays_definitions_pins_them_and_is_judged_beside_a_champion_that_reads_its_own(ctx: Context) -> None:
    first = training.show(ctx, "first")
    folder = ctx.state / first.folder
    same = training.train(ctx, refit="first", champion_folder=folder, run_id="same")
    kept = (ctx.root / "features.py").read_text()
    (ctx.root / "features.py").write_text(WIDER)
    try:
        wider = training.train(ctx, refit="first", champion_folder=folder, run_id="wider")
    finally:
        (ctx.root / "features.py").write_text(kept)
    judged = [next(row.metrics for row in run.board if row.name == "champion") for run in (same, wider)]
    assert judged[0]
    assert judged[1] == judged[0]  # the same rows, asked of the same model by the same features
    assert same.views == first.views
    assert {ref.partition(".")[0] for ref in wider.views} == {ref.partition(".")[0] for ref in first.views}
    assert not set(wider.views) & set(first.views)
    assert [use.ref for use in model_file.read(ctx.state / wider.folder).signature.views] == [ref for ref in wider.views if ref.startswith("spend.")]


def test_a_recipe_whose_input_is_gone_says_so(ctx: Context) -> None:
    kept = (ctx.root / "features.py").read_text()
    (ctx.root / "features.py").write_text(RENAMED)
    try:
        with pytest.raises(RecipeOutdated, match=r"gives the input 's[a-z]+' of the recipe any more"):
            training.train(ctx, refit="first")
    finally:
        (ctx.root / "features.py").write_text(kept)
