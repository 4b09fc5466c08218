"""The way from data to a release, as ``train`` and ``up`` walk it: each step is skipped when its result is there already."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from kaizenml.cli.face import Progress
from kaizenml.errors import InvalidData, NotFound, Refused, UsageError

_SENTENCES = {
    "pin": "pinning what the release is made of",
    "naive": "gate: better than the answer without a model?",
    "champion": "gate: no worse than the champion?",
    "poison": "gate: does a source from outside teach what the others do not?",
    "parity": "gate: does serving answer like training?",
    "load": "gate: does serving bear the load?",
    "release": "writing the release",
}

if TYPE_CHECKING:
    from collections.abc import Callable

    from kaizenml.context import Context
    from kaizenml.data.dataset import DatasetVersion
    from kaizenml.releases.release import Release
    from kaizenml.training.run import Run


def take_data(ctx: Context, progress: Progress) -> DatasetVersion | None:
    """Bring the task's file into the dataset if it is new or was changed; return its version.

    The file's content is the token, so that the same file is never taken twice, whoever asks.
    """
    from kaizenml.data import operations as data

    task = ctx.settings.task
    if task is None:
        remedy = 'add [task] with dataset = "..." and target = "..."'
        raise UsageError("kaizen.toml has no [task]: nothing says what is to be predicted", remedy=remedy)
    if task.source is None:
        return None
    path = ctx.root / task.source
    if not path.exists():
        if any(version.name == task.dataset for version in data.list(ctx)):
            return None  # the rows are in; the file may have gone
        raise NotFound(f"there is no {task.source}, the data of this project", remedy=f"put it there, or: kaizen data add {task.dataset} FILE")
    token = f"file:{_digest(path)}"
    progress(f"reading {task.source}", 0.0)
    return data.take(ctx, task.dataset, task.source, once=token, why=f"{task.source} is new or changed")


def told_of(taken: DatasetVersion) -> str:
    """Say what was told of rows that were taken; empty where nothing was."""
    return "; ".join(f"{taken.ref}: {rows:,} {said}" for said, rows in taken.warnings.items())


def release_current(
    ctx: Context, progress: Progress, tell: Callable[[str], None], *, budget: str | None = None, fresh: bool = False, why: str = ""
) -> tuple[Run, Release]:
    """Train on the newest data, register the model and gate it into a release; tell the board and the gates.

    A training that was cut off before its gates is taken up where it was, unless data or features are others by now. One that the gates
    refused is not asked about again: it is trained anew, for data, settings or time may have changed; only the load is measured again on
    the same model.

    Parameters
    ----------
    tell : told what was found, also when a gate refuses it.
    budget : time for training, such as ``60s``; default the setting.
    fresh : train even where a run on this version of the data is there.

    Raises
    ------
    Refused : a gate refused the release; the remedy says what may help.
    """
    from kaizenml.cli.board import describe_release
    from kaizenml.registry import operations as registry
    from kaizenml.releases import operations as releases

    run = None if fresh else run_on_newest(ctx)
    before = _refusals(ctx, run) if run else []
    now = champion(ctx)
    if before and {gate.name for gate in before[-1].failed} != {"load"}:
        tell(f"{before[-1].ref} was refused by {_gates(before[-1])}; training anew")
        run, before = None, []
    if run is None:
        run = _trained(ctx, budget, now, progress)
    elif before:
        tell(f"{before[-1].ref} was refused by load; measuring again")
    model = registry.register(ctx, run.id, name=ctx.settings.project.name)
    once = f"release:{run.id}" + (f":{len(before) + 1}" if before else "")
    try:
        release = releases.create(
            ctx, model.ref, against=now, why=why or "trained by hand", once=once,
            progress=lambda step, share: progress(_SENTENCES.get(step, step), share),
        )  # fmt: skip
    except Refused as error:
        tell(describe_release(run, releases.show(ctx, error.values["release"])))
        error.remedy = _what_helps(ctx, error)
        raise
    tell(describe_release(run, release))
    return run, release


def champion(ctx: Context, endpoint: str | None = None) -> str | None:
    """Return the release that answers the endpoint now, or None."""
    from kaizenml.rollouts import operations as rollouts

    name = endpoint or ctx.settings.project.name
    return next((rollout.champion for rollout in rollouts.list(ctx) if rollout.endpoint == name), None)


def not_online(ctx: Context, release: str) -> str:
    """Say which views of a release hold nothing online yet, and how they are filled; empty: all do."""
    from kaizenml.features import store
    from kaizenml.releases import operations as releases

    pinned = releases.show(ctx, release).pins.features
    with ctx.catalog.read() as connection:
        known = store.definitions(connection)
        names = [known[ref].name for ref in pinned if ref in known and not store.materialized(connection, ref)]
    commands = "; ".join(f"kaizen features materialize {name}" for name in names)
    return f"the features of {', '.join(names)} are not online yet, and answers do without them; try: {commands}" if names else ""


def newest_release(ctx: Context) -> Release | None:
    """Return the newest release that passed its gates, or None."""
    from kaizenml.releases import operations as releases

    passed = [release for release in releases.list(ctx) if release.state == "passed"]
    return max(passed, key=lambda release: (release.created_at, release.number), default=None)


def only_endpoint(ctx: Context, given: str | None) -> str:
    """Return the endpoint that is meant: the given one, else the project's only one."""
    from kaizenml.rollouts import operations as rollouts

    if given:
        return given
    names = [rollout.endpoint for rollout in rollouts.list(ctx)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFound("there is no endpoint yet", remedy="kaizen up")
    raise UsageError(f"which endpoint? there is {', '.join(names)}", remedy="name it as the first argument", values={"known": names})


def run_on_newest(ctx: Context) -> Run | None:
    """Return the newest run on the data and the definitions of features as they are now, or None."""
    from kaizenml.data import tables
    from kaizenml.training import operations as training

    assert ctx.settings.task is not None
    newest = tables.version(ctx, ctx.settings.task.dataset).ref
    done = [run for run in training.list(ctx) if run.state == "done" and run.dataset == newest and _learnt_todays_features(ctx, run)]
    return max(done, key=lambda run: run.started_at, default=None)


def _learnt_todays_features(ctx: Context, run: Run) -> bool:
    """Tell whether what a run reads of features is defined as it was, and no view is younger than the run."""
    from kaizenml.features import operations as features
    from kaizenml.features.offline import frame

    views, derived = frame.learnt_from(ctx)
    if not {*(view.ref for view in views), *(each.ref for each in derived)}.issuperset(run.views):
        return False
    used_at = [features.show(ctx, view.name).used_at for view in views]
    return all(at is not None and at <= run.started_at for at in used_at)


def _trained(ctx: Context, budget: str | None, champion: str | None, progress: Progress) -> Run:
    """Train, with the champion judged on the same rows where there is one."""
    from kaizenml.registry import operations as registry
    from kaizenml.releases import operations as releases
    from kaizenml.training import operations as training

    folder = ctx.state / registry.show(ctx, releases.show(ctx, champion).pins.model).folder if champion else None
    try:
        return training.train(
            ctx, budget=budget, champion_folder=folder, progress=lambda text, share: progress(text, share) if share < 1 else None
        )  # fmt: skip
    except InvalidData as error:
        task = ctx.settings.task
        if task and "kaizen data add DATASET FILE" in error.remedy:
            add = f"add rows to {task.source}, and repeat" if task.source else f"kaizen data add {task.dataset} FILE"
            error.remedy = error.remedy.replace("add rows: kaizen data add DATASET FILE", add)
        raise


def _refusals(ctx: Context, run: Run) -> list[Release]:
    """Return the releases of a run's model that gates refused, oldest first."""
    from kaizenml.registry import operations as registry
    from kaizenml.releases import operations as releases

    models = {model.ref for model in registry.list(ctx) if model.run == run.id}
    return [release for release in releases.list(ctx) if release.state == "refused" and release.pins.model in models]


def _gates(release: Release) -> str:
    return ", ".join(gate.name for gate in release.failed)


def _what_helps(ctx: Context, error: Refused) -> str:
    """Say what may make the next attempt pass, and where the evidence is."""
    release, failed = error.values["release"], {gate["name"] for gate in error.values["gates"]}
    evidence = f"kaizen releases show {release}"
    if failed & {"naive", "champion"}:
        source = ctx.settings.task.source if ctx.settings.task else None
        more = f"more rows, or columns that tell more, in {source or 'the dataset'}, or more time (--budget 5min), and repeat: it is trained anew"
        return f"{more}; the evidence: {evidence}"
    if "load" in failed:
        return f"repeat on a quieter machine (only the load is measured again), or ask for less under [gates] of kaizen.toml; evidence: {evidence}"
    return evidence


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
