"""The gates on accuracy. Pure: they judge what the run measured on rows that nothing was learnt from."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from kaizenml.releases.release import GateResult, Release
from kaizenml.training.run import BoardRow, Estimate, Run

MODEL = "ensemble"
NAIVE = "naive"
CHAMPION = "champion"


def naive(run: Run) -> GateResult:
    """Demand that the model is better than the answer without a model, beyond noise.

    The 95 % interval of the difference on the hold-out must lie on the model's side of 0.
    """
    gain = difference(run, NAIVE)
    if gain is None:
        return GateResult(name="naive", passed=False, summary="the run measured no model beside the naive answer", evidence={"run": run.id})
    better = gain.low > 0.0
    return GateResult(
        name="naive",
        passed=better,
        summary=f"{_compared(run, NAIVE)}: {'better' if better else 'not better beyond noise'}, {_interval(gain)}",
        evidence=_evidence(run, NAIVE, gain),
    )


def champion(run: Run, against: Release | None) -> GateResult:
    """Demand that the model is not worse than the champion beyond noise, on the newest hold-out.

    Not worse and not better: without a trial on live traffic nobody could tell, and that trial comes next.
    """
    if against is None:
        return _skip("there is no champion to compare with")
    gain = difference(run, CHAMPION)
    if gain is None:
        notes = [row.note for row in run.board if row.name == CHAMPION and row.note]
        return _skip(f"{against.ref} {notes[0] if notes else f'was not measured by run {run.id}'}")
    worse = gain.high < 0.0
    verdict = "worse" if worse else "better" if gain.low > 0.0 else "not worse beyond noise"
    return GateResult(
        name="champion",
        passed=not worse,
        summary=f"{_compared(run, CHAMPION)} of {against.ref}: {verdict}, {_interval(gain)}",
        evidence={"against": against.ref, **_evidence(run, CHAMPION, gain)},
    )


def not_judged(name: str) -> GateResult:
    """Say of a model that was made elsewhere that nobody has measured it on rows whose outcome is known."""
    why = "made elsewhere: no run measured it here; let it shadow or challenge, and live outcomes will tell"
    return GateResult(name=name, passed=True, summary=f"skipped: {why}", evidence={"skipped": why})


def difference(run: Run, other: str) -> Estimate | None:
    """Return by how much the model loses less than another line of the board (positive: the model is better); None: not measured.

    The run's own paired difference where it has one (in squared error for regression). Else from the two intervals as if they were
    independent: for two models judged on the same rows that is the wider interval, and claims less.
    """
    rows = {row.name: row for row in run.board}
    ours, theirs = rows.get(MODEL), rows.get(other)
    if ours is None or theirs is None:
        return None
    paired = run.parameters.get(f"gain_over_{other}")
    if paired is not None:
        return msgspec.convert(paired, Estimate)
    left, right = theirs.metrics.get(run.metric), ours.metrics.get(run.metric)
    if left is None or right is None:
        return None
    value = left.value - right.value
    half = math.hypot((left.high - left.low) / 2.0, (right.high - right.low) / 2.0)
    return Estimate(value=value, low=value - half, high=value + half, rows=min(left.rows, right.rows))


def _compared(run: Run, other: str) -> str:
    rows = {row.name: row for row in run.board}
    return f"{run.metric} {_value(rows[MODEL], run.metric)} against {_value(rows[other], run.metric)}"


def _value(row: BoardRow, metric: str) -> str:
    found = row.metrics.get(metric)
    return f"{found.value:.4g}" if found else "?"


def _interval(gain: Estimate) -> str:
    return f"gain {gain.value:+.3g} ({gain.low:+.3g} to {gain.high:+.3g}, {gain.rows} rows)"


def _evidence(run: Run, other: str, gain: Estimate) -> dict[str, Any]:
    rows = {row.name: row for row in run.board}
    metrics = {name: msgspec.to_builtins(rows[name].metrics) for name in (MODEL, other)}
    unit = "squared error" if run.task == "regression" and f"gain_over_{other}" in run.parameters else run.metric
    evidence = {"run": run.id, "metric": run.metric, "gain": msgspec.to_builtins(gain), "gain_in": unit, "metrics": metrics, "split": run.split}
    return evidence | ({"note": rows[other].note} if rows[other].note else {})


def _skip(why: str) -> GateResult:
    return GateResult(name="champion", passed=True, summary=f"skipped: {why}", evidence={"skipped": why})
