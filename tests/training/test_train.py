"""Training in a real project: real tables, real catalog, real model files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from sklearn import datasets

from kaizenml import events
from kaizenml.data import operations as data
from kaizenml.errors import InvalidData, NotFound, UsageError
from kaizenml.features.encoding import vectorised as encoding
from kaizenml.training import model_file, operations, recipe, scoring


def table_of(name: str) -> pa.Table:
    bunch = getattr(datasets, f"load_{name}")()
    names = [str(column).replace(" ", "_").replace("/", "_") for column in bunch.feature_names]
    columns = {column: bunch.data[:, place] for place, column in enumerate(names)}
    return pa.table({**columns, "target": bunch.target})


def orders(rows: int = 1500, seed: int = 0, start: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    price = random.gamma(2.0, 20.0, rows).round(2)
    size = random.choice(["S", "M", "L", "XL"], rows, p=[0.3, 0.4, 0.2, 0.1])
    gift = random.random(rows) < 0.2
    chance = 1 / (1 + np.exp(-(0.03 * (price - 40) + 1.2 * (size == "XL") - 0.8 * gift - 0.5)))
    moments = np.datetime64("2025-01-01T00:00:00", "us") + (start + np.arange(rows)) * np.timedelta64(1, "h")
    return pa.table(
        {
            "id": [f"o{start + place}" for place in range(rows)],
            "ordered_at": pa.array(moments, pa.timestamp("us")),
            "price": pa.array(price, mask=random.random(rows) < 0.05),
            "size": size,
            "gift": gift,
            "month": np.arange(rows) // 500 + 1,
            "returned": random.random(rows) < chance,
        }
    )


TIMED = 'time = "ordered_at"\nkey = "id"'


def losses(run) -> dict[str, float]:
    return {row.name: row.metrics[run.metric].value for row in run.board if row.metrics}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("breast_cancer", "binary", marks=pytest.mark.slow),
        pytest.param("wine", "multiclass", marks=pytest.mark.slow),
        ("diabetes", "regression"),
    ],
)
def test_each_kind_of_task_beats_the_naive_answer_without_refusing_a_column(project, name, kind):
    ctx = project("target", budget="6s")
    data.add(ctx, "rows", table=table_of(name))
    run = operations.train(ctx)
    found = losses(run)
    assert run.task == kind
    assert run.leaks == []
    assert found["ensemble"] < found["naive"]
    assert run.split["by"] == "random"
    assert {"naive", "linear", "boosted", "ensemble"} <= set(found)


@pytest.mark.slow
def test_the_model_folder_answers_as_the_reference_says(project):
    ctx = project("returned", TIMED)
    rows = orders()
    data.add(ctx, "rows", table=rows)
    run = operations.train(ctx)
    folder = ctx.state / run.folder
    spec = model_file.read(folder)
    answers = scoring.predict(folder, encoding.encode(spec.encoder, rows))
    assert answers.shape == (rows.num_rows, 2)
    assert answers.sum(axis=1) == pytest.approx(1.0)
    assert sum(member.weight for member in spec.members) == pytest.approx(1.0)
    assert [field.name for field in spec.signature.fields] == ["ordered_at", "price", "size", "gift"]
    assert spec.signature.classes == [False, True]
    assert "clock" in run.parameters["dropped"]["month"]
    assert {"id", "month", "returned"} <= set(spec.encoder.accepts)
    assert spec.naive.value is False
    assert run.split["by"] == "time"
    assert run.split["from"] < run.split["to"]


def test_the_same_rows_and_seed_give_the_same_model(project):
    ctx = project("returned", TIMED, budget="60s")
    data.add(ctx, "rows", table=orders(600))
    one, two = operations.train(ctx), operations.train(ctx)
    assert one.id != two.id
    for file in sorted(path.name for path in (ctx.state / one.folder).iterdir()):
        if file != recipe.FILE:
            assert (ctx.state / one.folder / file).read_bytes() == (ctx.state / two.folder / file).read_bytes()


def test_a_run_is_listed_shown_recorded_and_not_repeated_under_its_id(project):
    ctx = project("returned", TIMED)
    data.add(ctx, "rows", table=orders(600))
    steps: list[tuple[str, float]] = []
    run = operations.train(ctx, run_id="first", progress=lambda what, part: steps.append((what, part)))
    assert [part for _, part in steps] == sorted(part for _, part in steps)
    assert steps[-1] == ("done", 1.0)
    done = len(steps)
    assert operations.train(ctx, run_id="first", progress=lambda what, part: steps.append((what, part))) == run
    assert len(steps) == done
    assert operations.list(ctx) == [run] == operations.list(ctx, dataset="rows@1")
    assert operations.show(ctx, "first") == run
    assert operations.board(ctx) == run.board
    assert msgspec.json.decode(msgspec.json.encode(run), type=type(run)) == run
    with ctx.catalog.read() as connection:
        assert [event.subject for event in events.read(connection, kind="training.trained")] == ["first"]
    with pytest.raises(NotFound, match="did you mean 'first'"):
        operations.show(ctx, "frist")


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "why"), [("", "without times nobody can tell"), (TIMED, "it has learnt from ")])
def test_a_champion_is_not_judged_by_rows_that_it_has_learnt_from(project, settings, why):
    ctx = project("returned", settings)
    data.add(ctx, "rows", table=orders(1500))
    first = operations.train(ctx)
    data.add(ctx, "rows", table=orders(100, seed=1, start=1500))  # too few to judge by alone
    again = operations.train(ctx, refit=first.id, champion_folder=ctx.state / first.folder)
    row = next(row for row in again.board if row.name == "champion")
    assert row.metrics == {}
    assert row.note.startswith(f"was not judged: {why}")
    assert "gain_over_champion" not in again.parameters


@pytest.mark.slow
def test_a_refit_makes_the_recipe_again_from_newer_rows_beside_the_champion(project):
    ctx = project("returned", TIMED)
    data.add(ctx, "rows", table=orders(1500))
    first = operations.train(ctx)
    data.add(ctx, "rows", table=orders(900, seed=1, start=1500))
    champion = ctx.state / first.folder
    again = operations.train(ctx, refit=first.id, champion_folder=champion)
    assert again.dataset == "rows@2"
    assert again.parameters["recipe"] == first.parameters["recipe"]
    assert again.parameters["refit_of"] == first.id
    rows = {row.name: row for row in again.board}
    assert rows["champion"].note == "on rows it has not learnt from"
    # the newer half of what the champion has not seen judges both
    assert 420 <= rows["champion"].metrics["log_loss"].rows <= 480
    gain = again.parameters["gain_over_champion"]
    assert gain["low"] < gain["high"]
    origin = recipe.read(ctx.state / again.folder)
    assert origin is not None
    assert origin.rows == 2400


@pytest.mark.slow
def test_what_was_refused_once_stays_refused(project):
    ctx = project("returned", TIMED)
    rows = orders(900)
    told = rows.append_column("refund", pa.array(np.where(rows["returned"].to_numpy(zero_copy_only=False), 9.5, 0.0)))
    data.add(ctx, "rows", table=told)
    first = operations.train(ctx)
    assert [leak.column for leak in first.leaks] == ["refund"]
    noise = np.random.default_rng(5).normal(size=900)
    later = orders(900, seed=2, start=900).append_column("refund", pa.array(noise))
    data.add(ctx, "rows", table=later, mode="replace")
    assert [leak.column for leak in operations.train(ctx).leaks] == ["refund"]


@pytest.mark.slow
def test_a_column_that_the_user_knows_is_kept(project):
    ctx = project("returned", TIMED + '\nknown = ["refund"]')
    rows = orders(900)
    data.add(ctx, "rows", table=rows.append_column("refund", pa.array(np.where(rows["returned"].to_numpy(zero_copy_only=False), 9.5, 0.0))))
    run = operations.train(ctx)
    assert run.leaks == []
    assert "refund" in run.parameters["recipe"]["fields"]


@pytest.mark.parametrize("budget", ["50ms", pytest.param("3s", marks=pytest.mark.slow)])
def test_the_budget_is_kept_and_never_ends_without_a_model(project, budget):
    ctx = project("returned", TIMED, budget=budget)
    data.add(ctx, "rows", table=orders(12_000))
    operations.list(ctx)
    run = operations.train(ctx)
    assert model_file.read(ctx.state / run.folder).members
    if budget == "3s":
        assert run.seconds < 3 * 1.05 + 1.0  # a second of slack for a busy machine


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "more", "error", "says"),
    [
        ("retuned", "", InvalidData, "did you mean 'returned'"),
        ("returned", 'ignore = ["price", "size", "gift", "month", "ordered_at", "id"]', InvalidData, "no column of rows@1 is left"),
    ],
)
def test_a_refused_training_leaves_nothing(project, target, more, error, says):
    ctx = project(target, more)
    data.add(ctx, "rows", table=orders(300))
    with pytest.raises(error, match=says):
        operations.train(ctx)
    assert operations.list(ctx) == []
    assert not (ctx.state / "runs").exists()
    with pytest.raises(UsageError, match="run id"):
        operations.train(ctx, run_id="../up")


@pytest.mark.slow
def test_a_killed_training_leaves_no_half_run_and_can_be_repeated(project):
    ctx = project("returned", TIMED, budget="1s")
    data.add(ctx, "rows", table=orders(300))
    program = (
        "import sys\n"
        "from kaizenml.project import open_project\n"
        "from kaizenml.training import operations\n"
        "def tell(what, part):\n"
        "    print(what, flush=True)\n"
        "operations.train(open_project(sys.argv[1]), run_id='night', progress=tell)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(ctx.root)], stdout=subprocess.PIPE, text=True, env={**os.environ}) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("writing"):
                child.send_signal(signal.SIGKILL)
                break
        child.wait()
    run = operations.train(ctx, run_id="night")
    assert model_file.read(ctx.state / run.folder).members
    assert [found.id for found in operations.list(ctx)] == ["night"]
