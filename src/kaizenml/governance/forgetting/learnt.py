"""Which releases have learnt from a subject's rows: from the rows as they are before they go, and what each run recorded.

A run reads a whole version, or of its rows with a target the newest ``train.max_rows``; it recorded which version and how many rows.
So no list of subjects has to be kept for every version: where the subject's rows stand among a version's says whether they were read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.data import tables
from kaizenml.data.dataset import Dataset, DatasetVersion
from kaizenml.errors import KaizenError
from kaizenml.features import store as views
from kaizenml.governance.forgetting import datasets
from kaizenml.governance.forgetting.rewriting import File
from kaizenml.governance.forgetting.wish import Learnt
from kaizenml.registry import store as registry
from kaizenml.releases import store as releases
from kaizenml.releases.release import Release
from kaizenml.training import store as runs
from kaizenml.training.run import Run

Found = Mapping[str, tuple[Dataset, list[File]]]
"""The files with the subjects' rows, by dataset."""


def learnt(ctx: Context, found: Found, forms: Mapping[str, list[str]]) -> list[Learnt]:
    """Return every release that the subjects' rows had a part in, oldest first."""
    with ctx.catalog.read() as connection:
        every = releases.every(connection)
        models = {model.ref: model for model in registry.every(connection)}
        made = {run.id: run for run in runs.all_runs(connection)}
    known: list[Learnt] = []
    for release in every:
        model = models.get(release.pins.model)
        run = made.get(model.run) if model is not None else None
        if run is None:
            continue  # made elsewhere: what it has learnt from is not known here, and certificates say so
        read = _read_by(ctx, run, found, forms)
        behind = {ref: _rows_in(ctx, ref, found) for ref in release.pins.data[1:]}
        through = [ref for ref, rows in behind.items() if rows and (read or _others_use(ctx, release, ref, forms))]
        if read:
            known.append(Learnt(release=release.ref, how="trained", rows=read, datasets=list(dict.fromkeys([run.dataset, *through]))))
        elif through:
            known.append(Learnt(release=release.ref, how="features", rows=sum(behind[ref] for ref in through), datasets=through))
    return known


def _rows_in(ctx: Context, ref: str, found: Found) -> int:
    """Return how many of the subjects' rows a version holds."""
    if (entry := found.get(ref.partition("@")[0])) is None:
        return 0
    try:
        parts = set(tables.version(ctx, ref).parts)
    except KaizenError:
        return 0
    return sum(file.found for file in entry[1] if int(file.partition) in parts)


def _read_by(ctx: Context, run: Run, found: Found, forms: Mapping[str, list[str]]) -> int:
    """Return how many of the subjects' rows a training has read."""
    if not _rows_in(ctx, run.dataset, found):
        return 0
    version = tables.version(ctx, run.dataset)
    dataset, files = found[version.dataset]
    theirs = [file for file in files if int(file.partition) in version.parts]
    time = ctx.settings.task.time if ctx.settings.task and ctx.settings.task.time in version.columns else None
    rows = datasets.read(ctx, dataset, theirs, forms, [run.target, *([time] if time else [])])
    if run.target in rows.column_names:
        rows = rows.filter(pc.is_valid(rows[run.target]))
    taken, labelled = run.parameters.get("rows"), version.rows - version.profile.get(run.target, {}).get("missing", 0)
    if time is None or taken is None or taken >= labelled or not rows.num_rows:
        return int(rows.num_rows)
    first = _first_read(ctx, version, run.target, time, taken)
    return sum(us >= first for us in _micros(rows[time]).to_pylist())


def _first_read(ctx: Context, version: DatasetVersion, target: str, time: str, taken: int) -> int:
    """Return the time of the oldest row that a training has read which took the newest ``taken`` with a target."""
    whole = tables.read(ctx, version.ref, [target, time])
    times = np.asarray(_micros(whole.filter(pc.is_valid(whole[target]))[time]).to_numpy(), np.int64)
    return int(np.partition(times, len(times) - taken)[len(times) - taken]) if len(times) > taken else int(np.iinfo(np.int64).min)


def _micros(column: pa.ChunkedArray) -> pa.ChunkedArray:
    us = column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()) if pa.types.is_timestamp(column.type) else column.cast(pa.int64(), safe=False)
    return pc.fill_null(us, np.iinfo(np.int64).min)


def _others_use(ctx: Context, release: Release, ref: str, forms: Mapping[str, list[str]]) -> bool:
    """Return whether rows of others may have got features from the subjects' rows: not where every view goes by the subject itself."""
    with ctx.catalog.read() as connection:
        known = [view for view in views.every(connection) if view.ref in set(release.pins.features)]
    return any(view.dataset in ("", ref.partition("@")[0]) and not any(name in forms for name in view.entities) for view in known)


