"""Filling the online store out of the datasets: what was added since the last time, or all of it, in the form in which reads take it.

How far the store has come stands in the store itself, so that one that was lost is filled anew. Rows that a push brings meanwhile are
never undone: they wait in the buffer before they are online, and what waits there is put once more after everything was replaced. The mark
comes last, so a filling that was killed is done again. Memory is bounded whatever the number of rows: see ``by_entity.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, starmap
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
from kaizenml.features.online import by_entity
from kaizenml.features.online.buffer import buffer_of
from kaizenml.features.online.by_entity import key_texts
from kaizenml.features.online.push import time_text
from kaizenml.features.online.taking import history_of
from kaizenml.features.view import FeatureView
from kaizenml.features.windows.moments import History, Row, keep_s, keeps_rows, reach_us, steps
from kaizenml.ports import OnlineRow, Values
from kaizenml.scratch import FOLDER

_BATCH = 10_000  # entities in one transaction of the online store: others may write in between
_BLOCK = 200_000  # rows that are Python's values at once
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
    work = _work(ctx, view, mark.keys, version, progress)
    if before is not None and view.sql is None and mark.follows(before):
        earlier = tables.version(ctx, f"{view.dataset}@{before.number}")
        kept = work.add(msgspec.structs.replace(version, parts=mark.parts[len(before.parts) :], rows=max(version.rows - earlier.rows, 0)))
    else:
        kept = work.put(work.rows(version))
        _remove_others(ctx, view, work.seen)
    ctx.online.update(f"{view.ref}#", [_MARK], lambda _key, row: row if row and row.values["number"] > mark.number else _row_of(mark))
    return Filled(version, work.entities, kept)


def renew(ctx: Context, view: FeatureView, keys: Iterable[str]) -> int:
    """Make these entities anew from the rows that the dataset has now; an entity without any goes. Return how many rows differ."""
    version, mark = _now(ctx, view)
    wanted = sorted(set(keys))
    work = _work(ctx, view, mark.keys, version, None)
    changed = work.put(by_entity.of_keys(view, work.rows(version), wanted))
    return changed + ctx.online.update(view.ref, work.seen.others(wanted), lambda _key, _row: None)


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
    for key, at, values in zip(key_texts(view.entities, rows), _seconds(view, rows), _values(view.columns, rows), strict=True):
        if key is not None:
            yield key, at, dict(zip(view.columns, values, strict=True))


def _seconds(view: FeatureView, rows: pa.Table) -> list[float]:
    if view.at is None:
        return [0.0] * rows.num_rows
    found: list[float] = (np.asarray(microseconds(rows.column(view.at)).to_numpy(), np.int64) / 1e6).tolist()
    return found


def _values(columns: Sequence[str], rows: pa.Table) -> Iterable[tuple[Any, ...]]:
    return zip(*[online_values(rows.column(name)) for name in columns], strict=True) if columns else [()] * rows.num_rows


class _Newest:
    """Filling a view of which the newest row of each entity is kept."""

    def __init__(self, ctx: Context, view: FeatureView, read: _Read) -> None:
        self._ctx, self._view, self._read = ctx, view, read
        self.entities, self.seen = 0, by_entity.Seen()
        self._row = msgspec.defstruct(  # what is made of a struct's fields takes a tenth of the time that a dict takes
            "Row", [(f"c{place}", Any) for place, _ in enumerate(view.columns)],
            rename={f"c{place}": name for place, name in enumerate(view.columns)}, gc=False,
        )  # fmt: skip

    def rows(self, version: DatasetVersion) -> Iterator[pa.Table]:
        """Yield the rows of a version that may be used, some at a time."""
        return self._read.batches(version)

    def add(self, added: DatasetVersion) -> int:
        """Take added rows: what is newer stays."""
        return self._write(self.rows(added), over=False)

    def put(self, batches: Iterable[pa.Table]) -> int:
        """Take these rows for all there is of their entities."""
        return self._write(batches, over=True)

    def _write(self, batches: Iterable[pa.Table], *, over: bool) -> int:
        view, kept = self._view, 0
        for piece in self._read.pieces(batches, by_entity.newest(view)):
            self.entities += piece.num_rows
            for start in range(0, piece.num_rows, _BATCH):
                some = piece.slice(start, _BATCH)
                keys = [str(key) for key in key_texts(view.entities, some)]
                rows: Iterator[tuple[str, float, Values]] = zip(
                    keys, _seconds(view, some), starmap(self._row, _values(view.columns, some)), strict=True
                )
                kept += self._ctx.online.write(view.ref, rows, keep_s=keep_s(view), over=over)
                self.seen.add(keys)
                self._read.told(some.num_rows / piece.num_rows)
        return kept


class _Part(NamedTuple):
    """Rows of an entity as its history has them, and whether they are the first and the last of those that were found of it."""

    key: str
    times: list[int]
    known: list[int]
    identities: list[str] | None
    columns: list[list[Any]]
    first: bool
    last: bool

    def rows(self) -> list[Row]:
        values: Iterable[tuple[Any, ...]] = zip(*self.columns, strict=True) if self.columns else [()] * len(self.times)
        identities: Sequence[str | None] = self.identities or [None] * len(self.times)
        return [*map(Row, self.times, self.known, identities, values)]


class _Histories:
    """Filling a view that keeps rows of each entity."""

    def __init__(self, ctx: Context, view: FeatureView, keys: Sequence[str], version: DatasetVersion, read: _Read) -> None:
        self._ctx, self._view, self._keys, self._version, self._read = ctx, view, keys, version, read
        self.entities, self.seen = 0, by_entity.Seen()
        self._reach, self._by = reach_us(view.aggregates), steps(view.aggregates)

    def rows(self, version: DatasetVersion) -> Iterator[pa.Table]:
        """Yield the rows of a version that may be used, some at a time."""
        return self._read.batches(version)

    def add(self, added: DatasetVersion) -> int:
        """Take added rows. Where one is older than those that are kept one by one and a window asks for it, the entity is made anew."""
        kept = 0
        torn: set[str] = set()
        for block in self._blocks(self.rows(added)):
            found = {part.key: part.rows() for part in block}

            def change(key: str, row: OnlineRow | None, found: dict[str, list[Row]] = found) -> OnlineRow | None:
                history = history_of(self._view, self._keys, row)
                new, late = history.put(found[key], over=True)
                if late and history.summed(found[key]):
                    torn.add(key)
                if not new:
                    return row
                history.prune(self._reach, self._by)
                return OnlineRow(history.times[-1] / 1e6, history.packed())

            kept += self._ctx.online.update(self._view.ref, found, change, keep_s=keep_s(self._view))
        if torn:
            entities = self.entities
            kept += self.put(by_entity.of_keys(self._view, self.rows(self._version), torn))
            self.entities = entities
        return kept

    def put(self, batches: Iterable[pa.Table]) -> int:
        """Take these rows for all there is of their entities."""
        view, kept = self._view, 0
        history = History(view.reads, timed=view.created is not None, keyed=bool(self._keys))
        for block in self._blocks(batches):
            made = []
            for part in block:
                if part.first:
                    history = History(view.reads, timed=view.created is not None, keyed=bool(self._keys))
                history.load(part.times, part.known if view.created is not None else None, part.identities, part.columns)
                history.prune(self._reach, self._by)
                if part.last:
                    made.append((part.key, history.times[-1] / 1e6, history.packed()))
            kept += self._ctx.online.write(view.ref, made, keep_s=keep_s(view), over=True)
            self.seen.add([key for key, _, _ in made])
        return kept

    def _blocks(self, batches: Iterable[pa.Table]) -> Iterator[list[_Part]]:
        for piece in self._read.pieces(batches, by_entity.within_reach(self._view)):
            for block in _blocks(self._view, self._keys, piece):
                yield block
                self.entities += sum(part.first for part in block)
                self._read.told(sum(len(part.times) for part in block) / piece.num_rows)


class _Read:
    """Reads the rows behind a view, and tells how far that and what is made of them is."""

    def __init__(self, ctx: Context, view: FeatureView, keys: Sequence[str], version: DatasetVersion, progress: Progress | None) -> None:
        self._ctx, self._view, self._keys, self._progress = ctx, view, keys, progress
        self._of = frame.rows_behind(ctx, view, version)
        self._share = self._done = 0.0

    def batches(self, version: DatasetVersion) -> Iterator[pa.Table]:
        """Yield rows of a version."""
        read, of = 0, frame.rows_behind(self._ctx, self._view, version)
        for rows in frame.view_batches(self._ctx, self._view, version, more=self._keys):
            yield rows
            read += rows.num_rows
            if self._progress is not None:
                self._progress("read", min(read / max(of, 1), 1.0))

    def pieces(self, batches: Iterable[pa.Table], fewer: by_entity.Fewer) -> Iterator[pa.Table]:
        """Yield rows piece by piece, each with all rows of its entities."""
        keyed = frame.keyed(self._ctx, self._view)
        self._done = 0.0
        for rows, share in by_entity.pieces(self._ctx.state / FOLDER, self._view, batches, of=self._of, fewer=fewer):
            self._share = share
            yield rows if keyed else frame.once(self._view, rows)

    def told(self, part: float) -> None:
        """Tell that a part of the rows of a piece is online."""
        self._done = min(self._done + part * self._share, 1.0)
        if self._progress is not None:
            self._progress("online", self._done)


def _work(ctx: Context, view: FeatureView, keys: Sequence[str], version: DatasetVersion, progress: Progress | None) -> _Newest | _Histories:
    read = _Read(ctx, view, keys, version, progress)
    return _Histories(ctx, view, keys, version, read) if keeps_rows(view) else _Newest(ctx, view, read)


def _blocks(view: FeatureView, keys: Sequence[str], rows: pa.Table) -> Iterator[list[_Part]]:
    """Cut rows into blocks of entities, or of parts of an entity that has more rows, oldest first: so many are Python's values at once."""
    rows = rows.combine_chunks()  # takes from many are slow
    of, us = join.codes(rows, rows, view.entities)[1], np.zeros(rows.num_rows, np.int64)
    if view.at is not None:
        us = np.asarray(microseconds(rows.column(view.at)).to_numpy(), np.int64)
    known = us
    if view.created is not None:
        created = microseconds(rows.column(view.created))
        known = np.maximum(np.where(np.asarray(created.is_null().to_numpy(), bool), us, np.asarray(created.fill_null(0).to_numpy(), np.int64)), us)
    order = np.lexsort((known, us, of) if view.created is not None else (us, of))  # stable: in the order of addition
    of, us, known = of[order], us[order], known[order]

    def goes_on(place: int) -> bool:
        return 0 < place < len(of) and bool(of[place] == of[place - 1])

    begin = 0
    while begin < len(of):
        end = _end(of, us, begin)
        starts = np.concatenate([[0], np.flatnonzero(of[begin + 1 : end] != of[begin : end - 1]) + 1, [end - begin]]).tolist()
        some = rows.take(pa.array(order[begin:end]))
        identities = [key or "" for key in key_texts(keys, some)] if keys else None
        columns = [list(online_values(some.column(name))) for name in view.reads]
        times, learnt = us[begin:end].tolist(), known[begin:end].tolist()
        entities = [str(key) for key in key_texts(view.entities, some.take(pa.array(starts[:-1])))]
        yield [
            _Part(
                key, times[low:high], learnt[low:high], None if identities is None else identities[low:high], [each[low:high] for each in columns],
                first=low > 0 or not goes_on(begin), last=high < end - begin or not goes_on(end),
            )
            for key, low, high in zip(entities, starts[:-1], starts[1:], strict=True)
        ]  # fmt: skip
        begin = end


def _end(of: join.Int64, us: join.Int64, begin: int) -> int:
    """Return where the block ends that begins there: behind an entity, or, where that alone is too large, behind a moment."""
    far = min(begin + _BLOCK, len(of))
    if far < len(of) and of[far] == of[far - 1]:
        start = int(np.searchsorted(of, of[far]))
        if start > begin:
            far = start
        else:
            stop = int(np.searchsorted(of, of[far], side="right"))
            moment = begin + int(np.searchsorted(us[begin:stop], us[far]))
            far = moment if moment > begin else begin + int(np.searchsorted(us[begin:stop], us[far], side="right"))
    return min(far, int(np.searchsorted(of, of[begin] + _BATCH)))


def _remove_others(ctx: Context, view: FeatureView, seen: by_entity.Seen) -> None:
    """Remove what the online store holds of entities that there are no rows of."""
    keys = ctx.online.keys(view.ref)
    while page := list(islice(keys, _BATCH)):
        if gone := seen.others(page):
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
