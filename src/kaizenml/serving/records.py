"""What the journal holds. Format 1; msgpack arrays, so new fields go at the end with a default. Hot path: imports only msgspec."""

from __future__ import annotations

from typing import Any

import msgspec


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """One predicted row."""

    id: str
    value: Any
    probabilities: list[float] | None  # in the order of the signature's classes
    decided_by: str  # model, fallback, kill
    reason: str | None
    release: str | None = None  # who decided, where that is not the record's release
    propensity: float | None = None  # how probable it was that the row would be decided like this; None: chance had no hand in it


class PredictionRecord(msgspec.Struct, frozen=True, array_like=True, tag="p"):
    """One answered request, written before the answer leaves. ``body`` is the request as it came."""

    at: float
    endpoint: str
    release: str
    arm: str
    unit: str | None
    body: bytes
    answers: list[Answer]
    features: list[dict[str, Any]] | None  # per row: what the online store gave, by input name; None: nothing was read
    trace: str | None = None


class ShadowRecord(msgspec.Struct, frozen=True, array_like=True, tag="s"):
    """The same rows answered by another release, for comparison only."""

    at: float
    endpoint: str
    release: str
    arm: str  # shadow, or the arm that did not answer
    answers: list[Answer]


Record = PredictionRecord | ShadowRecord
