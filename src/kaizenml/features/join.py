"""The point-in-time join: for each row, the newest values of its entity that were known at its time.

The view is sorted once by (entity, time); then one binary search over all rows finds the positions and one
gather takes the values. Every row comes back, in its order: where nothing was known, with nulls.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.features.encoding.vectorised import category_text, microseconds
from kaizenml.features.view import entity_key

Int64 = npt.NDArray[np.int64]
MISSING = int(np.iinfo(np.int64).min)
"""The time of a row that has none."""
_LAST = int(np.iinfo(np.int64).max)


def join(
    rows: pa.Table, view: pa.Table, *, on: list[str], columns: list[str], at: str | None, known_at: Int64 | None, ttl_us: int | None
) -> pa.Table:
    """Return the view's ``columns`` for each of ``rows``.

    Parameters
    ----------
    rows : the table to enrich.
    view : the feature rows in the order in which they were added: of two with the same entity and time the last wins.
        Rows without an entity or, in a timed view, without a time, are never found.
    on : the columns that make an entity together, in both tables (null in one: no entity, hence nulls).
    columns, at : column names in ``view``; ``at`` None: the last row of each entity wins.
    known_at : for each row the moment, in microseconds since 1970 UTC, up to and including which values count as
        known; ``MISSING`` finds nothing. None: the newest values, whatever their time.
    ttl_us : values older than this at ``known_at`` count as missing; None: any age will do.

    Returns
    -------
    A table of ``columns``, as long as ``rows``.

    >>> weather = pa.table({"place": ["a", "a"], "at": pa.array([0, 7_200_000_000], pa.timestamp("us")), "temp": [1.0, 2.0]})
    >>> asked = np.array([3_600_000_000, 7_200_000_000])
    >>> flights = pa.table({"place": ["a", "a"]})
    >>> join(flights, weather, on=["place"], columns=["temp"], at="at", known_at=asked, ttl_us=None)["temp"].to_pylist()
    [1.0, 2.0]
    """
    row_codes, view_codes = codes(rows, view, on)
    view_times = np.zeros(view.num_rows, np.int64)
    if at is not None:
        times = microseconds(view.column(at))
        view_times = np.asarray(times.fill_null(0).to_numpy(), np.int64)
        view_codes = np.where(np.asarray(times.is_null().to_numpy(), bool), -1, view_codes)
    row_times = np.full(rows.num_rows, _LAST) if known_at is None or at is None else known_at
    positions = positions_at(row_codes, row_times, view_codes, view_times, None if known_at is None or at is None else ttl_us)
    taken = pa.array(positions, mask=positions < 0)
    return pa.table([_gathered(view.column(column), taken) for column in columns], names=columns)


def newest(view: pa.Table, *, on: list[str], at: str | None) -> pa.Table:
    """Return the newest row of each entity; of two with the same time the last. Rows without entity or time are left out."""
    numbered = codes(view, view, on)[1]
    times = np.zeros(view.num_rows, np.int64)
    if at is not None:
        known = microseconds(view.column(at))
        numbered = np.where(np.asarray(known.is_null().to_numpy(), bool), -1, numbered)
        times = np.asarray(known.fill_null(0).to_numpy(), np.int64)
    entities = np.unique(numbered[numbered >= 0])
    positions = positions_at(entities, np.full(len(entities), _LAST), numbered, times, None)
    return view.take(pa.array(positions))


def positions_at(row_codes: Int64, row_times: Int64, view_codes: Int64, view_times: Int64, ttl_us: int | None) -> Int64:
    """Return for each row the position in the view of the newest entry of its code at or before its time, or -1.

    Codes below 0 stand for no entity and are never found. Of entries with equal code and time the last wins.
    """
    there = view_codes >= 0
    usable = None if bool(there.all()) else np.flatnonzero(there)
    codes, times = (view_codes, view_times) if usable is None else (view_codes[usable], view_times[usable])
    if not len(codes) or not len(row_codes):
        return np.full(len(row_codes), -1, np.int64)
    ranks, row_ranks, size = _ranks(times, row_times, int(codes.max()) + 1)
    order, keys = _sorted(codes, ranks, size)
    places = np.searchsorted(keys, row_codes * size + row_ranks, side="right") - 1
    found = (places >= 0) & (row_codes >= 0) & (row_ranks >= 0)
    places = np.where(found, places, 0)
    if order is not None:
        places = order[places]
    found &= codes[places] == row_codes
    if ttl_us is not None:
        ttl_us = min(ttl_us, _LAST)
        found &= times[places] >= np.where(row_times >= MISSING + ttl_us, row_times - ttl_us, MISSING)  # without overflow
    return np.where(found, places if usable is None else usable[places], -1)


def _sorted(codes: Int64, ranks: Int64, size: int) -> tuple[Int64 | None, Int64]:
    """Return the order by code and rank, later additions behind earlier ones of the same time (None: as it is), and the keys in it."""
    if int(codes.max()) >= 2**32 or not bool((ranks[1:] >= ranks[:-1]).all()):
        keys = codes * size + ranks
        if bool((keys[1:] >= keys[:-1]).all()):
            return None, keys
        order = np.argsort(keys, kind="stable")
        return order, keys[order]
    # rows that come in the order of their times have to be parted by code only: numpy sorts 16 bits in linear time
    order = np.argsort(codes.astype(np.uint16), kind="stable")
    high = (codes >> 16).astype(np.uint16)
    if high.any():
        order = order[np.argsort(high[order], kind="stable")]
    keys = codes[order]
    keys *= size
    keys += ranks[order]
    return order, keys


def _ranks(times: Int64, row_times: Int64, codes: int) -> tuple[Int64, Int64, int]:
    """Replace times by small ordinals of the same order, so that (code, time) fits one int64; -1 for rows before all."""
    first, last = int(times.min()), int(times.max())
    size = last - first + 1
    if size * codes < 2**62:
        return times - first, np.clip(row_times, first - 1, last) - first, size
    known, ranks = np.unique(times, return_inverse=True)
    return ranks.astype(np.int64), np.searchsorted(known, row_times, side="right") - 1, len(known)


def codes(rows: pa.Table, view: pa.Table, on: list[str]) -> tuple[Int64, Int64]:
    """Number the entities of both tables alike, from 0; -1 where there is none, and in ``rows`` also where ``view`` lacks it."""
    of_rows, of_view = _codes(rows.column(on[0]), view.column(on[0]))
    for name in on[1:]:
        more_rows, more_view = _codes(rows.column(name), view.column(name))
        size = int(more_view.max(initial=0)) + 1
        pairs = np.where((of_view < 0) | (more_view < 0), -1, of_view * size + more_view)
        asked = np.where((of_rows < 0) | (more_rows < 0), -1, of_rows * size + more_rows)
        known = np.unique(pairs[pairs >= 0])
        of_view = np.where(pairs < 0, -1, np.searchsorted(known, pairs))
        places = np.searchsorted(known, asked)
        found = (asked >= 0) & (places < len(known))
        found[found] = known[places[found]] == asked[found]
        of_rows = np.where(found, places, -1)
    return of_rows, of_view


def _codes(row_keys: pa.ChunkedArray, view_keys: pa.ChunkedArray) -> tuple[Int64, Int64]:
    """Number the entities of the view; -1 where there is none, and in rows also where the view lacks it."""
    if row_keys.type != view_keys.type or not pa.types.is_integer(row_keys.type):
        row_keys, view_keys = key_text(row_keys), key_text(view_keys)
    elif (near := _near(row_keys, view_keys)) is not None:
        return near
    encoded = view_keys.combine_chunks().dictionary_encode()
    known = encoded.dictionary
    view_codes = encoded.indices.fill_null(-1)
    row_codes = pc.fill_null(pc.index_in(row_keys, value_set=known, skip_nulls=True), -1)
    return np.asarray(row_codes.to_numpy(), np.int64), np.asarray(view_codes.to_numpy(), np.int64)


def _near(row_keys: pa.ChunkedArray, view_keys: pa.ChunkedArray) -> tuple[Int64, Int64] | None:
    """Number whole numbers by a table of all that lie between the smallest and the largest; None where these are far more than the rows.

    The table takes 16 bytes for a row of the view at most, and all of it with what is made on the way and what is returned 40.
    """
    bounds = pc.min_max(view_keys)
    first, last = bounds["min"].as_py(), bounds["max"].as_py()
    if first is None or last - first > min(4 * len(view_keys), 2**31 - 3) or not -(2**62) < first <= last < 2**62:
        return None

    def places(keys: pa.ChunkedArray) -> Int64:
        held = np.asarray((pc.fill_null(keys, 0) if keys.null_count else keys).to_numpy(), np.int64) - first
        outside = held.view(np.uint64) > last - first  # what is below the first is far above the last by its bits
        if keys.null_count:
            outside |= np.asarray(keys.is_null().to_numpy(), bool)
        return np.where(outside, -1, held) if outside.any() else held

    of_view, of_rows = places(view_keys), places(row_keys)
    numbers = np.full(last - first + 2, -1, np.int32)  # the last for none
    numbers[of_view] = 0
    numbers[-1] = -1
    there = np.flatnonzero(numbers == 0)
    numbers[there] = np.arange(len(there), dtype=np.int32)
    del there
    for places_of in (of_rows, of_view):
        places_of[:] = numbers[places_of]
    return of_rows, of_view


def key_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write entities as ``entity_key`` does, column by column."""
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return column.cast(pa.string())
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_dictionary(column.type):
        return category_text(column)
    return pa.chunked_array([pa.array([entity_key(value) for value in column.to_pylist()], pa.string())])


def _gathered(column: pa.ChunkedArray, taken: pa.Array) -> pa.ChunkedArray:
    if pa.types.is_dictionary(column.type):
        column = category_text(column)
    combined = column.combine_chunks()  # one chunk: takes from many are slow
    return pa.chunked_array([combined.take(taken) if len(combined) else pa.nulls(len(taken), column.type)])
