"""Filling the online store out of the datasets: what was added since the last time, or all of it, in the form in which reads take it.

How far the store has come stands in the store itself, so that one that was lost is filled anew. Rows that a push brings meanwhile are
never undone: they wait in the buffer before they are online, and what waits there is put once more after everything was replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.data import store as datasets
from kaizenml.data.dataset import DatasetVersion
from kaizenml.features import join
from kaizenml.features.encoding.vectorised import microseconds
from kaizenml.features.offline import frame
from kaizenml.features.online.buffer import buffer_of
from kaizenml.features.online.push import time_text
from kaizenml.features.online.taking import history_of
from kaizenml.features.view import FeatureView, key_of
from kaizenml.features.windows.moments import History, Row, keep_s, keeps_rows, reach_us, steps
from kaizenml.ports import OnlineRow

_BATCH = 10_000  # entities in one transaction of the online store: others may write in between
_MARK = "dataset"  # the key under which a view's mark is kept, in a view of its own
Progress = Callable[[str, float], None]


class Filled(NamedTuple):
    """What a filling did."""

    version: DatasetVersion
    entities: int
    kept: int


class Mark(NamedTuple):
    """What the online store holds of a view's dataset."""

    number: int
    parts: list[int]
    exclusions: list[int]
    keys: list[str]

    def follows(self, other: Mark) -> bool:
        """Tell whether only parts were added since ``other``. What a query gives is never only added to."""
        return self.exclusions == other.exclusions and self.keys == other.keys and self.parts[: len(other.parts)] == other.parts


def fill(ctx: Context, view: FeatureView, *, everything: bool, progress: Progress | None = None) -> Filled:
    """Bring the online store to the dataset's newest version."""
    version, mark = _now(ctx, view)
    before = None if everything else _marked(ctx, view)
    if before == mark:
        return Filled(version, 0, 0)

    def rows() -> pa.Table:
        return frame.view_rows(ctx, view, version, more=mark.keys)

    work: _Histories | _Newest = _Histories(ctx, view, mark.keys, rows, progress) if keeps_rows(view) else _Newest(ctx, view, progress)
    if before is not None and view.sql is None and mark.follows(before):
        added = msgspec.structs.replace(version, parts=mark.parts[len(before.parts) :])
        kept = work.add(frame.view_rows(ctx, view, added, more=mark.keys))
    else:
        kept = work.replace(rows())
    ctx.online.update(f"{view.ref}#", [_MARK], lambda _key, row: row if row and row.values["number"] > mark.number else _row_of(mark))
    return Filled(version, work.entities, kept)


def renew(ctx: Context, view: FeatureView, keys: Iterable[str]) -> int:
    """Make these entities anew from the rows that the dataset has now; an entity without any goes. Return how many rows differ."""
    version, mark = _now(ctx, view)
    wanted, rows = set(keys), frame.view_rows(ctx, view, version, more=mark.keys)
    rows = rows.filter(pa.array([key in wanted for key in key_texts(view.entities, rows)], pa.bool_()))
    if keeps_rows(view):
        made = _Histories(ctx, view, mark.keys, lambda: rows, None).made(rows)
    else:
        newest = join.newest(rows, on=view.entities, at=view.at)
        made = {key: OnlineRow(at, values) for key, at, values in online_rows(view, newest)}
    ordered = sorted(wanted)
    batches = [ordered[start : start + _BATCH] for start in range(0, len(ordered), _BATCH)]
    return sum(ctx.online.update(view.ref, batch, lambda key, _row: made.get(key), keep_s=keep_s(view)) for batch in batches)


def keys_of(ctx: Context, dataset: str) -> list[str]:
    """Return the columns that tell a dataset's rows apart; none where its contract names no key, or it does not exist yet."""
    with ctx.catalog.read() as connection:
        found = datasets.find(connection, dataset)
    return found.contract.keys if found else []


def beside(ctx: Context, view: FeatureView) -> list[FeatureView]:
    """Return the other views over a view's dataset into which rows can be pushed: what comes there is this one's too."""
    if view.sql is not None:
        return []
    return [each for each in frame.views(ctx) if each.dataset == view.dataset and each.sql is None and each.ref != view.ref]


def waiting_rows(ctx: Context, view: FeatureView) -> Iterator[list[dict[str, Any]]]:
    """Yield the pushed rows that wait for a view's dataset, push by push, as rows of this view: also those that came into one beside it."""
    buffer = buffer_of(ctx.state)
    yield from buffer.waiting_rows(view.ref)
    keys = keys_of(ctx, view.dataset) if keeps_rows(view) else []
    needed = dict.fromkeys([*view.entities, *view.reads, *keys, *(name for name in (view.at, view.created) if name)])
    for each in beside(ctx, view):
        for rows in buffer.waiting_rows(each.ref):
            if rows and needed.keys() <= rows[0].keys():
                yield [{name: row[name] for name in needed} for row in rows]


