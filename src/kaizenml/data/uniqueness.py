"""Rows that are the same in the columns that tell rows apart: within a table, and against rows that are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def joined(table: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """Return one value for each row that is equal where all the columns are; null where one of them is.

    A single column stands for itself. Several become a text that begins each value with its length, so that no two lists of values
    have the same text.
    """
    if len(columns) == 1:
        return table[columns[0]]
    pieces: list[pa.ChunkedArray] = []
    for name in columns:
        text = table[name].cast(pa.string())
        pieces += [pc.utf8_length(text).cast(pa.string()), text]
    found = pc.binary_join_element_wise(*pieces, ":", null_handling="emit_null")
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def shown(table: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """Return the values of the columns as people read them: the value itself, or ``a, b``."""
    if len(columns) == 1:
        return table[columns[0]]
    found = pc.binary_join_element_wise(*[table[name].cast(pa.string()) for name in columns], ", ", null_handling="replace", null_replacement="")
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def repeated(values: pa.ChunkedArray, without: Iterable[int]) -> pa.Array:
    """Mark every occurrence of a value but its first, the rows ``without`` aside."""
    marks = np.zeros(len(values), dtype=bool)
    if pc.count_distinct(values).as_py() == len(values) - values.null_count:
        return pa.array(marks)
    codes = pc.fill_null(pa.concat_arrays(values.chunks).dictionary_encode().indices, -1).to_numpy(zero_copy_only=False)
    aside = np.zeros(len(values), dtype=bool)
    aside[list(without)] = True
    places = np.flatnonzero((codes >= 0) & ~aside)
    marks[places] = True
    marks[places[np.unique(codes[places], return_index=True)[1]]] = False
    return pa.array(marks)


def known(values: pa.ChunkedArray, there: pa.ChunkedArray) -> pa.ChunkedArray:
    """Mark the values that are among those ``there``."""
    if there.type != values.type:
        there = there.cast(values.type)
    return pc.and_(pc.is_in(values, value_set=there.drop_null()), pc.is_valid(values))
