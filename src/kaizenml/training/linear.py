"""The linear member's arithmetic, in numpy alone: the runtimes and the trainer run this very function.

The document (JSON, format 1)::

    {"width": 4,                      columns of the encoder's vector
     "numeric": [0, 2, 3],            vector columns used as numbers
     "fill": [1.0, 0.0, 3.5],         what stands in for a missing number (the median in training)
     "mean": [...], "scale": [...],   z = (x - mean) / scale,
     "low": [...], "high": [...],     kept within low and high, the bulk of training: a straight line is not to be trusted beyond
     "clip": 5.0,                     without low and high: -clip and clip
     "missing": [3],                  vector columns whose absence is itself a feature (0 or 1)
     "onehot": [{"column": 1, "levels": 3}],   codes 0 .. levels-1; NaN and other codes are no level
     "coefficients": [[...]],         outputs x (numeric, missing, then the levels of each onehot in order)
     "intercept": [...]}              outputs; 1 for binary and regression, else one for each class

Raw scores go through the task's own link: sigmoid, softmax or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class Linear:
    """A linear document made ready: arrays instead of lists."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.width = int(document["width"])
        self.numeric = np.array(document["numeric"], dtype=np.int64)
        self.fill = np.array(document["fill"], dtype=np.float64)
        self.mean = np.array(document["mean"], dtype=np.float64)
        self.scale = np.array(document["scale"], dtype=np.float64)
        limit = float(document.get("clip", np.inf))
        self.low = np.array(document.get("low", [-limit] * len(self.numeric)), dtype=np.float64)
        self.high = np.array(document.get("high", [limit] * len(self.numeric)), dtype=np.float64)
        self.missing = np.array(document["missing"], dtype=np.int64)
        self.intercept = np.array(document["intercept"], dtype=np.float64)
        weights = np.array(document["coefficients"], dtype=np.float64).reshape(len(self.intercept), -1).T
        start = len(self.numeric) + len(self.missing)
        self.numbers = np.ascontiguousarray(weights[: len(self.numeric)])
        self.absences = np.ascontiguousarray(weights[len(self.numeric) : start])
        self.tables: list[tuple[int, npt.NDArray[np.float64]]] = []
        for entry in document["onehot"]:
            levels = int(entry["levels"])
            # one row of zeros behind the levels: missing and unknown codes look up nothing
            table = np.vstack([weights[start : start + levels], np.zeros((1, len(self.intercept)))])
            self.tables.append((int(entry["column"]), table))
            start += levels
        self._plain = list(
            zip(*(part.tolist() for part in (self.numeric, self.fill, self.mean, self.scale, self.low, self.high, self.numbers)), strict=True)
        )
        self._absent = list(zip(self.missing.tolist(), self.absences.tolist(), strict=True))
        self._lookups = [(column, table[:-1].tolist()) for column, table in self.tables]

    def scores(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """Return raw scores (rows x outputs) for float32 vectors (rows x width)."""
        x = vectors[:, self.numeric].astype(np.float64)
        z = np.clip((np.where(np.isfinite(x), x, self.fill) - self.mean) / self.scale, self.low, self.high)
        # summed column by column, not by a matrix product: the same answer for a row alone and in a batch, to the bit
        total = np.repeat(self.intercept[None, :], len(vectors), axis=0)
        for place in range(z.shape[1]):
            total += z[:, place, None] * self.numbers[place]
        for place, column in enumerate(self.missing):
            total += np.isnan(vectors[:, column])[:, None] * self.absences[place]
        for column, table in self.tables:
            codes = vectors[:, column]
            last = len(table) - 1
            known = (codes >= 0) & (codes < last)
            total += table[np.where(known, codes, last).astype(np.int64)]
        return total


    def one(self, vector: Sequence[float]) -> list[float]:
        """Return the raw scores of one row of float32 values: the same sums in the same order, so the same bits, without an array."""
        total: list[float] = self.intercept.tolist()
        outputs = range(len(total))
        for place, fill, mean, scale, low, high, weights in self._plain:
            x = vector[place]
            z = ((x if x - x == 0.0 else fill) - mean) / scale  # x - x is NaN for NaN and infinities
            z = min(max(z, low), high)
            for output in outputs:
                total[output] += z * weights[output]
        for place, weights in self._absent:
            if vector[place] != vector[place]:  # NaN
                for output in outputs:
                    total[output] += weights[output]
        for place, rows in self._lookups:
            code = vector[place]
            if 0 <= code < len(rows):
                weights = rows[int(code)]
                for output in outputs:
                    total[output] += weights[output]
        return total


def linear_scores(document: dict[str, Any], vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return the raw scores (rows x outputs) of a linear member for float32 vectors (rows x width).

    >>> import numpy as np
    >>> document = {"width": 2, "numeric": [0], "fill": [1.0], "mean": [0.0], "scale": [2.0], "low": [-5.0], "high": [5.0], "missing": [0],
    ...             "onehot": [{"column": 1, "levels": 2}], "coefficients": [[4.0, 10.0, 0.5, 0.25]], "intercept": [1.0]}
    >>> linear_scores(document, np.array([[1, 0], [np.nan, 1], [2, np.nan]], np.float32)).ravel().tolist()
    [3.5, 13.25, 5.0]
    """
    return Linear(document).scores(vectors)
