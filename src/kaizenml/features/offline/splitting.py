"""Windows over more rows than should be in memory at once: rows that ask and rows behind the view are cut by entity, joined piece by piece.

Rows of entities that nobody asks about, and of moments that nobody can see, go while the view is read, some rows at a time. What remains
and is still too much goes through files below the project's state, one for each piece. Each piece has all rows of its entities in the order in
which they were added, so the values are those of one join over everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from kaizenml.features import join
from kaizenml.features.encoding.vectorised import category_text, microseconds
from kaizenml.features.view import FeatureView
from kaizenml.features.windows.moments import reach_us
from kaizenml.scratch import Scratch

ROWS = 4_000_000
"""Rows behind a view that are worked on at once."""
_CHUNK = 1_000_000  # rows that are looked at together: each time all entities that are asked about are put into a table to look them up in
Moments = join.Int64 | None
Compute = Callable[[pa.Table, pa.Table, Moments], list[pa.ChunkedArray]]


def columns(
    scratch: Path, rows: pa.Table, view: FeatureView, known_at: Moments, behind: Iterable[pa.Table], *, of: int, compute: Compute
) -> list[pa.ChunkedArray]:
    """Return a view's features for each of ``rows``, in their order.

    Parameters
    ----------
    scratch : where files may be made for as long as this takes.
    known_at : as ``frame.with_features`` has it.
    behind : the rows behind the view, some at a time, in the order in which they were added.
    of : how many these are at most.
    compute : gives the features of some rows out of all rows behind their entities, at their moments.
    """
    pieces = -(-of // ROWS)
    entities = _entities(rows, view)
    needed = _Needed(entities, view, known_at)
    with Scratch(scratch, "view-") as folder, ExitStack() as files:
        kept = Pieces(folder, pieces, files, most=ROWS)
        for chunk in chunks(behind, _CHUNK):
            found, numbers = needed.among(chunk)
            kept.add(found, numbers)
        if needed.newest is not None:
            known_at = np.full(rows.num_rows, needed.newest)
        if kept.all is not None:
            return compute(rows, kept.all, known_at)
        of_rows = join.codes(rows, entities, view.entities)[0]
        piece_of = np.where(of_rows < 0, 0, of_rows % pieces)
        made, order = list[list[pa.ChunkedArray]](), list[join.Int64]()
        for piece, some in kept.each():
            places = np.flatnonzero(piece_of == piece)
            order.append(places)
            made.append(compute(rows.take(pa.array(places)), some, None if known_at is None else known_at[places]))
    back = pa.array(np.argsort(np.concatenate(order), kind="stable"))
    return [pa.chunked_array([chunk for part in parts for chunk in part.chunks]).combine_chunks().take(back) for parts in zip(*made, strict=True)]


def span(view: FeatureView, known_at: Moments) -> tuple[int | None, int | None]:
    """Return the first and the last moment, in microseconds, at which rows behind a view can matter; None: no such bound."""
    asked = None if known_at is None else known_at[known_at != join.MISSING]
    if asked is None or not len(asked) or view.at is None:
        return None, None
    reach = reach_us(view.aggregates)
    if view.ttl_s is None or reach is None:  # without a ttl the newest row counts however old: it tells 0 from unknown
        return None, int(asked.max())
    return max(int(asked.min()) - max(round(view.ttl_s * 1e6), reach), join.MISSING + 1), int(asked.max())


class _Needed:
    """Which rows behind a view can matter to those that ask."""

    def __init__(self, entities: pa.Table, view: FeatureView, known_at: Moments) -> None:
        self._entities, self._view = entities, view
        self._first, self._last = span(view, known_at)
        self.newest: int | None = None
        """Where windows end if no moment is asked about: at the newest of all rows."""
        self._seeks = known_at is None and bool(view.aggregates) and view.at is not None

    def among(self, chunk: pa.Table) -> tuple[pa.Table, join.Int64]:
        """Return the rows that matter, and the numbers of their entities."""
        view = self._view
        numbers = join.codes(chunk, self._entities, view.entities)[0]
        keep = numbers >= 0
        if view.at is not None:
            times = microseconds(chunk.column(view.at))
            at = np.asarray(times.fill_null(0).to_numpy(), np.int64)
            timed = ~np.asarray(times.is_null().to_numpy(), bool)
            keep &= timed
            if self._last is not None:
                keep &= at <= self._last
            if self._first is not None:
                keep &= at >= self._first
            if self._seeks:
                self._seek(chunk, at, timed)
        if keep.all():
            return chunk, numbers
        return chunk.filter(pa.array(keep)), numbers[keep]

    def _seek(self, chunk: pa.Table, at: join.Int64, timed: np.ndarray) -> None:
        if self._view.created is not None:
            at = np.maximum(at, np.asarray(pc.fill_null(microseconds(chunk.column(self._view.created)), join.MISSING).to_numpy(), np.int64))
        counting = at[timed & (join.codes(chunk, chunk, self._view.entities)[1] >= 0)]
        if len(counting):
            self.newest = max(int(counting.max()), join.MISSING if self.newest is None else self.newest)


class Pieces:
    """Rows on their way to their pieces: in memory while they are few, else in files.

    Parameters
    ----------
    folder : where the files are made.
    pieces : how many.
    files : closes them.
    most : rows that are held in memory.
    """

    def __init__(self, folder: Path, pieces: int, files: ExitStack, *, most: int) -> None:
        self._folder, self._pieces, self._files, self._most = folder, pieces, files, most
        self._held: list[pa.Table] = []
        self._numbers: list[join.Int64] = []
        self._writers: list[pa.RecordBatchFileWriter] = []
        self._schema: pa.Schema | None = None
        self._rows = 0

    @property
    def all(self) -> pa.Table | None:
        """All rows, where they are few."""
        return None if self._writers else pa.concat_tables(self._held)

    def add(self, rows: pa.Table, numbers: join.Int64) -> None:
        """Take rows; those with equal numbers come into one piece, in the order in which they were added."""
        self._rows += rows.num_rows
        self._held.append(rows)
        self._numbers.append(numbers)
        if self._rows > self._most or self._writers:
            for held, of in zip(self._held, self._numbers, strict=True):
                self._write(held, of)
            self._held, self._numbers = [], []

    def each(self) -> Iterator[tuple[int, pa.Table]]:
        """Give back piece by piece."""
        for piece, writer in enumerate(self._writers):
            writer.close()
            with pa.OSFile(str(self._path(piece))) as file:
                rows = pa.ipc.open_file(file).read_all()
            self._path(piece).unlink()
            yield piece, rows

    def _write(self, rows: pa.Table, numbers: join.Int64) -> None:
        for place, field in enumerate(rows.schema):
            if pa.types.is_dictionary(field.type):
                rows = rows.set_column(place, field.name, category_text(rows.column(place)))
        if not self._writers:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            for piece in range(self._pieces):
                sink = self._files.enter_context(pa.OSFile(str(self._path(piece)), "wb"))
                self._writers.append(self._files.enter_context(pa.ipc.new_file(sink, rows.schema, options=options)))
        piece_of = numbers % self._pieces
        order = np.argsort(piece_of, kind="stable")  # stable: the order of addition stays
        rows = rows.take(pa.array(order))
        ends = np.searchsorted(piece_of[order], np.arange(self._pieces + 1))
        for piece, writer in enumerate(self._writers):
            writer.write_table(rows.slice(ends[piece], ends[piece + 1] - ends[piece]))

    def _path(self, piece: int) -> Path:
        return self._folder / f"{piece}.arrow"


def _entities(rows: pa.Table, view: FeatureView) -> pa.Table:
    """Return each entity of some rows once."""
    numbers = join.codes(rows, rows, view.entities)[1]
    first = np.unique(numbers, return_index=True)
    return rows.select(view.entities).take(pa.array(np.sort(first[1][first[0] >= 0])))


def chunks(batches: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Put batches together until they have so many rows."""
    held: list[pa.Table] = []
    for batch in batches:
        held.append(batch)
        if sum(each.num_rows for each in held) >= rows:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)
