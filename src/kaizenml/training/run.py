"""A training experiment and what it found."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """A measured value with its 95 % interval and the number of rows behind it."""

    value: float
    low: float
    high: float
    rows: int


class BoardRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the board: ``naive``, ``linear``, ``boosted``, ``ensemble``, ``champion``."""

    name: str
    metrics: dict[str, Estimate]  # on the newest hold-out; log_loss, auc, accuracy, brier | rmse, mae, r2
    seconds: float
    note: str = ""


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """A column that was refused because it knows the answer."""

    column: str
    reason: str
    score: float | None = None  # AUC (or R2) of the column alone, 0..1


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One training experiment: what went in, what came out, and from where."""

    id: str
    task: Literal["binary", "multiclass", "regression"]
    state: Literal["done", "failed"]
    dataset: str  # name@number
    views: list[str]  # name.version
    target: str
    parameters: dict[str, Any]
    board: list[BoardRow]
    metric: str  # what decided: log_loss or rmse
    leaks: list[Leak]
    split: dict[str, Any]  # {"by": "time"|"random", "train_rows", "holdout_rows", "from", "to"}
    code: str | None
    seconds: float
    started_at: float
    folder: str  # of the model, relative to the project's state
    exclusions: list[int] = []  # that held on its rows: what they cover was not learnt from
