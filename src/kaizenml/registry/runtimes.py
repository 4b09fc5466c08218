"""Model runtimes: a model folder becomes something that answers. Hot path: imports only the standard library, numpy and msgspec.

The arithmetic is that of ``training.scoring`` in the same order, so that answers agree to 1e-12;
the parity gate of every release proves it on real rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from kaizenml.errors import Corrupt
from kaizenml.features.encoding.batch import compile_rows
from kaizenml.features.encoding.encoder import compile_row
from kaizenml.features.encoding.records import OutOfForm, Records, compile_records
from kaizenml.registry.lightgbm_native import LightGBM
from kaizenml.registry.linear_runtime import FARTHEST, LinearRuntime
from kaizenml.registry.onnx_runtime import Onnx
from kaizenml.registry.own_process import OwnProcess
from kaizenml.registry.runtime import Loader, Runtime
from kaizenml.registry.xgboost_native import XGBoost
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec

SMALLEST = 1e-15  # probabilities are kept this far from 0 and 1 before a logarithm is taken of them


class Prediction(NamedTuple):
    """The answer for one row: a class and the probabilities of all classes, or a number and None."""

    value: Any
    probabilities: list[float] | None


_new = tuple.__new__

KINDS: dict[str, Loader] = {
    "lightgbm": lambda path, member, spec: LightGBM(path, spec.encoder.width, wide=member.wide),
    "linear": lambda path, member, spec: LinearRuntime(path, spec.signature),
    "xgboost": lambda path, member, spec: XGBoost(path, spec.encoder.width, rounds=member.rounds, link=member.link),
    "onnx": Onnx,
    "sklearn": OwnProcess,
    "python": OwnProcess,
}
"""How each kind of member is loaded. Their libraries are looked for when the first one is."""


class Model:
    """A loaded model: encodes rows and answers them. For one thread at a time.

    >>> model = load(folder)                                     # doctest: +SKIP
    >>> model.answer([{"price": 3.0, "size": "L"}])              # doctest: +SKIP
    [Prediction(value=False, probabilities=[0.71, 0.29])]
    """

    def __init__(self, spec: ModelSpec, learners: list[Runtime]) -> None:
        self.spec = spec
        self.signature = spec.signature
        self._learners = learners
        self._weights = [member.weight for member in spec.members]
        self._takes_rows = learners[0].takes == "rows"
        self.blocks = any(learner.blocks for learner in learners)
        """Whether an answer may take so long that nobody should wait for it on an event loop."""
        self.batches = any(learner.batches for learner in learners)
        """Whether rows of several requests are worth putting together."""
        self._alone = learners[0].one if len(learners) == 1 and self._weights[0] == 1.0 else None
        self._calibrated = spec.calibration.a != 1.0 or spec.calibration.b != 0.0
        self._classes = spec.signature.classes
        self.width = spec.encoder.width
        self.accepts = _accepted(spec)
        """What a request may hold beside the inputs."""
        encoder = msgspec.structs.replace(spec.encoder, accepts=self.accepts)
        self.encode: Callable[..., list[float]] = compile_row(encoder)
        """The compiled pass over one row: ``encode(row, position)``; InvalidInput when the row does not fit."""
        self._encode_rows = compile_rows(encoder, self.encode, np.float64 if learners[0].takes == "wide" else np.float32)
        # records become float32 vectors; what takes rows, or is asked beside the event loop with rows of other requests, gets dictionaries
        self._records = compile_records(encoder) if learners[0].takes == "vectors" and not self.blocks else None
        self.record_type = self._records.kind if self._records else None
        """What requests may be decoded into (``Records``) instead of dictionaries; None: nothing."""
        self.naive = Prediction(spec.naive.value, spec.naive.probabilities)
        """The answer without a model."""

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Answer rows (inputs as JSON gives them, values of feature views merged in).

        Raises
        ------
        InvalidInput : a row does not fit the signature; names row, field, found and expected.
        """
        if isinstance(rows, Records) and self._records is not None and rows.kind is self.record_type:
            try:
                if len(rows) == 1:
                    return [self._one(self._records.one(rows.held[0]))]
                return self._worded(self.scores(self._records.many(rows.held)))
            except OutOfForm:
                pass  # explained below
        if len(rows) == 1:  # takes the single-row path of the learners
            vector = self.encode(rows[0], 0)
            return [self._one(rows[0] if self._takes_rows else vector)]
        if not rows:
            return []
        vectors = self._encode_rows(rows)
        return self._worded(self._scored(rows if self._takes_rows else vectors))

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise InvalidInput, as ``answer`` does, when a row does not fit."""
        if len(rows) == 1:
            self.encode(rows[0], 0)
        else:
            self._encode_rows(rows)

    def scores(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return probabilities (rows, classes), or predictions (rows,) for regression."""
        return self._scored(vectors)

    def _scored(self, given: Any) -> NDArray[np.float64]:
        blend: NDArray[np.float64] | None = None
        for learner, weight in zip(self._learners, self._weights, strict=True):
            part = weight * learner.many(given)
            blend = part if blend is None else blend + part
        assert blend is not None
        if self.signature.task == "regression":
            return blend[:, 0]
        return _calibrate(blend, self.spec) if self._calibrated else _spread(blend)

    def close(self) -> None:
        """Give the memory back; the model must not be used afterwards."""
        for learner in self._learners:
            learner.close()

    def _one(self, given: Any) -> Prediction:
        if self._alone is not None:
            blend = self._alone(given)
        else:
            parts = [learner.one(given) for learner in self._learners]
            blend = [self._weights[0] * value for value in parts[0]]
            for weight, part in zip(self._weights[1:], parts[1:], strict=True):
                blend = [have + weight * value for have, value in zip(blend, part, strict=True)]
        task = self.signature.task
        if task == "binary":
            p = blend[0] if len(blend) == 1 else blend[1]
            if self._calibrated:
                p = _calibrated_binary(p, self.spec.calibration.a, self.spec.calibration.b)
            return Prediction(self._classes[1] if p > 0.5 else self._classes[0], [1.0 - p, p])
        if task == "regression":
            return Prediction(blend[0], None)
        if self._calibrated:
            blend = _calibrate(np.array([blend]), self.spec)[0].tolist()
        return Prediction(self._classes[blend.index(max(blend))], blend)

    def _worded(self, scores: NDArray[np.float64]) -> list[Prediction]:
        if self.signature.task == "regression":
            return [Prediction(value, None) for value in scores.tolist()]
        classes = self._classes
        best: list[int] = scores.argmax(axis=1).tolist()
        # past the class's own ``__new__``, which is Python and takes longer than all else here
        return [_new(Prediction, said) for said in zip(map(classes.__getitem__, best), scores.tolist(), strict=True)]


