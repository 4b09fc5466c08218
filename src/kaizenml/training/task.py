"""The question: what kind of answer the target asks for, and the target as numbers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.errors import InvalidData, nearest
from kaizenml.features.signature import TaskKind

MINIMUM_ROWS = 30
"""Labelled rows below which nothing honest can be said: the hold-out would have fewer than six."""
MAXIMUM_CLASSES = 100
FEW_INTEGERS = 20

Floats = npt.NDArray[np.float64]


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is predicted. ``classes`` are in the order of the probabilities; [] for regression."""

    kind: TaskKind
    target: str
    classes: list[Any]

    @property
    def metric(self) -> str:
        """The loss that decides: ``log_loss`` or ``rmse``."""
        return "rmse" if self.kind == "regression" else "log_loss"


def infer(table: pa.Table, target: str, kind: Literal["auto", "binary", "multiclass", "regression"] = "auto") -> Task:
    """Tell the kind of task from the target's values.

    Booleans and columns with two values are binary. Texts are classes. Whole numbers with at most 20 different
    values, ten rows for each on average, are classes too (ratings, digits); other numbers are regression.
    Saying ``kind`` in kaizen.toml overrides all of this.

    Parameters
    ----------
    table : the labelled and unlabelled rows.
    target : the column to predict.
    kind : ``auto``, or what the settings say.

    Raises
    ------
    InvalidData : no such column, a kind of target that cannot be learnt, or too few rows or classes.
    """
    column = _column(table, target)
    counts = _counts(column)
    labelled = sum(counts.values())
    _check_enough(target, table.num_rows, labelled, len(counts))
    values = list(counts)
    numeric = not isinstance(values[0], str)
    found = _guess(column.type, values, labelled) if kind == "auto" else kind
    if found == "regression":
        if not numeric or isinstance(values[0], bool):
            raise InvalidData(
                f"the target {target!r} holds {'yes/no values' if numeric else 'texts'} such as {values[0]!r}, which are no numbers to regress on",
                remedy='set kind = "auto" under [task] in kaizen.toml',
                values={"target": target, "found": values[:5]},
            )
        return Task(kind="regression", target=target, classes=[])
    _check_classes(target, found, counts)
    return Task(kind="binary" if len(values) == 2 else "multiclass", target=target, classes=sorted(values))


def labels(task: Task, table: pa.Table) -> Floats:
    """Return the target as float64: the class's index, or the number itself; NaN where it is missing.

    Raises InvalidData for an infinite number. A class that ``task`` does not know counts as missing.
    """
    column = _column(table, task.target)
    if task.kind == "regression":
        y = np.array(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        if np.isinf(y).any():
            row = int(np.flatnonzero(np.isinf(y))[0])
            what, seen = f"the target {task.target!r} is infinite in row {row + 1}", {"target": task.target, "row": row + 1}
            raise InvalidData(what, remedy="mend or remove the row", values=seen)
        return y
    places = {value: float(place) for place, value in enumerate(task.classes)}
    encoded = column.combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    table_of = np.array([places.get(_plain(value), np.nan) for value in encoded.dictionary.to_pylist()] + [np.nan])
    codes = encoded.indices.fill_null(len(table_of) - 1).to_numpy(zero_copy_only=False)
    return np.asarray(table_of[codes], dtype=np.float64)


def _column(table: pa.Table, target: str) -> pa.ChunkedArray:
    if target not in table.column_names:
        close = nearest(target, table.column_names)
        hint = f"; did you mean {close!r}?" if close else f"; there is {', '.join(map(repr, table.column_names[:12]))}"
        raise InvalidData(
            f"there is no column {target!r} to predict{hint}",
            remedy=f'set target = "{close or table.column_names[-1]}" under [task] in kaizen.toml',
            values={"target": target, "nearest": close, "columns": table.column_names[:50]},
        )
    column = table.column(target)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_temporal(column.type) or pa.types.is_nested(column.type) or pa.types.is_null(column.type):
        if column.null_count == len(column):
            return column.cast(pa.string()) if pa.types.is_null(column.type) else column
        raise InvalidData(
            f"the target {target!r} is of type {column.type}; a number, a text or yes/no can be learnt",
            remedy="derive such a column first, or choose another target",
            values={"target": target, "found": str(column.type)},
        )
    return column


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    """Count the rows of each value, without the missing ones."""
    found: dict[Any, int] = {}
    for item in pc.value_counts(column.combine_chunks()).to_pylist():
        value = _plain(item["values"])
        if value is not None:
            found[value] = found.get(value, 0) + item["counts"]
    return found


def _plain(value: Any) -> Any:
    """Write whole floats as integers (a column of 0 and 1 with gaps is read as floats), NaN as missing."""
    if isinstance(value, float):
        if value != value:  # noqa: PLR0124  (NaN)
            return None
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


def _guess(kind: pa.DataType, values: list[Any], labelled: int) -> TaskKind:
    if len(values) == 2:
        return "binary"
    if isinstance(values[0], str) or pa.types.is_boolean(kind):
        return "multiclass"
    whole = all(isinstance(value, int) for value in values)
    return "multiclass" if whole and len(values) <= FEW_INTEGERS and labelled >= 10 * len(values) else "regression"


def _check_enough(target: str, rows: int, labelled: int, distinct: int) -> None:
    seen = {"target": target, "rows": rows, "labelled": labelled, "needed": MINIMUM_ROWS}
    if rows and not labelled:
        what = f"the target {target!r} is missing in all {rows} rows"
        raise InvalidData(what, remedy="choose another target, or add rows with outcomes", values=seen)
    if labelled < MINIMUM_ROWS:
        missing = f" ({rows - labelled} more lack it)" if rows > labelled else ""
        raise InvalidData(
            f"{labelled} rows have the target {target!r}{missing}; at least {MINIMUM_ROWS} are needed to learn and to test",
            remedy="add rows: kaizen data add DATASET FILE",
            values=seen,
        )
    if distinct == 1:
        raise InvalidData(
            f"the target {target!r} has one value only in all {labelled} rows; there is nothing to learn",
            remedy="choose another target, or add rows where it differs",
            values=seen,
        )


def _check_classes(target: str, kind: str, counts: dict[Any, int]) -> None:
    if kind == "binary" and len(counts) != 2:
        raise InvalidData(
            f"the target {target!r} has {len(counts)} values, and a binary one has two",
            remedy='set kind = "auto" under [task] in kaizen.toml',
            values={"target": target, "found": list(counts)[:10]},
        )
    if len(counts) > MAXIMUM_CLASSES:
        numeric = not isinstance(next(iter(counts)), str)
        raise InvalidData(
            f"the target {target!r} has {len(counts)} classes; {MAXIMUM_CLASSES} at most can be learnt",
            remedy='set kind = "regression" under [task] in kaizen.toml' if numeric else "group the classes, or choose another target",
            values={"target": target, "classes": len(counts), "limit": MAXIMUM_CLASSES},
        )
    alone = [value for value, count in counts.items() if count < 2]
    if alone:
        others = f", and so have {len(alone) - 1} others" if len(alone) > 1 else ""
        raise InvalidData(
            f"the class {alone[0]!r} of {target!r} has 1 row only{others}; two at least are needed",
            remedy="remove those rows, group them under one name, or add more of them",
            values={"target": target, "classes": alone[:10]},
        )
