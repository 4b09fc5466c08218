"""The signature: which inputs a model takes, of which type, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

FieldKind = Literal["number", "integer", "boolean", "category", "timestamp"]
TaskKind = Literal["binary", "multiclass", "regression"]


class Field(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input column as it was seen in training."""

    name: str
    kind: FieldKind
    view: str | None = None  # feature view that gives it at request time when the request does not
    nullable: bool = True  # missing values were seen in training
    minimum: float | None = None
    maximum: float | None = None
    examples: list[Any] = []  # a few real values (most frequent categories; quantiles of numbers)


class ViewUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feature view that the model reads: inputs ``{name}_{column}`` come from it."""

    name: str
    version: str  # hash of the definition
    entity: str  # request column with the key
    columns: list[str]
    ttl_s: float | None = None

    @property
    def ref(self) -> str:
        return f"{self.name}.{self.version}"


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs, views and answer of a model. Request inputs are the fields without a view, plus the views' entities."""

    task: TaskKind
    target: str
    classes: list[Any]  # in the order of the probabilities; [] for regression; [False, True] where the target is boolean
    fields: list[Field]
    views: list[ViewUse] = []
    key: str | None = None
    unit: str | None = None  # input column for sticky arms
    time: str | None = None
    asked_before_s: float = 0.0
