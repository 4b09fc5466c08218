"""Labelled answers as rows of the training dataset."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.data import tables
from kaizenml.data.dataset import Kind
from kaizenml.errors import KaizenError
from kaizenml.monitoring import joining, reference
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving import outcomes
from kaizenml.serving.journaling import predictions
from kaizenml.serving.outcomes import Kept

SETTLED_S = 3_600.0  # an outcome older than this whose prediction is not drained has none
TYPES: dict[Kind, pa.DataType] = {
    "number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.string(), "text": pa.string(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}  # fmt: skip


def labelled(ctx: Context, endpoint: str, *, after: int, upto: int | None) -> tuple[pa.Table, int]:
    """Return live rows with their outcomes; see ``operations.labelled``."""
    arrived = _arrived(ctx, endpoint, after, upto)
    days = joining.days_of(kept.id for kept in arrived)
    rows = predictions.read(ctx, endpoint, days=days, role="live")
    place = {identity: position for position, identity in enumerate(rows["id"].to_pylist())}
    settled, now = after, ctx.clock.timestamp()
    chosen: list[int] = []
    values: list[Any] = []
    for kept in arrived:
        if kept.id in place:
            chosen.append(place[kept.id])
            values.append(kept.value)
        elif now - kept.received_at < SETTLED_S and upto is None:
            break  # still in the journal: it has its turn next time
        settled = kept.cursor
    champion = rollouts.show(ctx, endpoint).champion
    answers = reference.answers_of(ctx, champion)
    kinds = _kinds(ctx)
    found = rows.take(pa.array(chosen, pa.int64()))
    given = _given(ctx, {champion, *found["release"].unique().to_pylist()})
    columns: dict[str, Any] = {"id": found["id"]}
    for name in found.column_names:
        if name.startswith("x_") and name[2:] not in given and not pa.types.is_null(found[name].type):
            columns[name[2:]] = _as_kind(found[name], kinds.get(name[2:]))
    columns[answers.target] = _target(values, kinds.get(answers.target))
    return pa.table(columns), settled


def _given(ctx: Context, releases: set[str | None]) -> set[str]:
    """Return what the views and derived inputs of any of the releases gave: in training it is joined anew, by other definitions perhaps."""
    given: set[str] = set()
    for release in releases:
        with suppress(KaizenError):  # of one whose files are gone nobody knows
            given.update(reference.answers_of(ctx, release).given if release else ())
    return given


def _arrived(ctx: Context, endpoint: str, after: int, upto: int | None) -> list[Kept]:
    found: list[Kept] = []
    cursor = after
    while batch := outcomes.since(ctx.state, endpoint, cursor, joining.BATCH):
        found += [kept for kept in batch if upto is None or kept.cursor <= upto]
        cursor = batch[-1].cursor
        if len(batch) < joining.BATCH or (upto is not None and cursor >= upto):
            break
    return found


def _kinds(ctx: Context) -> dict[str, Kind]:
    """Kinds of the training dataset's columns; empty where there is none."""
    task = ctx.settings.task
    if task is None:
        return {}
    try:
        return tables.version(ctx, task.dataset).columns
    except KaizenError:
        return {}


def _as_kind(column: pa.ChunkedArray, kind: Kind | None) -> pa.ChunkedArray:
    """Return a column in the dataset's type where it fits, else as it is: the contract's check says what is wrong with it."""
    wanted = TYPES.get(kind) if kind else None
    if wanted is None or column.type == wanted:
        return column
    try:
        return pc.cast(column, wanted)
    except pa.ArrowException:
        return column


def _target(values: list[Any], kind: Kind | None) -> pa.Array:
    """Return outcomes in the target's type: 1 for a class ``true``, ``"1"`` for a class 1, and the reverse."""
    if kind == "boolean":
        return pa.array([None if value is None else bool(value) for value in values], pa.bool_())
    if kind in ("integer", "number"):
        numbers = pa.array([None if value is None else float(value) for value in values], pa.float64())
        return _as_kind(pa.chunked_array([numbers]), kind).combine_chunks()
    if kind is not None:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.array(values)
