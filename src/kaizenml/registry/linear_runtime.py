"""The linear kind: JSON numbers, and the task's link on top. Hot path: imports only the standard library, numpy and msgspec."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaizenml.errors import Corrupt
from kaizenml.features.signature import Signature
from kaizenml.registry.runtime import Takes
from kaizenml.training.linear import Linear

FARTHEST = 700.0  # beyond it exp overflows; the probability is 0 or 1 long before


class LinearRuntime:
    """A linear member behind the runtimes' protocol."""

    takes: Takes = "vectors"
    blocks = False
    batches = False

    def __init__(self, path: Path, signature: Signature) -> None:
        try:
            self._linear = Linear(msgspec.json.decode(path.read_bytes()))
        except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            remedy = "roll back to a release whose files are whole"
            raise Corrupt(f"{path.name} is not a linear model: {error}", remedy=remedy, values={"file": str(path)}) from None
        self._task = signature.task

    def many(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        scores = self._linear.scores(vectors)
        if self._task == "regression":
            return scores
        return sigmoid(scores) if self._task == "binary" else softmax(scores)

    def one(self, vector: list[float]) -> list[float]:
        scores = self._linear.one(array("f", vector))  # the float32 values that were trained on, not the float64 ones they came from
        if self._task == "regression":
            return scores
        if self._task == "binary":
            return [1.0 / (1.0 + math.exp(-min(max(scores[0], -FARTHEST), FARTHEST)))]
        highest = max(scores)
        powers = [math.exp(score - highest) for score in scores]
        total = sum(powers)
        return [power / total for power in powers]

    def close(self) -> None:
        pass


def sigmoid(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-score)) for each score."""
    shares: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(scores, -FARTHEST, FARTHEST)))
    return shares


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the shares of exp(score) in each row."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
