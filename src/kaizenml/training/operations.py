"""Train models, and look at what training found."""

from __future__ import annotations

import builtins
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from kaizenml import code
from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.errors import StorageFull, UsageError, not_found
from kaizenml.training import store
from kaizenml.training.fitting import Effort
from kaizenml.training.job import Job, Made
from kaizenml.training.material import gather, task_settings
from kaizenml.training.recipe import Recipe
from kaizenml.training.run import BoardRow, Leak, Run

__all__ = ["board", "list", "show", "train"]

_MARGIN = 0.97  # of the budget is planned for; the rest is writing files


def train(
    ctx: Context,
    *,
    dataset: str | None = None,
    budget: str | None = None,
    refit: str | None = None,
    champion_folder: Path | None = None,
    run_id: str | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Run:
    """Train a model for the project's question.

    Looks for leaks, tries the learners on the older rows, judges them on the newest beside the naive answer and the
    champion, and fits the chosen ensemble again on all rows: the board is about the newest rows, the model knows them too.

    Parameters
    ----------
    dataset : rows to learn from, ``name`` or ``name@number``; default the task's dataset as it is now.
    budget : time to take, for example ``60s`` or ``5min``; default ``train.budget``. Kept within five per cent; there is a model
        however small it is. The same rows, seed and settings give the same model unless the budget cuts the search short.
    refit : id of a run whose recipe is fitted on newer rows, without a search; takes seconds.
    champion_folder : model folder of the release that answers now; it is judged on the same rows.
    run_id : repeating a training under its id returns the run it made.
    progress : called with what is being done and the part that is done, 0 to 1.

    Returns
    -------
    The run, with its board, leaks and the folder of the model.

    Raises
    ------
    InvalidData : the target cannot be learnt, or no column is left to learn from.
    NotFound : there is no such dataset or run.

    Examples
    --------
    ``kaizen train --budget 60s``
    """
    started = time.perf_counter()
    settings = task_settings(ctx)
    run_id = run_id or f"{ctx.clock.now():%Y%m%d-%H%M}-{secrets.token_hex(4)}"
    _check_id(run_id)
    if (found := _find(ctx, run_id)) is not None:
        return found
    report = progress or (lambda what, part: None)
    report("reading the data", 0.0)
    dataset = dataset or settings.dataset
    recipe = _recipe_of(ctx, refit) if refit else None
    material = gather(
        ctx,
        dataset,
        kind=recipe.kind if recipe else settings.kind,
        refused=_refused(ctx, dataset.partition("@")[0], settings.target),
        only=recipe.fields if recipe else None,
    )
    seconds = parse_duration(budget or ctx.settings.train.budget)
    effort = Effort(ctx.settings.train.seed, ctx.settings.train.threads or _cores(), started + seconds * _MARGIN, report)
    made = Job(material, effort, champion_folder).run(recipe)
    report("writing the model", 0.97)
    run = _describe(ctx, run_id, made, seconds=time.perf_counter() - started, budget=seconds, refit=refit)
    kept = _keep(ctx, run, made)
    report("done", 1.0)
    return kept


def list(ctx: Context, *, dataset: str | None = None) -> builtins.list[Run]:
    """List the training runs, newest first.

    Parameters
    ----------
    dataset : only runs on this dataset's versions.

    Examples
    --------
    ``kaizen training list``
    """
    with ctx.catalog.read() as connection:
        return store.all_runs(connection, dataset.partition("@")[0] if dataset else None)


def show(ctx: Context, run: str) -> Run:
    """Show one training run.

    Parameters
    ----------
    run : its id.

    Raises
    ------
    NotFound : there is no such run.

    Examples
    --------
    ``kaizen training show 20260101-1200-ab12cd34``
    """
    with ctx.catalog.read() as connection:
        found = store.find(connection, run)
        if found is None:
            raise not_found("run", run, [known.id for known in store.all_runs(connection)], remedy="kaizen training list")
    return found


def board(ctx: Context, run: str | None = None) -> builtins.list[BoardRow]:
    """Show the board of a run: the naive answer, the learners, the ensemble and the champion on the newest rows.

    Parameters
    ----------
    run : its id; default the newest run.

    Raises
    ------
    NotFound : there is no such run, or none at all.

    Examples
    --------
    ``kaizen training board``
    """
    if run is None:
        runs = list(ctx)
        if not runs:
            raise not_found("run", "newest", [], remedy="kaizen train")
        return runs[0].board
    return show(ctx, run).board


def _find(ctx: Context, run_id: str) -> Run | None:
    with ctx.catalog.read() as connection:
        return store.find(connection, run_id)


def _check_id(run_id: str) -> None:
    if not run_id or len(run_id) > 100 or not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in run_id):
        raise UsageError(
            f"{run_id[:100]!r} is not a run id: letters, digits, '-' and '_', 100 at most", remedy="leave it out", values={"found": run_id[:100]}
        )


def _recipe_of(ctx: Context, run: str) -> Recipe:
    return msgspec.convert(show(ctx, run).parameters["recipe"], Recipe)


def _refused(ctx: Context, dataset: str, target: str) -> builtins.list[Leak]:
    """What earlier runs on this dataset refused stays refused: newer rows may no longer show why."""
    with ctx.catalog.read() as connection:
        runs = store.all_runs(connection, dataset)
    return builtins.list({leak.column: leak for run in runs if run.target == target for leak in run.leaks}.values())


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
        views=[use.ref for use in made.signature(task_settings(ctx)).views],
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