def online_rows(view: FeatureView, rows: pa.Table) -> Iterator[tuple[str, float, dict[str, Any]]]:
    """Write a table's rows as ``push`` would: NaN and infinite are null, times are text."""
    times = [us / 1e6 for us in microseconds(rows.column(view.at)).to_pylist()] if view.at is not None else [0.0] * rows.num_rows
    columns = [online_values(rows.column(name)) for name in view.columns]
    for key, at, values in zip(key_texts(view.entities, rows), times, zip(*columns, strict=True), strict=True):
        if key is not None:
            yield key, at, dict(zip(view.columns, values, strict=True))


def key_texts(names: Sequence[str], rows: pa.Table) -> Iterable[str | None]:
    """Return the text of each row's key over some columns."""
    texts = [join.key_text(rows.column(name)).to_pylist() for name in names]
    return texts[0] if len(texts) == 1 else map(key_of, zip(*texts, strict=True))


def history_rows(view: FeatureView, keys: Sequence[str], rows: pa.Table) -> dict[str, list[Row]]:
    """Return by entity, in the order of addition, the rows that a window may still ask for."""
    of, _ = join.codes(rows, rows, view.entities)
    us = np.zeros(rows.num_rows, np.int64)
    if view.at is not None:
        times = microseconds(rows.column(view.at))
        of = np.where(np.asarray(times.is_null().to_numpy(), bool), -1, of)
        us = np.asarray(times.fill_null(0).to_numpy(), np.int64)
    keep = of >= 0
    reach = reach_us(view.aggregates) if view.created is None else None  # what is not known yet does not count: `prune` sees to that
    if reach is not None and keep.any():
        newest = np.full(int(of.max()) + 1, np.iinfo(np.int64).min)
        np.maximum.at(newest, of[keep], us[keep])
        keep &= us > newest[np.maximum(of, 0)] - reach
    if not keep.all():
        rows, us = rows.filter(pa.array(keep)), us[keep]
    known = us
    if view.created is not None:
        created = microseconds(rows.column(view.created))
        known = np.maximum(np.where(np.asarray(created.is_null().to_numpy(), bool), us, np.asarray(created.fill_null(0).to_numpy(), np.int64)), us)
    identities: Iterable[str | None] = key_texts(keys, rows) if keys else [None] * rows.num_rows
    columns = [online_values(rows.column(name)) for name in view.reads]
    values: Iterable[tuple[Any, ...]] = zip(*columns, strict=True) if columns else [()] * rows.num_rows
    found: dict[str, list[Row]] = {}
    for key, row in zip(key_texts(view.entities, rows), map(Row, us.tolist(), known.tolist(), identities, values), strict=True):
        if key is not None:
            found.setdefault(key, []).append(row)
    return found


class _Newest:
    """Filling a view of which the newest row of each entity is kept."""

    def __init__(self, ctx: Context, view: FeatureView, progress: Progress | None) -> None:
        self.ctx, self.view, self.progress = ctx, view, progress
        self.entities = 0

    def add(self, rows: pa.Table) -> int:
        """Take added rows: what is newer stays."""
        newest = join.newest(rows, on=self.view.entities, at=self.view.at)
        self.entities, kept = newest.num_rows, 0
        for batch in _batches(newest, self.progress):
            kept += self.ctx.online.write(self.view.ref, online_rows(self.view, batch), keep_s=keep_s(self.view))
        return kept

    def replace(self, rows: pa.Table) -> int:
        """Take these rows for all there is."""
        newest = join.newest(rows, on=self.view.entities, at=self.view.at)
        self.entities, kept = newest.num_rows, 0
        seen: set[str] = set()
        for batch in _batches(newest, self.progress):
            made = {key: OnlineRow(at, values) for key, at, values in online_rows(self.view, batch)}
            seen |= made.keys()
            kept += _replaced(self.ctx, self.view, made)
        _remove_others(self.ctx, self.view, seen)
        return kept


