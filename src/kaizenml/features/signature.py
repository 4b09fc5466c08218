"""The signature: which inputs a model takes, of which type, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kaizenml.features.view import Aggregate, entities_of, feature_names

FieldKind = Literal["number", "integer", "boolean", "category", "timestamp"]
TaskKind = Literal["binary", "multiclass", "regression"]
DERIVED = "@derived"
"""Stands as the view of inputs that are computed from others; no view can be named so."""


class Field(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input column as it was seen in training."""

    name: str
    kind: FieldKind
    view: str | None = None  # feature view that gives it at request time when the request does not; DERIVED: computed
    nullable: bool = True  # missing values were seen in training
    minimum: float | None = None
    maximum: float | None = None
    examples: list[Any] = []  # a few real values (most frequent categories; quantiles of numbers)


class ViewUse(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A feature view that the model reads: inputs ``{name}_{column}`` come from it, or plainly named ones."""

    name: str
    version: str  # hash of the definition
    entity: str | list[str]  # request column with the key, or the columns that make one together
    columns: list[str]
    ttl_s: float | None = None
    aggregates: list[Aggregate] = []  # those that are read, by ratios and derived inputs too
    plain: bool = False  # inputs bear the names of columns and aggregates

    @property
    def ref(self) -> str:
        return f"{self.name}.{self.version}"

    @property
    def entities(self) -> list[str]:
        """The columns that make the key, in their order."""
        return entities_of(self.entity)

    @property
    def features(self) -> dict[str, str]:
        """Name of each value -> the column or aggregate that it is; also of those that only ratios and derived inputs read."""
        return feature_names(self.name, [*self.columns, *(each.name for each in self.aggregates)], plain=self.plain)


class Derived(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An input computed from others of the row: features, request columns, other derived ones. A pure expression, kept as text."""

    name: str
    inputs: list[str]
    expression: str  # Python syntax, of the few kinds that ``features/defining/expressions.py`` allows
    kind: FieldKind
    takes: list[FieldKind] = []  # the kinds of the inputs, beside them
    version: str = ""  # hash of this and of everything under it

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
    derived: list[Derived] = []  # in the order in which they can be computed
    hidden: dict[str, str] = {}  # names in a request that tell of persons: pseudonym as in the rows learned from, or drop
    key_print: str = ""  # fingerprint of the key of those pseudonyms

    @property
    def given(self) -> tuple[list[ViewUse], list[Derived]]:
        """What a request need not hold comes from these."""
        return self.views, self.derived

    @property
    def looks_up(self) -> bool:
        """Whether a request's rows need more than what they hold."""
        return bool(self.views or self.derived)