def load(folder: Path) -> Model:
    """Load a model folder.

    Raises
    ------
    NotFound : there is no model.
    Corrupt : its files are not whole, or do not fit each other.
    MissingExtra : the library behind one of its members is not installed.
    """
    spec = model_file.read(folder)
    if not spec.members:
        raise Corrupt(f"the model in {folder} has no members", remedy="kaizen train", values={"folder": str(folder)})
    learners: list[Runtime] = []
    try:
        for member in spec.members:
            learners.append(_load_member(folder, member, spec))  # noqa: PERF401  (what was loaded before one fails is closed)
        if len({learner.takes for learner in learners}) > 1:
            what = f"the members of the model in {folder} do not take the same"
            raise Corrupt(what, remedy="do not use this model", values={"members": [member.kind for member in spec.members]})
        return Model(spec, learners)
    except BaseException:
        for learner in learners:
            learner.close()
        raise


def _load_member(folder: Path, member: Member, spec: ModelSpec) -> Runtime:
    path = folder / member.file
    if folder not in path.parents or ".." in path.parts[len(folder.parts) :]:
        raise Corrupt(f"member {member.name!r} lies outside its model folder", remedy="do not use this model", values={"file": member.file})
    return KINDS[member.kind](path, member, spec)


def _accepted(spec: ModelSpec) -> list[str]:
    """What a request may hold beside the inputs: the columns that name the row, its time, its unit and its entities."""
    signature = spec.signature
    names = {*spec.encoder.accepts, *signature.hidden, *(name for view in signature.views for name in view.entities)}
    names |= {name for name in (signature.key, signature.unit, signature.time) if name}
    return sorted(names)


def _spread(blend: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make two columns of a binary model's one."""
    return np.column_stack([1.0 - blend[:, 0], blend[:, 0]]) if blend.shape[1] == 1 else blend


def _calibrate(blend: NDArray[np.float64], spec: ModelSpec) -> NDArray[np.float64]:
    a, b = spec.calibration.a, spec.calibration.b
    if spec.signature.task == "binary":
        p = np.clip(blend[:, -1], SMALLEST, 1.0 - SMALLEST)
        scores = a * (np.log(p) - np.log1p(-p)) + b
        return _spread((1.0 / (1.0 + np.exp(-np.clip(scores, -FARTHEST, FARTHEST))))[:, None])
    logs = a * np.log(np.clip(blend, SMALLEST, 1.0))
    powers = np.exp(logs - logs.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _calibrated_binary(p: float, a: float, b: float) -> float:
    p = min(max(p, SMALLEST), 1.0 - SMALLEST)
    score = a * (math.log(p) - math.log1p(-p)) + b
    return 1.0 / (1.0 + math.exp(-min(max(score, -FARTHEST), FARTHEST)))
