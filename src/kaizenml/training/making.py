"""A training from the project's data to a kept run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from kaizenml import code
from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.errors import StorageFull
from kaizenml.training import store
from kaizenml.training.fitting import Effort
from kaizenml.training.job import Job, Made
from kaizenml.training.material import gather, read_by, task_settings
from kaizenml.training.recipe import Recipe
from kaizenml.training.run import Leak, Run

_MARGIN = 0.97  # of the budget is planned for; the rest is writing files


def make(
    ctx: Context, run_id: str, *, dataset: str | None, budget: str | None, known: Run | None, champion_folder: Path | None,
    progress: Callable[[str, float], None],
) -> Run:  # fmt: skip
    """Read the data, find a model (or fit the recipe of a known run again) and keep it as the run ``run_id``."""
    started = time.perf_counter()
    settings = task_settings(ctx)
    progress("reading the data", 0.0)
    dataset = dataset or settings.dataset
    recipe = msgspec.convert(known.parameters["recipe"], Recipe) if known else None
    material = gather(
        ctx,
        dataset,
        kind=recipe.kind if recipe else settings.kind,
        refused=_refused(ctx, dataset.partition("@")[0], settings.target),
        only=recipe.fields if recipe else None,
    )
    seconds = parse_duration(budget or ctx.settings.train.budget)
    effort = Effort(ctx.settings.train.seed, ctx.settings.train.threads or _cores(), started + seconds * _MARGIN, progress)
    made = Job(material, effort, champion_folder, partial(read_by, ctx, material)).run(recipe)
    progress("writing the model", 0.97)
    run = _describe(ctx, run_id, made, seconds=time.perf_counter() - started, budget=seconds, refit=known.id if known else None)
    kept = _keep(ctx, run, made)
    progress("done", 1.0)
    return kept


def _refused(ctx: Context, dataset: str, target: str) -> list[Leak]:
    """What earlier runs on this dataset refused stays refused: newer rows may no longer show why."""
    with ctx.catalog.read() as connection:
        runs = store.all_runs(connection, dataset)
    return list({leak.column: leak for run in runs if run.target == target for leak in run.leaks}.values())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _describe(ctx: Context, run_id: str, made: Made, *, seconds: float, budget: float, refit: str | None) -> Run:
    material = made.material
    parameters: dict[str, Any] = {
        "recipe": msgspec.to_builtins(made.recipe),
        "seed": ctx.settings.train.seed,
        "budget_s": budget,
        "refit_of": refit,
        "rows": len(material.y),
        "dropped": material.dropped,
        "warnings": material.warnings,
        "shipped": "fitted on all rows, the hold-out too, after it was judged on the hold-out",
        **{f"gain_over_{other}": msgspec.to_builtins(gain) for other, gain in made.gains.items()},
    }
    return Run(
        id=run_id,
        task=material.task.kind,
        state="done",
        dataset=material.ref,
        views=[each.ref for given in made.signature(task_settings(ctx)).given for each in given],
        target=material.task.target,
        parameters=parameters,
        board=made.board,
        metric=material.task.metric,
        leaks=material.leaks,
        split=made.split,
        code=code.commit(ctx.root),
        seconds=seconds,
        started_at=ctx.clock.timestamp(),
        folder=f"runs/{run_id}/model",
        exclusions=material.exclusions,
    )


def _keep(ctx: Context, run: Run, made: Made) -> Run:
    """Write the model aside and rename it, then add the run; killed anywhere, it can be repeated under the same id."""
    final = ctx.state / "runs" / run.id
    aside = final.parent / f".{run.id}.{os.getpid()}.new"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "model").mkdir(parents=True)
        made.write(aside / "model", run.id, task_settings(ctx))
        _settle_on_disk(aside / "model")
        with ctx.catalog.write() as connection:
            if (other := store.find(connection, run.id)) is not None:
                return other  # another process was quicker under the same id
            shutil.rmtree(final, ignore_errors=True)  # left by a training that was killed before its run was added
            os.replace(aside, final)
            store.insert(connection, run)
            ctx.record(
                connection, "training.trained", run.id, "refit" if run.parameters["refit_of"] else "search", dataset=run.dataset, metric=run.metric,
                leaks=[leak.column for leak in run.leaks], seconds=round(run.seconds, 3),
            )  # fmt: skip
    except OSError as error:
        raise StorageFull(
            f"the model of run {run.id} could not be written: {error.strerror}", remedy="free some space and repeat", values={"folder": str(final)}
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return run


def _settle_on_disk(folder: Path) -> None:
    """Make the files durable before the catalog says that they are there."""
    for path in (*folder.iterdir(), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
