"""Rows behind a view, brought together by entity: some entities at a time with all of their rows, in bounded memory.

Rows come in the order in which they were added. While few are left of those that matter, they are held; else they go through files below the
project's state, dealt out by a hash of their entity. One entity stays whole: with its rows as columns, not as Python's values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.features import join
from kaizenml.features.encoding.vectorised import microseconds
from kaizenml.features.offline import splitting
from kaizenml.features.view import FeatureView, key_of
from kaizenml.features.windows.moments import reach_us
from kaizenml.scratch import Scratch

ROWS = 1_000_000
"""Rows that are held at once."""
_MOST_PIECES = 200  # files that are open at once
Fewer = Callable[[pa.Table], pa.Table]


def pieces(scratch: Path, view: FeatureView, batches: Iterable[pa.Table], *, of: int, fewer: Fewer) -> Iterator[tuple[pa.Table, float]]:
    """Yield the rows piece by piece, with its part of all pieces; each has all rows of its entities that matter, in the order of addition.

    Parameters
    ----------
    scratch : where files may be made for as long as this takes.
    batches : the rows, some at a time; at least one table, which may have no row.
    of : about how many rows these are.
    fewer : leaves out rows that do not matter beside the others of a table, and keeps the order of those of an entity.
    """
    with ExitStack() as files:
        place = Scratch(scratch, "fill-")
        files.callback(place.close)
        dealt: splitting.Pieces | None = None
        held, rows, all_ = list[pa.Table](), 0, 0
        for batch in batches:
            held.append(batch)
            rows += batch.num_rows
            if rows <= ROWS:
                continue
            together = fewer(pa.concat_tables(held))
            if dealt is None and together.num_rows > ROWS // 2:
                dealt = splitting.Pieces(place.path, min(max(2, -(-of // ROWS)), _MOST_PIECES), files, most=0)
            if dealt is not None:
                dealt.add(together, hashes(view.entities, together))
                all_ += together.num_rows
            held = [together if dealt is None else together.slice(0, 0)]
            rows = held[0].num_rows
        together = fewer(pa.concat_tables(held))
        if dealt is None:
            yield together, 1.0
            return
        dealt.add(together, hashes(view.entities, together))
        all_ += together.num_rows
        del held, together
        for _, piece in dealt.each():
            if piece.num_rows:
                yield fewer(piece), piece.num_rows / all_


def of_keys(view: FeatureView, batches: Iterable[pa.Table], keys: Iterable[str]) -> Iterator[pa.Table]:
    """Yield the rows of some entities."""
    wanted = set(keys)
    values = pa.array(wanted, pa.string())
    for rows in batches:
        if len(view.entities) == 1:
            yield rows.filter(pc.is_in(join.key_text(rows.column(view.entities[0])), value_set=values))
        else:
            yield rows.filter(pa.array([key in wanted for key in key_texts(view.entities, rows)], pa.bool_()))


def key_texts(names: Sequence[str], rows: pa.Table) -> Iterable[str | None]:
    """Return the text of each row's key over some columns."""
    texts = [join.key_text(rows.column(name)).to_pylist() for name in names]
    return texts[0] if len(texts) == 1 else map(key_of, zip(*texts, strict=True))


def hashes(names: Sequence[str], rows: pa.Table) -> join.Int64:
    """Return for each row a number that is the same, in this process, where the key is."""
    return np.fromiter(map(hash, key_texts(names, rows)), np.int64, rows.num_rows)


class Seen:
    """Which keys there were, in eight bytes each. Of keys that there were not, it takes one in 10**19 / their number for one that was."""

    def __init__(self) -> None:
        self._found: list[join.Int64] = []
        self._sorted: join.Int64 | None = None

    def add(self, keys: Sequence[str]) -> None:
        self._found.append(np.fromiter(map(hash, keys), np.int64, len(keys)))

    def others(self, keys: Sequence[str]) -> list[str]:
        """Return those of some keys that there were not."""
        if self._sorted is None:
            self._sorted = np.sort(np.concatenate([np.empty(0, np.int64), *self._found]))
            self._found = []
        asked = np.fromiter(map(hash, keys), np.int64, len(keys))
        places = np.searchsorted(self._sorted, asked)
        there = places < len(self._sorted)
        there[there] = self._sorted[places[there]] == asked[there]
        return [key for key, known in zip(keys, there.tolist(), strict=True) if not known]


def newest(view: FeatureView) -> Fewer:
    """Return what leaves the newest row of each entity."""
    return lambda rows: join.newest(rows, on=view.entities, at=view.at)


def within_reach(view: FeatureView) -> Fewer:
    """Return what leaves the rows that a window may still ask for from their entity's newest on."""
    reach = reach_us(view.aggregates) if view.created is None else None  # what is not known yet does not count: `prune` sees to that

    def fewer(rows: pa.Table) -> pa.Table:
        of, _ = join.codes(rows, rows, view.entities)
        if view.at is None:
            return rows if bool((of >= 0).all()) else rows.filter(pa.array(of >= 0))
        times = microseconds(rows.column(view.at))
        keep = (of >= 0) & ~np.asarray(times.is_null().to_numpy(), bool)
        if reach is not None and keep.any():
            us = np.asarray(times.fill_null(0).to_numpy(), np.int64)
            last = np.full(int(of.max()) + 1, np.iinfo(np.int64).min)
            np.maximum.at(last, of[keep], us[keep])
            keep &= us > last[np.maximum(of, 0)] - reach
        return rows if bool(keep.all()) else rows.filter(pa.array(keep))

    return fewer
