"""The recipe of a model: everything that a search found, so that the same can be made again from newer rows in seconds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kaizenml.features.signature import TaskKind
from kaizenml.training.learners import Plan
from kaizenml.training.model_file import Calibration

FILE = "recipe.json"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What to fit and how to put it together."""

    kind: TaskKind
    fields: list[str]  # the inputs, in the order of the vector
    plans: list[Plan]  # the ensemble's members with their rounds
    weights: list[float]  # of the members; they sum to 1
    calibration: Calibration
    rows: int  # that the rounds were found on


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Lies beside ``model.json`` as ``recipe.json``: where the model came from. No runtime needs it."""

    run: str
    dataset: str
    rows: int
    trained_to: float | None  # time of the newest row learnt from, seconds; None when the table has no time
    recipe: Recipe


def write(folder: Path, origin: Origin) -> None:
    """Write ``recipe.json`` into a model folder."""
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(origin), indent=1))


def read(folder: Path) -> Origin | None:
    """Return where the model in ``folder`` came from; None when it does not say (imported models)."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Origin)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
