"""What the journal holds. Format 1; msgpack arrays, so new fields go at the end with a default. Hot path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kaizenml.features.encoding.columns import Columns


class Answer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One predicted row."""

    id: str
    value: Any
    probabilities: list[float] | None  # in the order of the signature's classes
    decided_by: str  # model, fallback, kill
    reason: str | None
    release: str | None = None  # who decided, where that is not the record's release
    propensity: float | None = None  # how probable it was that the row would be decided like this; None: chance had no hand in it


class PredictionRecord(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """One answered request, written before the answer leaves. ``body`` is the request as it came, or as a ``Body`` with columns."""

    at: float
    endpoint: str
    release: str
    arm: str
    unit: str | None
    body: bytes
    answers: list[Answer]
    features: list[dict[str, Any]] | None  # per row: what the online store gave, by input name; None: nothing was read
    trace: str | None = None
    ats: dict[str, list[float | None]] | None = None  # by view and row: when the newest values are from that the online store held; None: none


class ShadowRecord(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """The same rows answered by another release, for comparison only."""

    at: float
    endpoint: str
    release: str
    arm: str  # shadow, or the arm that did not answer
    answers: list[Answer]


Record = PredictionRecord | ShadowRecord


class Body(msgspec.Struct, omit_defaults=True):
    """What ``PredictionRecord.body`` holds, as JSON: ``inputs`` as a client sends it, or ``columns`` of what came in columns."""

    inputs: list[dict[str, str | int | float | bool | None]] = []
    columns: dict[str, list[str | int | float | bool | None]] = {}
    unit: str | int | None = None

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        return Columns(self.columns) if self.columns else self.inputs


def by_columns(rows: Columns, unit: str | int | None) -> Body:
    """Return the body to be kept of rows that came as columns: a name once, and not once a row."""
    return Body(columns=rows.plain(), unit=unit)
