"""Failures before the model: a flood of nulls, values that stand still, values in another unit or other codes. Pure rules.

Each day is looked at by itself, so that a failure has a first day, and so that the days it touched can be left out when
the model is judged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from kaizenml.monitoring import drift, profile
from kaizenml.monitoring.profile import Floats, Profile
from kaizenml.monitoring.reference import STOPPED, Reference, states_per_key

ENOUGH = 30  # rows of a day
FLOOD = 0.10  # jump of the missing share of half of a view's solid columns
ALONE = 0.20  # jump of the missing share of a single column
STILL = 0.25  # distinct values per key, against the fewest of usual days
STEP = 0.3
UNIT = 0.4  # of the log: values less than half as large again come from busier or quieter days as well
SWING = 1.25  # times the largest change of spread between usual days: wind calms down to half within a day by itself
KNOWN = ((1.8, 32.0), (1 / 1.8, -32 / 1.8), (1.0, 273.15), (1.0, -273.15))  # between Fahrenheit, Celsius and Kelvin


@dataclass(frozen=True)
class Failure:
    """Something broke before the model."""

    kind: str  # nulls, stale, units, codes
    view: str | None
    columns: list[str]
    days: list[str]  # affected, in order
    said: str  # what is seen, a phrase
    current: bool  # the newest day is affected
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def since(self) -> str:
        return self.days[0]


def failures(reference: Reference, windows: Mapping[str, Profile], *, today: str, alpha: float) -> list[Failure]:
    """Return the upstream failures of the last days, current ones first.

    Parameters
    ----------
    reference : of the release that answers.
    windows : profiles by day.
    today : a day that is not over: too early to judge how its values are distributed.
    alpha : chance of a false alarm per day.
    """
    days = {day: window for day, window in sorted(windows.items()) if window.rows >= ENOUGH}
    if not days or not reference.bins.columns:
        return []
    found = _nulls(reference, days, today, alpha)
    flooded = {day for failure in found for day in failure.days}
    whole = {day: window for day, window in days.items() if day < today and day not in flooded}
    newest = max(days)
    for failure in [*_stale(reference, whole), *_steps(reference, whole, alpha)]:
        # a day that is not over says nothing yet about what was wrong yesterday
        ongoing = failure.days[-1] == max(whole) and (newest == max(whole) or newest >= today)
        found.append(Failure(failure.kind, failure.view, failure.columns, failure.days, failure.said, ongoing, failure.shares))
    return sorted(found, key=lambda failure: not failure.current)


def _nulls(reference: Reference, days: dict[str, Profile], today: str, alpha: float) -> list[Failure]:
    columns = reference.bins.columns
    whole = reference.whole
    before = whole.missing / max(whole.rows, 1)
    usual = np.asarray(reference.daily.missing or np.zeros(len(columns)))
    each = alpha / max(len(columns), 1)
    rows = np.array([window.rows for window in days.values()])[:, None]
    jumps = np.array([window.missing for window in days.values()]) / rows - before
    noise = drift.share_noise(before, rows, whole.rows, each)
    jumped = jumps > np.maximum(usual + noise, FLOOD)
    # the first hours of a day are not like whole days: they may go on with a flood, and begin one only beyond what first hours were ever like
    early = jumps > np.maximum(np.asarray(reference.early or before) - before, usual) + noise
    for place, day in enumerate(days):
        if day >= today:
            jumped[place] &= early[place] | (jumped[place - 1] if place else False)
    found = []
    groups = {column.view for column in columns}
    for view in sorted(groups, key=str):
        members = np.array([column.view == view for column in columns])
        solid = members & np.array(reference.solid)
        if view is not None and solid.sum() >= 2:
            hit = [jumped[d, solid].mean() >= 0.5 for d in range(len(days))]
            found += _flood(reference, view, hit, list(days), np.where(members & jumped, jumps, 0.0))
            continue
        for index in np.flatnonzero(members):
            alone = np.arange(len(columns)) == index
            hit = [bool(jumped[d, index] and jumps[d, index] >= ALONE) for d in range(len(days))]
            found += _flood(reference, view, hit, list(days), np.where(alone & jumped, jumps, 0.0))
    return found


def _flood(reference: Reference, view: str | None, hit: list[bool], names: list[str], jumps: Floats) -> list[Failure]:
    found = []
    for run in _runs([name for name, bad in zip(names, hit, strict=True) if bad], names):
        rows = [names.index(day) for day in run]
        worst = {column.name: round(float(high), 4) for column, high in zip(reference.bins.columns, jumps[rows].max(axis=0), strict=True) if high > 0}
        where = f"the feature view {view}" if view else f"the input {next(iter(worst), '')}"
        share = max(worst.values(), default=0.0)
        named = ", ".join(list(worst)[:4]) + (", ..." if len(worst) > 4 else "")
        said = f"{where} sends nulls: missing in up to {share:.0%} more of the rows than in training ({named})"
        found.append(Failure("nulls", view, list(worst), run, said, run[-1] == names[-1], worst))
    return found


def _stale(reference: Reference, days: dict[str, Profile]) -> list[Failure]:
    """A view whose values stopped changing: as many rows as ever, hardly any distinct values."""
    found = []
    for view, usual in reference.states.items():
        still = []
        for day, window in days.items():
            keys = len(window.keys.get(view, ()))
            if keys and window.rows / keys >= 20 and states_per_key(window, view) <= max(1.0, STILL * usual):
                still.append(day)
        columns = [column.name for column in reference.bins.columns if column.view == view]
        found += [
            Failure("stale", view, columns, run, f"the feature view {view} stands still: its values no longer change within a day", False)
            for run in _runs(still, list(days))
        ]
    return found


def _steps(reference: Reference, days: dict[str, Profile], alpha: float) -> list[Failure]:
    """One column of a source jumps from one day to the next, and stays: another unit, or other codes."""
    names, columns = list(days), reference.bins.columns
    if len(names) < 4:
        return []
    usual = np.asarray(reference.step or np.zeros(len(columns)))
    bad: dict[int, list[str]] = {}
    base: dict[int, Profile] = {}
    # a cheap look at all days at once, and a close one only where a column is far from its last days
    steps = drift.steps(reference.bins, list(days.values()))
    for position in range(3, len(names)):
        if not base and not (steps[position - 3] > np.maximum(usual, STEP)).any():
            continue
        window = days[names[position]]
        before = profile.total(reference.bins, [days[name] for name in names[position - 3 : position]])
        limit = np.maximum(usual + drift.chance(reference.bins, before, window, alpha / len(columns)), STEP)
        far = steps[position - 3] > limit
        for index in map(int, np.flatnonzero(far)):
            group = [i for i, column in enumerate(columns) if column.view == columns[index].view]
            if index not in base and far[group].sum() <= max(1, len(group) // 3) and _unit(reference, before, window, index):
                base[index] = before
        for index, healthy in base.items():
            away = drift.distances(reference.bins, healthy, window)[0][index]
            if away > limit[index] and _unit(reference, healthy, window, index):
                bad.setdefault(index, []).append(names[position])
    found = []
    still = reference.still or [0] * len(columns)
    for index, hit in bad.items():
        column = columns[index]
        for run in _runs(hit, names):
            if column.kind != "category" and len(run) <= 2 * still[index] and all(_is_still(base[index], days[name], index) for name in run):
                continue  # as it was in training for half as long
            said = _unit(reference, base[index], days[run[0]], index) or ""
            found.append(Failure("codes" if column.kind == "category" else "units", column.view, [column.name], run, f"{column.name} {said}", False))
    return found


def _unit(reference: Reference, before: Profile, window: Profile, index: int) -> str | None:
    """Say how one column's values were transformed, if they look transformed rather than moved."""
    column = reference.bins.columns[index]
    if column.kind == "hour":
        return None
    if column.kind == "category":
        other = drift.escaped(reference.bins, window)[0][index]
        return f"comes in codes that were never seen in training ({other:.0%} of values)" if other >= 0.5 else None
    (mean, spread), (old_mean, old_spread) = _moments(window, index), _moments(before, index)
    if old_spread <= 0 or not math.isfinite(mean + spread + old_mean):
        return None
    if _is_still(before, window, index):
        return f"is stuck at {mean:.4g}"
    factor = spread / old_spread
    for slope, shift in KNOWN:
        if abs(math.log(factor / slope)) < 0.1 and abs(mean - slope * old_mean - shift) < 0.3 * spread:
            return f"comes in another unit (about {slope:.3g} x {shift:+.4g})"
    ratio = mean / old_mean if old_mean else math.nan
    swing = reference.swing[index] if reference.swing else 0.0
    if ratio > 0 and abs(math.log(factor)) > max(UNIT, SWING * swing) and abs(math.log(ratio / factor)) < 0.15:
        return f"comes in another unit (about {factor:.3g} times the former values)"
    if ratio < 0 and abs(math.log(-ratio / factor)) < 0.15:
        return "comes with the opposite sign"
    outside = drift.escaped(reference.bins, window)[1][index] - drift.escaped(reference.bins, before)[1][index]
    return f"left the range seen in training in {outside:.0%} of rows, from one day to the next" if outside >= 0.5 else None


def _is_still(before: Profile, window: Profile, index: int) -> bool:
    """Say whether a column has one value only, where it had many."""
    return _moments(window, index)[1] <= _moments(before, index)[1] * STOPPED


def _moments(window: Profile, index: int) -> tuple[float, float]:
    present = window.rows - window.missing[index]
    if present < ENOUGH:
        return math.nan, math.nan
    mean = float(window.sums[index] / present)
    return mean, math.sqrt(max(float(window.squares[index] / present) - mean**2, 0.0))


def _runs(hit: list[str], names: list[str]) -> list[list[str]]:
    """Split affected days into runs of days without an unaffected one between them."""
    runs: list[list[str]] = []
    for name in names:
        if name not in hit:
            runs.append([])
        elif runs:
            runs[-1].append(name)
        else:
            runs = [[name]]
    return [run for run in runs if run]
