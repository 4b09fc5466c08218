"""Columns as small numbers for the poison scan: classes of the target, levels and ranges of a column."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.trust.units import Floats, Ints

Coded = dict[str, tuple[Ints, list[str]]]
"""By column: a small number for each row, and what each number stands for."""
CLASSES = 5
_BINS, _LEVELS = 10, 200


def labels(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Return the target as small numbers: its classes, or below and above the middle for a number of many values."""
    if pa.types.is_floating(column.type) or (pa.types.is_integer(column.type) and pc.count_distinct(column).as_py() > 20):
        values = np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)
        middle = float(np.median(values))
        return (values > middle).astype(np.int64), [f"at most {middle:.4g}", f"above {middle:.4g}"]
    return _levels(column, CLASSES)


def coded(column: pa.ChunkedArray) -> tuple[Ints, list[str]]:
    """Return a column as small numbers with a name for each: levels of a category, ranges of numbers."""
    if _is_category(column) or pc.count_distinct(column).as_py() <= _BINS:
        return _levels(column, _BINS)
    plain = column.cast(pa.int64()).cast(pa.float64(), safe=False) if pa.types.is_timestamp(column.type) else column.cast(pa.float64(), safe=False)
    values = np.array(plain.to_numpy(), np.float64)
    known = values[np.isfinite(values)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(known) else np.zeros(0)
    codes = np.searchsorted(edges, values, side="left")
    codes[~np.isfinite(values)] = len(edges) + 1
    bounds = [f"{edge:.4g}" for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(bounds)]
    names = [f"up to {bounds[0]}", *between, f"over {bounds[-1]}"] if bounds else ["any"]
    return codes.astype(np.int64), [*names, "missing"]


def finely(column: pa.ChunkedArray) -> tuple[Ints, int]:
    """Return a column as small numbers and how many there are: as ``coded`` does, with more levels of a category."""
    codes, names = _levels(column, _LEVELS) if _is_category(column) else coded(column)
    return codes, len(names)


def numbers(column: pa.ChunkedArray) -> Floats:
    """Return a column as numbers for a model: a category by how frequent its level is."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
        return _levels(column, _LEVELS)[0].astype(np.float64)
    return np.array(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)


def _is_category(column: pa.ChunkedArray) -> bool:
    return not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_timestamp(column.type))


def _levels(column: pa.ChunkedArray, most: int) -> tuple[Ints, list[str]]:
    text = column.cast(pa.string()) if not pa.types.is_string(column.type) else column
    counts = pc.value_counts(pc.fill_null(text, "missing"))
    order = np.argsort(-counts.field("counts").to_numpy(), kind="stable")
    names = counts.field("values").take(pa.array(order)).to_pylist()
    kept = names[:most]
    codes = pc.index_in(pc.fill_null(text, "missing"), value_set=pa.array(kept, pa.string()))
    codes = np.asarray(pc.fill_null(codes, len(kept)).to_numpy(), np.int64)
    return codes, [*kept, "any other"] if len(names) > most else kept
