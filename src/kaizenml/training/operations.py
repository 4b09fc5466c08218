"""Train models, and look at what training found."""

from __future__ import annotations

import builtins
import secrets
from collections.abc import Callable
from pathlib import Path

from kaizenml.context import Context
from kaizenml.errors import UsageError, not_found
from kaizenml.training import store
from kaizenml.training.run import BoardRow, Run

__all__ = ["board", "list", "show", "train"]


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
    run_id = run_id or f"{ctx.clock.now():%Y%m%d-%H%M}-{secrets.token_hex(4)}"
    _check_id(run_id)
    with ctx.catalog.read() as connection:
        if (found := store.find(connection, run_id)) is not None:
            return found
    from kaizenml.training import making  # loads the learners' libraries, which looking at runs does without

    known = show(ctx, refit) if refit else None
    return making.make(
        ctx, run_id, dataset=dataset, budget=budget, known=known, champion_folder=champion_folder, progress=progress or (lambda what, part: None)
    )


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


def _check_id(run_id: str) -> None:
    if not run_id or len(run_id) > 100 or not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in run_id):
        raise UsageError(
            f"{run_id[:100]!r} is not a run id: letters, digits, '-' and '_', 100 at most", remedy="leave it out", values={"found": run_id[:100]}
        )
