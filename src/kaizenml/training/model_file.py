"""The model folder: ``model.json`` and its members' native files. Written here, read by the runtimes.

Format 2 has the kinds that are made elsewhere; what was trained here is written as format 1, which older readers know as well.
A reader refuses a newer format by number; older ones stay readable. No pickle, ever.
Imports nothing heavy: the serving engine reads this too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from kaizenml.errors import Corrupt, NotFound
from kaizenml.features.encoding.encoder import Encoder
from kaizenml.features.signature import Signature

FORMAT = 2
TRAINED = 1  # the format of what training writes
FILE = "model.json"


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One learner of the ensemble.

    ``lightgbm``: LightGBM's text format. ``linear``: JSON ``{"mean", "scale", "fill", "coefficients" (outputs x
    columns), "intercept", "onehot"}``, see ``learners``. Raw scores of members are turned into
    probabilities each by its own link, then averaged with ``weight`` (weights sum to 1).

    Since format 2, and alone in their model: ``xgboost`` (JSON or UBJSON), ``onnx``, ``sklearn`` (a skops file, answered in a
    process of its own), ``python`` (source files in the folder ``code``; ``file`` is the one that holds ``function``).
    """

    name: str
    kind: Literal["lightgbm", "linear", "xgboost", "onnx", "sklearn", "python"]
    file: str
    weight: float
    trees: int = 0
    wide: bool = False  # lightgbm: vectors are float64, as the package takes them
    rounds: int = 0  # xgboost: so many of the first; 0: all
    link: Literal["", "sigmoid", "softmax"] = ""  # onnx, xgboost: applied to what the file gives
    slow: bool = False  # onnx: measured when it was imported; its answers are not waited for on the event loop
    batches: bool = False  # onnx: measured when it was imported; many rows at once cost much less
    function: str = ""  # python
    timeout_s: float = 0.0  # sklearn, python: for one call
    memory_bytes: int = 0  # sklearn, python: of address space; 0: no limit


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

    format: int = TRAINED
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
