"""Views of plain columns: entities and times are read first, and values afterwards, some rows at a time, of which only those found are kept.

So memory holds what was asked for and not the view, however large that is, and most of a view is never copied.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from kaizenml.data.tables import Scan
from kaizenml.features import join
from kaizenml.features.encoding.vectorised import category_text, microseconds
from kaizenml.features.offline import splitting
from kaizenml.features.view import FeatureView


def columns(rows: pa.Table, view: FeatureView, known_at: join.Int64 | None, behind: Scan, none: pa.Table) -> list[pa.ChunkedArray]:
    """Return a view's features for each of ``rows``, in their order.

    Parameters
    ----------
    known_at : as ``frame.with_features`` has it.
    behind : the rows behind the view.
    none : the columns of these, without rows.
    """
    keys = list(dict.fromkeys([*view.entities, *([view.at] if view.at else [])]))
    ttl_us = None if view.ttl_s is None else round(view.ttl_s * 1e6)
    found, of = np.full(rows.num_rows, -1, np.int64), np.full(rows.num_rows, join.MISSING)
    begin = 0
    for some in splitting.chunks(behind.batches(keys), splitting.ROWS):
        places = join.known_positions(rows, some, on=view.entities, at=view.at, known_at=known_at, ttl_us=ttl_us)
        there = np.flatnonzero(places >= 0)
        moments = _moments(some, view.at, places[there])
        newer = moments >= of[there]  # of two with the same time the one that was added last
        there = there[newer]
        found[there], of[there] = places[there] + begin, moments[newer]
        begin += some.num_rows
    return _values(behind.batches(view.columns), found, none.select(view.columns))


def _moments(some: pa.Table, at: str | None, places: join.Int64) -> join.Int64:
    if at is None:
        return np.zeros(len(places), np.int64)
    return np.asarray(microseconds(some.column(at)).fill_null(0).to_numpy(), np.int64)[places]


def _values(batches: Iterable[pa.Table], positions: join.Int64, none: pa.Table) -> list[pa.ChunkedArray]:
    order = np.argsort(positions, kind="stable")
    found = positions[order]
    missing = low = int(np.searchsorted(found, 0))
    pieces = [[_plain(column).combine_chunks()] for column in none.columns]
    begin = 0
    for batch in batches:
        end = begin + batch.num_rows
        high = int(np.searchsorted(found, end))
        if high > low:
            taken = pa.array(found[low:high] - begin)
            for some, column in zip(pieces, batch.columns, strict=True):
                some.append(_plain(column.take(taken)).combine_chunks())
        begin, low = end, high
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order)) - missing
    places = pa.array(back, mask=back < 0)
    return [pa.chunked_array([pa.concat_arrays(some).take(places)]) for some in pieces]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return category_text(column) if pa.types.is_dictionary(column.type) else column