class _Histories:
    """Filling a view that keeps rows of each entity."""

    def __init__(self, ctx: Context, view: FeatureView, keys: Sequence[str], whole: Callable[[], pa.Table], progress: Progress | None) -> None:
        self.ctx, self.view, self.keys, self.progress = ctx, view, keys, progress
        self.entities = 0
        self._whole = whole
        self._reach, self._by = reach_us(view.aggregates), steps(view.aggregates)

    def add(self, rows: pa.Table) -> int:
        """Take added rows. Where one is older than those that are kept one by one and a window asks for it, the entity is made anew."""
        found = history_rows(self.view, self.keys, rows)
        self.entities, kept = len(found), 0
        torn: set[str] = set()

        def change(key: str, row: OnlineRow | None) -> OnlineRow | None:
            history = history_of(self.view, self.keys, row)
            new, late = history.put(found[key], over=True)
            if late and history.summed(found[key]):
                torn.add(key)
            if not new:
                return row
            history.prune(self._reach, self._by)
            return OnlineRow(history.times[-1] / 1e6, history.packed())

        for batch in _keys(found, self.progress):
            kept += self.ctx.online.update(self.view.ref, batch, change, keep_s=keep_s(self.view))
        return kept + (self._renew(torn) if torn else 0)

    def replace(self, rows: pa.Table) -> int:
        """Take these rows for all there is."""
        found = history_rows(self.view, self.keys, rows)
        self.entities, kept = len(found), 0
        for batch in _keys(found, self.progress):
            kept += _replaced(self.ctx, self.view, {key: self._made(found[key]) for key in batch})
        _remove_others(self.ctx, self.view, found.keys())
        return kept

    def _renew(self, keys: set[str]) -> int:
        rows = self._whole()
        wanted = pa.array([key in keys for key in key_texts(self.view.entities, rows)], pa.bool_())
        found = history_rows(self.view, self.keys, rows.filter(wanted))
        return sum(_replaced(self.ctx, self.view, {key: self._made(found[key]) for key in batch}) for batch in _keys(found, None))

    def made(self, rows: pa.Table) -> dict[str, OnlineRow]:
        """Return what is kept of each entity among these rows."""
        return {key: self._made(found) for key, found in history_rows(self.view, self.keys, rows).items()}

    def _made(self, rows: Sequence[Row]) -> OnlineRow:
        history = History(self.view.reads, timed=self.view.created is not None, keyed=bool(self.keys))
        history.load(rows)
        history.prune(self._reach, self._by)
        return OnlineRow(history.times[-1] / 1e6, history.packed())


def _replaced(ctx: Context, view: FeatureView, made: Mapping[str, OnlineRow]) -> int:
    return ctx.online.update(view.ref, made, lambda key, row: row if row == made[key] else made[key], keep_s=keep_s(view))


def _remove_others(ctx: Context, view: FeatureView, seen: Container[str]) -> None:
    gone = [key for key in ctx.online.keys(view.ref) if key not in seen]
    ctx.online.update(view.ref, gone, lambda _key, _row: None)


def _now(ctx: Context, view: FeatureView) -> tuple[DatasetVersion, Mark]:
    version = tables.version(ctx, view.dataset)
    if view.sql is not None:
        behind = [tables.version(ctx, name) for name in frame.datasets_behind(ctx, view)]
        with ctx.catalog.read() as connection:
            held = [one.id for one in exclusions.active(connection, [each.dataset for each in behind])]
        return version, Mark(sum(each.number for each in behind), [each.number for each in behind], held, [])
    if not keeps_rows(view):  # corrections.py sees to exclusions
        return version, Mark(version.number, version.parts, [], [])
    with ctx.catalog.read() as connection:
        held = [one.id for one in exclusions.active(connection, [view.dataset])]
    return version, Mark(version.number, version.parts, held, keys_of(ctx, view.dataset))


def _marked(ctx: Context, view: FeatureView) -> Mark | None:
    row = ctx.online.read(f"{view.ref}#", [_MARK])[0]
    return None if row is None else Mark(**row.values)


def _row_of(mark: Mark) -> OnlineRow:
    return OnlineRow(0.0, mark._asdict())


def _batches(rows: pa.Table, progress: Progress | None) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, _BATCH):
        yield rows.slice(start, _BATCH)
        if progress is not None:
            progress("online", min(start + _BATCH, rows.num_rows) / rows.num_rows)


def _keys(found: Mapping[str, Any], progress: Progress | None) -> Iterator[list[str]]:
    keys = list(found)
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]
        if progress is not None:
            progress("online", min(start + _BATCH, len(keys)) / len(keys))


def online_values(column: pa.ChunkedArray) -> Sequence[Any]:
    """Return a column's values as the online store holds them: times are text, what is not finite is null."""
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return [None if us is None else time_text(us) for us in microseconds(column).to_pylist()]
    if pa.types.is_floating(column.type):
        # what is not finite is null: in one pass, and only where there is any
        finite = pc.is_finite(column)
        if pc.all(finite, min_count=0).as_py() is False:
            column = pc.if_else(finite, column, None)
    values: Sequence[Any] = column.to_pylist()
    return values
