"""The model folder: ``model.json`` and its members' native files. Written here, read by the runtimes.

Format 1. A reader refuses a newer format by number; older ones stay readable. No pickle, ever.
Imports nothing heavy: the serving engine reads this too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from kaizenml.errors import Corrupt, NotFound
from kaizenml.features.encoder import Encoder
from kaizenml.features.signature import Signature

FORMAT = 1
FILE = "model.json"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One learner of the ensemble.

    ``lightgbm``: LightGBM's text format. ``linear``: JSON ``{"mean", "scale", "fill", "coefficients" (outputs x
    columns), "intercept", "onehot"}``, see ``learners``. Raw scores of members are turned into
    probabilities each by its own link, then averaged with ``weight`` (weights sum to 1).
    """

    name: str
    kind: Literal["lightgbm", "linear"]
    file: str
    weight: float
    trees: int = 0


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Applied to the ensemble's probability: ``sigmoid(a * logit(p) + b)``; multiclass: softmax(a * log p). a=1, b=0: none."""

    a: float = 1.0
    b: float = 0.0


class Naive(msgspec.Struct, frozen=True, kw_only=True):
    """The answer without a model: class shares of the training rows and the commonest class; regression: the mean."""

    value: Any
    probabilities: list[float] | None = None


class Segments(msgspec.Struct, frozen=True, kw_only=True):
    """The naive answers by one input: of each level (``true`` and ``false`` of a truth value), drawn towards the one for all."""

    column: str
    answers: dict[str, Naive]


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to answer with a model."""

    format: int = FORMAT
    signature: Signature
    encoder: Encoder
    members: list[Member]
    calibration: Calibration = Calibration()
    naive: Naive
    segments: list[Segments] = []


def write(folder: Path, spec: ModelSpec) -> Path:
    """Write ``model.json`` beside the members' files."""
    path = folder / FILE
    path.write_bytes(msgspec.json.format(msgspec.json.encode(spec), indent=1))
    return path


def read(folder: Path) -> ModelSpec:
    """Read a model folder's ``model.json``; Corrupt when it is not one, or of a newer format."""
    path = folder / FILE
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"there is no model in {folder}", remedy="kaizen train", values={"folder": str(folder)}) from None
    try:
        head = msgspec.json.decode(raw, type=_Head)
        if head.format > FORMAT:
            raise Corrupt(f"{path} has format {head.format}; this kaizenml reads up to {FORMAT}", remedy="pip install --upgrade kaizenml")
        return msgspec.json.decode(raw, type=ModelSpec)
    except msgspec.DecodeError as error:
        raise Corrupt(f"{path} is not a model: {error}", remedy="roll back to a release whose files are whole", values={"file": str(path)}) from None


class _Head(msgspec.Struct):
    format: int
