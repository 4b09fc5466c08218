"""The columns of a training frame that can be inputs, as they were seen in it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Kind
from kaizenml.features.encoding.vectorised import category_text, microseconds
from kaizenml.features.signature import DERIVED, Derived, Field, FieldKind
from kaizenml.features.view import FeatureView

MAX_TEXT_LEVELS = 40  # a column of text with no more distinct values than this is a category


def fields_of(
    table: pa.Table,
    *,
    target: str,
    ignore: Iterable[str] = (),
    views: Sequence[FeatureView] = (),
    derived: Sequence[Derived] = (),
    kinds: Mapping[str, Kind] | None = None,
) -> list[Field]:
    """Return the columns of a training frame that can be inputs, as they were seen in it.

    Parameters
    ----------
    table : the training frame.
    target, ignore : columns that are no inputs.
    views, derived : what is in the frame, so that columns are known to come from it.
    kinds : kinds by column, see ``frame.kinds_of``; where it says nothing, the column's type decides. Text is an input only
        where it has few distinct values.
    """
    given = {name: view.name for view in views for name in view.features} | {each.name: DERIVED for each in derived}
    left_out = {target, *ignore}
    return [
        _field(table.column(name), name, kind, given.get(name))
        for name in table.column_names
        if name not in left_out and (kind := _field_kind(table.column(name), (kinds or {}).get(name))) is not None
    ]


def plain_kind(found: pa.DataType) -> Literal["boolean", "integer", "number", "timestamp"] | None:
    """Return the kind that a type stands for by itself; None for text and whatever else there is."""
    if pa.types.is_boolean(found):
        return "boolean"
    if pa.types.is_integer(found):
        return "integer"
    if pa.types.is_floating(found) or pa.types.is_decimal(found):
        return "number"
    return "timestamp" if pa.types.is_timestamp(found) or pa.types.is_date(found) else None


def _field_kind(column: pa.ChunkedArray, kind: Kind | None) -> FieldKind | None:
    found = column.type
    if kind is not None and kind != "text":
        return kind
    if (plain := plain_kind(found)) is not None:
        return plain
    if pa.types.is_dictionary(found):
        return "category"
    if pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found):
        distinct = pc.count_distinct(column, mode="only_valid").as_py()
        return "category" if 0 < distinct <= min(MAX_TEXT_LEVELS, len(column) // 2) else None
    return None


def _field(column: pa.ChunkedArray, name: str, kind: FieldKind, view: str | None) -> Field:
    minimum = maximum = None
    examples: list[Any] = []
    nullable = column.null_count > 0
    if kind == "category":
        counted = pc.value_counts(category_text(column).combine_chunks()).to_pylist()
        counted.sort(key=lambda item: (-item["counts"], item["values"] or ""))
        examples = [item["values"] for item in counted if item["values"] is not None][:5]
    elif kind == "boolean":
        examples = [False, True]
    elif kind == "timestamp":
        us = np.sort(microseconds(column).drop_null().to_numpy())
        if len(us):
            minimum, maximum = float(us[0] / 1e6), float(us[-1] / 1e6)
            examples = [f"{np.datetime64(int(us[place]), 'us').astype('datetime64[s]')}Z" for place in (0, len(us) // 2, len(us) - 1)]
    else:
        values = column.cast(pa.float64(), safe=False).drop_null().to_numpy()
        finite = values[np.isfinite(values)]
        nullable = nullable or len(finite) < len(values)
        if len(finite):
            low, *inner, high = np.quantile(finite, [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0], method="nearest").tolist()
            minimum, maximum = low, high
            examples = list(dict.fromkeys(int(value) if kind == "integer" and math.isfinite(value) else value for value in inner))
    return Field(name=name, kind=kind, view=view, nullable=nullable, minimum=minimum, maximum=maximum, examples=examples)
