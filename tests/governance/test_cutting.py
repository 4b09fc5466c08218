"""A source is cut off: its blast radius is shown whole, endpoints go back, online values are made again, and all of it can be taken back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kaizenml import events
from kaizenml.clock import SimulatedClock
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.errors import NotFound, UsageError
from kaizenml.features import operations as features
from kaizenml.features.online.buffer import buffer_of
from kaizenml.governance import lineage
from kaizenml.governance import operations as governance
from kaizenml.governance.cutting_off import picture
from kaizenml.project import open_project
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.training import operations as training
from made_once import made_once

START = datetime(2026, 10, 1, tzinfo=UTC)
SETTINGS = """
[project]
name = "shop"
[task]
dataset = "orders"
target = "returned"
time = "at"
[features.stock]
dataset = "stocks"
entity = "sku"
columns = ["left"]
at = "at"
[train]
budget = "1s"
threads = 1
"""
SKIP = ["naive", "champion", "load"]


def orders(first: int, rows: int) -> pa.Table:
    rng = np.random.default_rng(first)
    price = rng.gamma(2.0, 30.0, rows)
    return pa.table(
        {
            "at": pa.array([START + timedelta(hours=first + i) for i in range(rows)], pa.timestamp("us", tz="UTC")),
            "sku": rng.choice(["a", "b", "c"], rows),
            "price": price,
            "returned": rng.random(rows) < 1 / (1 + np.exp(2.0 - price / 30)),
        }
    )


def stock(hour: float, sku: str, left: float) -> pa.Table:
    return pa.table({"sku": [sku], "left": [left], "at": pa.array([START + timedelta(hours=hour)], pa.timestamp("us", tz="UTC"))})


def released(ctx: Context) -> str:
    assert isinstance(ctx.clock, SimulatedClock)
    ctx.clock.advance(timedelta(minutes=1))
    model = registry.register(ctx, training.train(ctx).id, name="shop")
    return releases.create(ctx, model.ref, skip=SKIP, why="a drill").ref


def make(root: Path) -> None:
    (root / "kaizen.toml").write_text(SETTINGS)
    clock = SimulatedClock(root / ".kaizen" / "clock", START + timedelta(days=20))
    ctx = open_project(root, actor="tester", clock=clock)
    data.add(ctx, "stocks", table=pa.concat_tables([stock(0, "a", 10.0), stock(0, "b", 20.0), stock(0, "c", 30.0)]), source_name="warehouse")
    data.add(ctx, "orders", table=orders(0, 400), source_name="web")
    rollouts.deploy(ctx, "shop", released(ctx))
    clock.advance(timedelta(minutes=1))
    data.add(ctx, "stocks", table=pa.concat_tables([stock(5, "a", 999.0), stock(5, "d", 5.0)]), source_name="feed7")
    data.add(ctx, "orders", table=orders(400, 200), source_name="feed7", trust="partner")
    rollouts.deploy(ctx, "shop", released(ctx))
    features.materialize(ctx, "stock")
    ctx.online.close()
    ctx.catalog.close()
    buffer_of(ctx.state).close()


@pytest.fixture
def ctx(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path / "shop"
    shutil.copytree(made_once(tmp_path_factory, "cut shop", make), root)
    ctx = open_project(root, actor="tester", clock=SimulatedClock(root / ".kaizen" / "clock"))
    yield ctx
    ctx.online.close()
    ctx.catalog.close()
    buffer_of(ctx.state).close()


def online(ctx: Context) -> dict[str, float]:
    ref = features.show(ctx, "stock").ref
    return {key: row.values["left"] for key in "abcd" if (row := ctx.online.read(ref, [key])[0])}


def test_the_radius_names_all_that_the_rows_went_into_and_nothing_else(ctx: Context):
    found = governance.radius(ctx, source="feed7")
    assert (found.rows, found.of) == (202, 605)
    assert [(each.ref, each.rows) for each in found.versions] == [("orders@2", 200), ("stocks@2", 2)]
    assert [(each.dataset, each.rows, each.entities, each.online) for each in found.views] == [("stocks@2", 2, 2, True)]
    assert [(each.ref, each.rows, each.of) for each in found.releases] == [("shop@2", 202, "shop@2")]
    assert [(each.ref, each.rows) for each in found.models] == [("shop@2", 202)]
    assert [each.rows for each in found.runs] == [202]
    assert [(each.role, each.release, each.free) for each in found.endpoints] == [("champion", "shop@2", "shop@1")]
    assert found.next[:2] == ["kaizen rollback shop --to shop@1", "kaizen improve shop"]
    assert governance.exclusions(ctx) == []
    assert tables.read_allowed(ctx, "orders").num_rows == 600


@pytest.mark.slow
def test_a_cut_keeps_later_trainings_free_makes_online_values_again_and_is_taken_back(ctx: Context):
    before = [tables.version(ctx, name).hash for name in ("orders", "stocks")]
    assert online(ctx) == {"a": 999.0, "b": 20.0, "c": 30.0, "d": 5.0}
    found = governance.exclude(ctx, source="feed7", why="prices in cents")
    assert online(ctx) == {"a": 10.0, "b": 20.0, "c": 30.0}
    assert governance.exclude(ctx, source="feed7").exclusions == found.exclusions
    assert [each.dataset for each in governance.exclusions(ctx)] == ["orders", "stocks"]
    assert released(ctx) == "shop@3"
    made = releases.show(ctx, "shop@3")
    assert made.exclusions == [each.id for each in found.exclusions]
    assert training.list(ctx)[0].parameters["rows"] == 400
    assert [each.ref for each in governance.radius(ctx, source="feed7").releases] == ["shop@2"]
    assert [tables.version(ctx, name).hash for name in ("orders", "stocks")] == before
    features.materialize(ctx, "stock", everything=True)
    assert online(ctx) == {"a": 10.0, "b": 20.0, "c": 30.0}
    lifted = governance.include(ctx, source="feed7", why="mended")
    assert [each.lifted_why for each in lifted] == ["mended", "mended"]
    assert online(ctx) == {"a": 999.0, "b": 20.0, "c": 30.0, "d": 5.0}
    assert tables.read_allowed(ctx, "orders").num_rows == 600
    assert [each.ref for each in governance.radius(ctx, source="feed7").releases] == ["shop@2"], "shop@3 has not learnt from them"
    with ctx.catalog.read() as connection:
        kinds = [event.kind for event in events.read(connection, kind="data.")]
    assert kinds[-4:] == ["data.excluded", "data.excluded", "data.included", "data.included"]


def test_a_newer_online_value_stays(ctx: Context):
    features.push(ctx, "stock", [{"sku": "a", "left": 7.0, "at": (START + timedelta(hours=9)).isoformat()}])
    governance.exclude(ctx, source="feed7")
    assert online(ctx)["a"] == 7.0


def test_rollback_goes_to_the_newest_champion_that_is_free_of_the_rows(ctx: Context):
    found = governance.exclude(ctx, "orders", source="feed7", since=(START + timedelta(hours=500)).isoformat(), then="rollback", why="cents")
    assert found.done == ["shop rolled back to shop@1"]
    assert rollouts.show(ctx, "shop").champion == "shop@1"
    assert found.endpoints == []
    assert rollouts.history(ctx, "shop")[0].why == "cents"
    assert found.rows == 100


def reopened(ctx: Context, more: str) -> Context:
    """Open the project with more settings."""
    (ctx.root / "kaizen.toml").write_text(SETTINGS + more)
    return open_project(ctx.root, actor="tester", clock=SimulatedClock(ctx.state / "clock"))


@pytest.mark.slow
def test_retrain_trains_without_the_rows_and_puts_the_result_on_trial(ctx: Context):
    more = '[gates]\nrate = 30\np99_ms = 2000\nload_seconds = 0.3\nparity_rows = 50\n'
    now = reopened(ctx, more)
    steps: list[str] = []
    found = governance.exclude(now, source="feed7", why="cents", then="retrain", progress=lambda step, _share: steps.append(step))
    assert found.done == ["shop: shop@3 was trained without these rows and answers a little of the traffic, on trial"]
    assert steps, "it tells what it does"
    made = releases.show(now, "shop@3")
    assert made.exclusions == [each.id for each in found.exclusions]
    assert training.list(now)[0].parameters["rows"] == 400
    standing = rollouts.show(now, "shop")
    assert (standing.champion, [arm.release for arm in standing.challengers]) == ("shop@2", ["shop@3"])
    assert [(each.role, each.release) for each in found.endpoints] == [("champion", "shop@2")]
    now.catalog.close()


def test_a_release_that_answers_by_a_rule_alone_is_in_the_radius(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "serving")
    monkeypatch.setenv("KAIZEN_CLOCK", str(ctx.state / "clock"))
    from in_process import running

    rollouts.rollback(ctx, "shop", to="shop@1", why="a drill")
    now = reopened(ctx, "[[route]]\nwhen = \"sku == 'a'\"\nanswer = 'shop@2'\n")
    rollouts.publish(now)
    row = {"price": 10.0, "at": (START + timedelta(hours=600)).isoformat()}
    with running(now.state) as ask:
        assert ask("POST", "/predict/shop", {"inputs": [row | {"sku": sku} for sku in ("a", "b", "a")]}).status == 200
    found = governance.radius(now, source="feed7")
    assert [(each.role, each.release) for each in found.endpoints] == [("[[route]] 1", "shop@2")]
    assert ("shop@2", "model", 2) in [(each.release, each.by, each.answers) for each in found.predictions]
    assert found.next[0] == "name another answer than shop@2 under [[route]] 1 in kaizen.toml, then: kaizen rollouts publish"
    assert "shop answers with shop@2 now" in found.headline
    done = governance.exclude(now, source="feed7", then="rollback").done
    assert done == ["not done: shop@2 answers shop by [[route]] 1 of kaizen.toml; name another answer there"]
    assert "[[route]] 1" in [place.role for place in lineage.show(now, "orders@2").used_by.endpoints]
    now.catalog.close()


def test_answers_of_the_model_and_with_its_features_are_counted(ctx: Context, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "serving")
    monkeypatch.setenv("KAIZEN_CLOCK", str(ctx.state / "clock"))
    from in_process import running

    rollouts.publish(ctx)
    row = {"price": 10.0, "at": (START + timedelta(hours=600)).isoformat()}
    with running(ctx.state) as ask:
        assert ask("POST", "/predict/shop", {"inputs": [row | {"sku": sku} for sku in ("a", "b", "d")]}).status == 200
    found = governance.radius(ctx, source="feed7")
    assert [(each.release, each.by, each.answers) for each in found.predictions] == [("shop@2", "model", 3), ("shop@2", "features", 2)]
    assert "3 answers" in found.headline


def test_the_picture_shows_every_step_and_reads_aloud(ctx: Context):
    found = governance.exclude(ctx, source="feed7", picture=True)
    svg = found.picture
    for word in ("orders@2", "stock", "shop@2", "champion: shop@2", "feed7 in orders, stocks"):
        assert word in svg
    assert found.headline in picture.draw(found)


def test_what_cannot_be_meant_is_refused_with_the_nearest_name(ctx: Context):
    with pytest.raises(NotFound, match="did you mean 'feed7'"):
        governance.exclude(ctx, source="feed8")
    with pytest.raises(UsageError, match="say which rows"):
        governance.exclude(ctx, "orders")
    with pytest.raises(UsageError, match="no day or time"):
        governance.exclude(ctx, "orders", since="yesterday")
    with pytest.raises(UsageError, match="no time lies"):
        governance.exclude(ctx, "orders", since="2026-11-02", until="2026-11-01")
    with pytest.raises(UsageError, match="of one dataset"):
        governance.exclude(ctx, since="2026-11-02")
    with pytest.raises(NotFound, match="none holds"):
        governance.include(ctx, 1)


def test_a_reason_that_is_given_later_is_kept(ctx: Context):
    first = governance.exclude(ctx, "orders", source="feed7").exclusions[0]
    assert governance.exclude(ctx, "orders", source="feed7", why="labels swapped").exclusions[0].id == first.id
    governance.exclude(ctx, "orders", source="feed7")
    assert [(one.id, one.why) for one in governance.exclusions(ctx, "orders")] == [(first.id, "labels swapped")]
    with ctx.catalog.read() as connection:
        assert [event.why for event in events.read(connection, kind="data.excluded")] == ["", "labels swapped"]


def test_rows_are_named_in_one_way(ctx: Context):
    made = governance.exclude(ctx, "orders", source="feed7").exclusions[0].id
    with pytest.raises(UsageError, match="not both"):
        governance.radius(ctx, source="feed7", exclusion=made)
    with pytest.raises(NotFound, match="'oders'; did you mean 'orders'"):
        governance.exclusions(ctx, "oders")


@pytest.mark.slow
def test_the_command_line_cuts_with_the_word_that_shows(ctx: Context):
    def kaizen(*words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "kaizenml.cli", *words, "--json", "--project", str(ctx.root)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert kaizen("data", "quarantine", "orders")["rows"] == 0
    words = [sys.executable, "-m", "kaizenml.cli", "data", "quarantine", "--source", "feed7", "--limit", "3", "--project", str(ctx.root)]
    both = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (both.returncode, kaizen("data", "exclusions")) == (2, [])  # whoever wants three rows to look at does not want to cut
    assert "--limit does not go with --source" in both.stderr
    cut = kaizen("data", "quarantine", "--source", "feed7", "--since", "2026-10-20")
    assert [each["dataset"] for each in cut["exclusions"]] == ["orders", "stocks"]
    assert kaizen("data", "exclusions")[0]["since"] == datetime(2026, 10, 20, tzinfo=UTC).timestamp()
    assert len(kaizen("data", "release", "--source", "feed7", "--why", "mended")) == 2
    assert kaizen("data", "radius", "--source", "feed7", "--picture", str(ctx.root / "radius.svg"))["picture"].endswith("radius.svg")
    assert "shop@2" in (ctx.root / "radius.svg").read_text()
