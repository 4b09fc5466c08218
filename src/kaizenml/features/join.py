"""The point-in-time join: for each row, the newest values of its entity that were known at its time.

The view's entries are parted by entity, in the order of their times; then one binary search for all rows at once finds the positions
and one gather takes the values. Every row comes back, in its order: where nothing was known, with nulls.
"""

from __future__ import annotations

from typing import Any

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
    positions = known_positions(rows, view, on=on, at=at, known_at=known_at, ttl_us=ttl_us)
    taken = pa.array(positions, mask=positions < 0)
    return pa.table([_gathered(view.column(column), taken) for column in columns], names=columns)


def known_positions(rows: pa.Table, view: pa.Table, *, on: list[str], at: str | None, known_at: Int64 | None, ttl_us: int | None) -> Int64:
    """Return for each of ``rows`` the position of the row of the view that ``join`` takes its values from, or -1."""
    row_codes, view_codes = codes(rows, view, on)
    view_times = np.zeros(view.num_rows, np.int64)
    if at is not None:
        times = microseconds(view.column(at))
        view_times = np.asarray(times.fill_null(0).to_numpy(), np.int64)
        view_codes = np.where(np.asarray(times.is_null().to_numpy(), bool), -1, view_codes)
    row_times = np.full(rows.num_rows, _LAST) if known_at is None or at is None else known_at
    return positions_at(row_codes, row_times, view_codes, view_times, None if known_at is None or at is None else ttl_us)


def newest(view: pa.Table, *, on: list[str], at: str | None) -> pa.Table:
    """Return the newest row of each entity; of two with the same time the last. Rows without entity or time are left out."""
    numbered = codes(view, view, on)[1]
    times = np.zeros(view.num_rows, np.int64)
    if at is not None:
        known = microseconds(view.column(at))
        if known.null_count:
            numbered = np.where(np.asarray(known.is_null().to_numpy(), bool), -1, numbered)
        times = np.asarray((known.fill_null(0) if known.null_count else known).to_numpy(), np.int64)
    counts = np.bincount(numbered + 1, minlength=1)  # the first are those without an entity
    entities = np.flatnonzero(counts[1:])
    if bool((times[1:] >= times[:-1]).all()):
        places = np.full(len(counts), -1, np.int64)
        np.maximum.at(places, numbered + 1, np.arange(view.num_rows))
        positions = places[entities + 1]
    else:
        positions = positions_at(entities, np.full(len(entities), _LAST), numbered, times, None)
    return view.take(pa.array(positions))


def positions_at(row_codes: Int64, row_times: Int64, view_codes: Int64, view_times: Int64, ttl_us: int | None) -> Int64:
    """Return for each row the position in the view of the newest entry of its code at or before its time, or -1.

    Codes are dense: the largest of the view is not far above the number of its entities. Those below 0 stand for no entity and are never
    found. Of entries with equal code and time the last wins.
    """
    found = np.full(len(row_codes), -1, np.int64)
    there = view_codes >= 0
    usable = None if bool(there.all()) else np.flatnonzero(there)
    codes, times = (view_codes, view_times) if usable is None else (view_codes[usable], view_times[usable])
    if not len(codes) or not len(row_codes):
        return found
    by_time = None if bool((times[1:] >= times[:-1]).all()) else np.argsort(times, kind="stable")
    if by_time is not None:
        codes, times = codes[by_time], times[by_time]
    entities = int(codes.max()) + 1
    ends, order, times = parted(codes, times, entities)
    asking = np.flatnonzero((row_codes >= 0) & (row_codes < entities))
    row_ends, row_order, moments = parted(row_codes[asking], row_times[asking], entities)
    places, known = _last_until(times, moments, *(np.repeat(some, np.diff(row_ends)) for some in (ends[:-1], ends[1:])))
    if ttl_us is not None:
        ttl_us = min(ttl_us, _LAST)
        known &= times[places] >= np.where(moments >= MISSING + ttl_us, moments - ttl_us, MISSING)  # without overflow
    positions = order[places[known]]
    if by_time is not None:
        positions = by_time[positions]
    found[asking[row_order[known]]] = positions if usable is None else usable[positions]
    return found


def parted(codes: Int64, times: Int64, entities: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any], Int64]:
    """Part entries by code, their order kept: where each code begins and, last, all end; which entry stands where; and its time.

    That is the transposition of a sparse matrix with one entry a row, which SciPy does by counting: in one pass, four times as fast as a sort.
    """
    from scipy import sparse

    index = np.int32 if max(len(codes), entities) < 2**31 else np.int64
    matrix = sparse.csr_array((times, codes.astype(index), np.arange(len(codes) + 1, dtype=index)), shape=(len(codes), entities)).tocsc()
    return matrix.indptr, matrix.indices, matrix.data


def _last_until(times: Int64, moments: Int64, low: npt.NDArray[Any], high: npt.NDArray[Any]) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """Return the place of the last time at or before each moment between ``low`` and ``high`` (times rise there), and whether there is one."""
    first = low = low.astype(np.int64)
    high = high.astype(np.int64)
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        passed = (low < high) & (times[np.minimum(middle, len(times) - 1)] <= moments)
        low, high = np.where(passed, middle + 1, low), np.where(passed, high, middle)
    return np.maximum(low - 1, first), low > first


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
