"""Is the model worse than it should be? Its live loss against the loss it was expected to have. Pure rules.

For probabilities the yardstick moves with the rows: a model says itself how uncertain it is, and ``loss - own`` stays where it
was while the model is right, however hard the rows become. What the hold-out showed above that is allowed for, until a
calm fortnight of live labels has shown it better. For regression the yardstick is the squared error itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

import msgspec
import numpy as np

from kaizenml.monitoring import sequential
from kaizenml.monitoring.live import DayState
from kaizenml.monitoring.profile import Floats
from kaizenml.monitoring.reference import Reference

CALM_DAYS = 14
CALM_ROWS = 500
MATURE = 0.5  # a day is judged once half of its usual share of labels is there
FLOOR = 0.01  # of the expected loss: less is not worth an alarm
SQUARED_FLOOR = 0.05  # the same for squared errors, which swing more
Source = Literal["holdout", "live", "own"]
ALARM_EVERY = 200.0  # mean number of days between two false alarms is at least this


class LossFinding(msgspec.Struct, frozen=True, kw_only=True):
    """Live loss beside the expected one."""

    up: bool
    rows: int
    days: int
    loss: float | None  # mean over the days looked at
    expected: float | None
    expected_from: Source
    since: str | None  # day from which it is up
    excess: float | None  # mean loss above the expected one since then (or over all days)
    evidence: float  # of the e-detector
    threshold: float


def judge(days: Mapping[str, DayState], *, reference: Reference | None, regression: bool, skip: Collection[str], today: str) -> LossFinding:
    """Judge a release's live loss.

    Parameters
    ----------
    days : its labelled answers by day, all since it first answered, in order.
    reference : says what loss was expected.
    regression : the loss is a squared error.
    skip : days on which something before the model was broken; they say nothing about it.
    today : not over, its labels are not all there.
    """
    kept = {day: state for day, state in _mature(days).items() if day not in skip and day < today}
    if not kept:
        return _nothing(ALARM_EVERY)
    rows, loss, own, squares = (np.array(column) for column in zip(*(_clean(state) for state in kept.values()), strict=True))
    used = rows > 0
    names = [day for day, use in zip(kept, used, strict=True) if use]
    rows, loss, own, squares = rows[used], loss[used], own[used], squares[used]
    if not names:
        return _nothing(ALARM_EVERY)
    offset, source, start = _offset(rows, loss - own, reference, regression)
    if offset is None:  # nothing to compare with yet
        quiet = sequential.Alarm(raised=False, evidence=0.0, threshold=ALARM_EVERY, since=-1)
        return _finding(names, (rows, loss, own), (None, source), quiet)
    usual = float(own.sum() / rows.sum()) + offset
    allowed = offset + (SQUARED_FLOOR if regression else FLOOR) * max(usual, 0.0)
    scores = sequential.standardise(loss - own, rows, squares, allowed=allowed)
    alarm = sequential.detect(scores[start:], threshold=ALARM_EVERY)
    if alarm.raised:
        alarm = msgspec.structs.replace(alarm, since=alarm.since + start)
    return _finding(names, (rows, loss, own), (offset, source), alarm)


def constant(state: DayState, *, classes: int, naive: list[float]) -> bool:
    """Tell whether a day's labels are all the same though they hardly can be."""
    rows = state.sum("rows")
    if rows < 30:
        return False
    mean = state.sum("truth") / rows
    if state.sum("truth2") / rows - mean**2 > 1e-9 * max(1.0, mean**2):
        return False
    if classes == 0:
        return True
    if not naive:
        return rows >= 200
    share = min(max(naive[round(mean)] if round(mean) < len(naive) else 0.0, 1e-9), 1 - 1e-9)
    # even if the class had become twice as common as the others allow
    return rows * math.log(1 - (1 - share) / 4) < math.log(1e-6)


def _mature(days: Mapping[str, DayState]) -> dict[str, DayState]:
    shares = {day: state.sum("rows") / state.sum("answered") for day, state in days.items() if state.sum("answered") > 0}
    usual = float(np.median([share for share in shares.values() if share > 0])) if any(shares.values()) else 0.0
    return {day: days[day] for day, share in sorted(shares.items()) if share > 0 and share >= MATURE * usual}


def _clean(state: DayState) -> tuple[float, float, float, float]:
    """Rows, loss, own expectation and squares of a day, without rows that had a hole in a solid input."""
    return (
        state.sum("rows") - state.sum("gap_rows"),
        state.sum("loss") - state.sum("gap_loss"),
        state.sum("own") - state.sum("gap_own"),
        max(state.sum("excess2") - state.sum("gap_excess2"), 0.0),
    )


def _offset(rows: Floats, excess: Floats, reference: Reference | None, regression: bool) -> tuple[float | None, Source, int]:
    """What the loss may exceed the model's own expectation by; where that was learnt; the first day that may be judged by it."""
    count = np.cumsum(rows)
    calm = max(CALM_DAYS, int(np.searchsorted(count, CALM_ROWS)) + 1)
    held: float | None = None
    source: Source = "own"
    if reference is not None and reference.expected is not None:
        # refitted on the hold-out, too, a model expects a little too much of itself: at most a twentieth is allowed for
        held = (
            reference.expected if regression else min(max(reference.expected - (reference.own or reference.expected), 0.0), 0.05 * reference.expected)
        )
        source = "holdout"
    elif not regression:
        held = 0.0
    if len(rows) <= calm:
        return held, source, 0
    settled = float(excess[:calm].sum() / rows[:calm].sum())
    settled = settled if regression else max(settled, 0.0)
    if held is None:
        return settled, "live", calm
    # a fortnight that was itself too bad must not become the new normal
    return (settled, "live", 0) if settled <= held else (held, source, 0)


def _finding(names: list[str], sums: tuple[Floats, Floats, Floats], yardstick: tuple[float | None, Source], alarm: sequential.Alarm) -> LossFinding:
    (rows, loss, own), (offset, source) = sums, yardstick
    start = alarm.since if alarm.raised else 0
    total = float(rows[start:].sum())
    excess = float((loss - own)[start:].sum() / total) - offset if offset is not None and total else None
    return LossFinding(
        up=alarm.raised and (excess or 0.0) > 0, rows=int(rows.sum()), days=len(names), loss=float(loss[start:].sum() / total),
        expected=None if offset is None else float(own[start:].sum() / total) + offset, expected_from=source,
        since=names[start] if alarm.raised else None, excess=excess, evidence=min(alarm.evidence, 1e12), threshold=alarm.threshold,
    )  # fmt: skip


def _nothing(threshold: float) -> LossFinding:
    return LossFinding(
        up=False, rows=0, days=0, loss=None, expected=None, expected_from="holdout", since=None, excess=None, evidence=0.0, threshold=threshold
    )
