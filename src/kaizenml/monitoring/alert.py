"""Alerts: one for each episode. Opened when something is found, closed when it is over, never repeated in between."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["note", "warning", "critical"]

SEVERITY: dict[str, Severity] = {
    "shift_harmless": "note",
    "shift": "warning",
    "concept": "warning",
    "labels": "warning",
    "upstream": "critical",
    "skew": "critical",
    "parity": "critical",
}
"""How loud each diagnosis is; ``healthy`` and ``waiting`` raise nothing."""


WORSE = {"shift", "concept"}


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """An episode of an endpoint in which something is the matter."""

    endpoint: str  # or features/VIEW
    number: int
    label: str  # of the diagnosis
    severity: Severity
    cause: str  # one sentence
    since: str | None  # day on which it began, as far as can be told
    opened_at: float
    seen_at: float  # last diagnosis that still found it
    closed_at: float | None = None

    @property
    def open(self) -> bool:
        return self.closed_at is None


def after(
    alert: Alert | None, *, endpoint: str, label: str, cause: str, since: str | None, at: float, number: int, quiet_s: float
) -> tuple[Alert | None, Alert | None]:
    """Decide what a new diagnosis does to the open alert; return (the old one as it now is, a new one), None where unchanged.

    An alert closes when its diagnosis has not been seen for ``quiet_s``, so that one quiet look in the middle of an episode
    does not make two of it; another, louder finding closes it at once and opens its own.

    >>> old, new = after(None, endpoint="shop", label="concept", cause="", since=None, at=5.0, number=1, quiet_s=60)
    >>> old, new.label, new.opened_at
    (None, 'concept', 5.0)
    >>> after(new, endpoint="shop", label="healthy", cause="", since=None, at=30.0, number=2, quiet_s=60)
    (None, None)
    >>> after(new, endpoint="shop", label="healthy", cause="", since=None, at=90.0, number=2, quiet_s=60)[0].closed_at
    90.0
    """
    severity = SEVERITY.get(label)
    fresh = None
    if severity is not None:
        fresh = Alert(endpoint=endpoint, number=number, label=label, severity=severity, cause=cause, since=since, opened_at=at, seen_at=at)
    if alert is None:
        return None, fresh
    if fresh and fresh.label != alert.label and {fresh.label, alert.label} <= WORSE:  # one episode, seen more clearly
        return msgspec.structs.replace(alert, label=fresh.label, cause=fresh.cause, seen_at=at), None
    if fresh and fresh.label == alert.label:
        return (msgspec.structs.replace(alert, seen_at=at) if at - alert.seen_at >= quiet_s / 4 else None), None
    if fresh and _LOUDNESS[fresh.severity] >= _LOUDNESS[alert.severity]:
        return msgspec.structs.replace(alert, closed_at=at), fresh
    if at - alert.seen_at >= quiet_s:
        return msgspec.structs.replace(alert, closed_at=at), fresh
    return None, None


_LOUDNESS = {"note": 0, "warning": 1, "critical": 2}
