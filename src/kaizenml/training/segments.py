"""Naive answers by segment: what is usual for each level of an input, drawn towards what is usual for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.features.encoding.encoder import MAX_CATEGORICAL
from kaizenml.features.encoding.vectorised import category_text
from kaizenml.features.signature import Field
from kaizenml.training.model_file import Naive, Segments

DRAWN = 20
"""Rows of the usual that are added to each segment: one with 20 rows is half its own, one with 2000 is 99 % its own."""
MOST = 4000  # numbers kept for one input

Floats = npt.NDArray[np.float64]


def learn(table: pa.Table, fields: list[Field], y: Floats, classes: list[Any]) -> list[Segments]:
    """Return the naive answers by each input with few levels.

    Parameters
    ----------
    table : the labelled rows.
    fields : the inputs; categories of at most 40 levels and truth values count.
    y : the targets, class numbers or values.
    classes : in the order of the class numbers; [] for regression.
    """
    found = []
    for field in fields:
        if field.kind not in ("category", "boolean"):
            continue
        levels, codes = _levels(table.column(field.name), field.kind)
        if 0 < len(levels) <= MAX_CATEGORICAL and len(levels) * max(len(classes), 1) <= MOST:
            found.append(_segments(field.name, levels, codes, y, classes))
    return found


def _levels(column: pa.ChunkedArray, kind: str) -> tuple[list[str], npt.NDArray[np.int64]]:
    text = category_text(column) if kind == "category" else pc.cast(pc.cast(column, pa.bool_()), pa.string())
    coded = text.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), np.asarray(coded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _segments(name: str, levels: list[str], codes: npt.NDArray[np.int64], y: Floats, classes: list[Any]) -> Segments:
    own = codes >= 0
    rows = np.bincount(codes[own], minlength=len(levels)).astype(np.float64)
    if not classes:
        sums = np.bincount(codes[own], y[own], minlength=len(levels))
        means = (sums + DRAWN * y.mean()) / (rows + DRAWN)
        return Segments(column=name, answers={level: Naive(value=float(mean)) for level, mean in zip(levels, means, strict=True)})
    kinds, numbers = len(classes), y.astype(np.int64)
    usual = np.bincount(numbers, minlength=kinds) / len(y)
    counts = np.bincount(codes[own] * kinds + numbers[own], minlength=len(levels) * kinds).reshape(len(levels), kinds)
    shares = (counts + DRAWN * usual) / (rows + DRAWN)[:, None]
    return Segments(
        column=name,
        answers={
            level: Naive(value=classes[int(row.argmax())], probabilities=row.tolist()) for level, row in zip(levels, shares, strict=True)
        },
    )  # fmt: skip
