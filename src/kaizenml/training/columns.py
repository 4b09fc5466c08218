"""Columns as plain numbers, and those that cannot teach: constants, identifiers, clocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.features.encoding.vectorised import category_text, microseconds
from kaizenml.features.signature import Field

Floats = npt.NDArray[np.float64]
CLOCK = 0.98
IDENTIFIER = 0.95


def numbers(column: pa.ChunkedArray, kind: str) -> Floats:
    """Return a column as float64 with NaN for missing: categories as codes, times as seconds since 1970."""
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    if kind in ("category", "text"):
        column = category_text(column).combine_chunks().dictionary_encode().indices
    elif kind == "timestamp":
        return np.array(microseconds(column).cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64) / 1e6
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    values = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    values[np.isinf(values)] = np.nan
    return values


def unfit(table: pa.Table, fields: list[Field], *, times: Floats | None, key: str | None) -> dict[str, str]:
    """Tell which fields cannot teach anything that holds tomorrow, and why.

    Parameters
    ----------
    table : the labelled rows.
    fields : the columns to look at.
    times : seconds of each row, or None. A number that only ever grows with it (a year, a month within one year, a
        running number) is a clock: its future values are never among those learnt.
    key : the column that identifies a row.

    Returns
    -------
    Column -> reason.
    """
    reasons: dict[str, str] = {}
    for field in fields:
        column = table.column(field.name)
        filled = len(column) - column.null_count
        distinct = pc.count_distinct(column, mode="only_valid").as_py() if filled else 0
        if field.name == key:
            reasons[field.name] = "it is the key"
        elif filled == 0:
            reasons[field.name] = "it is empty"
        elif distinct == 1 and filled >= 0.99 * len(column):
            reasons[field.name] = "it has one value only"
        elif _identifies(column, field, distinct, filled):
            reasons[field.name] = "it identifies rows: nearly every row has its own value"
        elif times is not None and field.kind in ("number", "integer") and distinct > 2 and _is_clock(numbers(column, field.kind), times):
            reasons[field.name] = "it is a clock: it only grows with time, so tomorrow's values are never among those learnt"
    return reasons


def _identifies(column: pa.ChunkedArray, field: Field, distinct: int, filled: int) -> bool:
    if distinct < IDENTIFIER * filled or filled < 30:
        return False
    if field.kind == "category":
        return True
    if field.kind != "integer":
        return False
    bounds = pc.min_max(column)
    return bool(distinct == filled and bounds["max"].as_py() - bounds["min"].as_py() < 2 * filled)  # a running number


def _is_clock(values: Floats, times: Floats) -> bool:
    """Whether the value never falls as time goes: its rank correlation with time is the highest its ties allow."""
    rows = np.flatnonzero(np.isfinite(values) & np.isfinite(times))
    if len(rows) < 30:
        return False
    rows = rows[:: max(1, len(rows) // 20_000)]
    x, t = values[rows], times[rows]
    order = np.argsort(t, kind="stable")
    position = np.empty(len(rows))
    position[order] = np.arange(len(rows))
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts + 1) / 2.0)[inverse]
    best = rank.std()  # the rank correlation that perfectly sorted values would have, times position.std()
    if best == 0 or position.std() == 0:
        return False
    found = float(np.mean((rank - rank.mean()) * (position - position.mean())) / position.std() / best)
    possible = best / position.std()
    return bool(found >= CLOCK * possible)
