"""What is the matter, and what to do about it. Pure rules over what was seen, asked in the order of their cost.

Only two findings call for a retraining: the inputs moved and the loss rose with them (``shift``), or the loss rose
while the inputs were quiet (``concept``). A model retrained on broken inputs or broken labels would be worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

import msgspec
import numpy as np

from kaizenml.monitoring import drift, live, loss, profile, upstream
from kaizenml.monitoring.drift import ColumnDrift
from kaizenml.monitoring.live import DayState
from kaizenml.monitoring.loss import LossFinding
from kaizenml.monitoring.profile import Profile
from kaizenml.monitoring.reference import Reference
from kaizenml.monitoring.upstream import Failure
from kaizenml.training.run import Estimate

Label = Literal["healthy", "waiting", "upstream", "shift_harmless", "shift", "concept", "skew", "labels"]
Action = Literal["none", "retrain", "hold", "rollback"]

ENOUGH = 100  # rows before anything is said
WEEK = 7
DRIFT_ROWS = 200
FRESH_DAYS = 14  # a release that was worse from its first days on is suspected itself
SKEWED = 0.1  # of the expected loss
LABELS_STOPPED_DAYS = 4
TURNED = 3.0  # standard deviations under an AUC of one half


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """The finding about an endpoint.

    ``label``: healthy, waiting (too little seen), upstream (before the model), shift_harmless (inputs moved, loss as
    expected), shift (inputs moved and loss up), concept (loss up, inputs quiet), skew (worse since the release came),
    labels (the outcomes are odd).
    """

    endpoint: str
    label: Label
    cause: str  # one sentence for a person
    action: Action
    view: str | None = None
    columns: list[str] = []
    since: str | None = None  # day
    evidence: dict[str, Any] = {}
    at: float


@dataclass(frozen=True)
class Facts:
    """What a diagnosis looks at."""

    endpoint: str
    at: float
    today: str
    release: str  # champion
    reference: Reference | None
    windows: Mapping[str, Profile]  # live inputs by day, over the reference's bins
    answers: Mapping[str, DayState]  # of the champion's model by day, live and shadow
    live: Mapping[str, DayState]  # of the endpoint by day, whoever answered
    by_model: Mapping[str, DayState] = field(default_factory=dict)  # of those, what a model answered: a rule's or a kill's answer ranks nothing
    before: Mapping[str, DayState] = field(default_factory=dict)  # live answers of the champion before this one
    beside: Mapping[str, Mapping[str, DayState]] = field(default_factory=dict)  # other releases' answers on the same days
    first_day: str | None = None  # on which the champion answered as champion
    regression: bool = False
    classes: int = 2
    naive: list[float] = field(default_factory=list)
    false_alarms: float = 0.01
    labelled_at: float = 0.0  # when the newest outcome came
    longest_gap_s: float = 0.0  # between two arrivals of outcomes so far
    label_days: int = 0  # days on which outcomes came


@dataclass(frozen=True)
class Seen:
    """What the checks found."""

    failures: list[Failure]
    drifts: list[ColumnDrift]
    loss: LossFinding
    odd_labels: str | None
    odd_since: str | None


def judge(facts: Facts) -> Diagnosis:
    """Diagnose an endpoint."""
    rows = int(sum(state.sum("answered") for state in facts.live.values()))
    if rows < ENOUGH:
        return _diagnosis(facts, "waiting", f"{rows} answers so far, {ENOUGH} are needed to say anything", "none", None)
    seen = look(facts)
    current = [failure for failure in seen.failures if failure.current]
    if current:
        return _upstream(facts, seen, current)
    if seen.odd_labels:
        return _diagnosis(facts, "labels", seen.odd_labels, "hold", seen, since=seen.odd_since)
    moved = [column for column in seen.drifts if column.drifted]
    if seen.loss.up:
        return _worse(facts, seen, moved)
    if moved:
        named = ", ".join(f"{column.column} ({column.reason})" for column in moved[:3]) + (f" and {len(moved) - 3} more" if len(moved) > 3 else "")
        if seen.loss.rows < ENOUGH:
            cause = f"the inputs moved: {named}; too few outcomes yet to say whether that does harm"
        else:
            cause = f"the inputs moved: {named}; the loss is as expected"
        return _diagnosis(facts, "shift_harmless", cause, "none", seen, columns=[column.column for column in moved])
    return _diagnosis(facts, "healthy", _all_well(seen), "none", seen)


def look(facts: Facts) -> Seen:
    """Run the checks: upstream failures, drift without them, labels, loss without all of them."""
    failures: list[Failure] = []
    drifts: list[ColumnDrift] = []
    if facts.reference is not None:
        failures = upstream.failures(facts.reference, facts.windows, today=facts.today, alpha=facts.false_alarms)
        drifts = drifted(
            facts.reference, facts.windows, skip={day for failure in failures for day in failure.days}, today=facts.today, alpha=facts.false_alarms
        )
    odd_days, odd, since = _labels(facts)
    skip = odd_days | {day for failure in failures for day in failure.days}
    found = loss.judge(facts.answers, reference=facts.reference, regression=facts.regression, skip=skip, today=facts.today)
    return Seen(failures, drifts, found, odd, since)


def drifted(reference: Reference, windows: Mapping[str, Profile], *, skip: set[str], today: str, alpha: float) -> list[ColumnDrift]:
    """Compare the newest week of whole, unbroken days with the reference; the column furthest beyond its limit first."""
    days = [day for day in sorted(windows) if day < today and day not in skip][-WEEK:]
    window = profile.total(reference.bins, [windows[day] for day in days])
    if window.rows < DRIFT_ROWS:
        return []
    limits = reference.weekly if len(days) >= 4 and reference.weekly.distance else reference.daily
    found = drift.compare(reference.bins, reference.whole, window, alpha=alpha, limits=limits)
    return sorted(found, key=lambda column: (not column.drifted, column.limit - column.distance))


def _upstream(facts: Facts, seen: Seen, current: list[Failure]) -> Diagnosis:
    first = current[0]
    also = f", and {len(current) - 1} more" if len(current) > 1 else ""
    known = (
        f"; {facts.release} itself does as expected on rows without it"
        if first.kind == "nulls" and seen.loss.rows >= ENOUGH and not seen.loss.up
        else ""
    )
    cause = f"{first.said}, since {first.since}{also}{known}: mend the source, retraining would learn the fault"
    columns = list(dict.fromkeys(name for failure in current for name in failure.columns))
    return _diagnosis(
        facts, "upstream", cause, "hold", seen, view=first.view, columns=columns, since=first.since, kind=first.kind, shares=first.shares
    )


def _worse(facts: Facts, seen: Seen, moved: list[ColumnDrift]) -> Diagnosis:
    found = seen.loss
    compared = f"the loss is {found.loss:.4f} where {found.expected:.4f} was expected, since {found.since}"
    if _came_with_release(facts, found):
        came = f"that is since {facts.release} came on {facts.first_day}, and the release before it did as expected"
        cause = f"{compared}, {came}: serving and training differ, or the release is bad"
        return _diagnosis(facts, "skew", cause, "rollback", seen, since=found.since)
    if moved:
        named = ", ".join(column.column for column in moved[:4])
        cause = f"{compared}, and the inputs moved ({named}): the model has not learnt these rows yet"
        return _diagnosis(facts, "shift", cause, "retrain", seen, columns=[column.column for column in moved], since=found.since)
    return _diagnosis(
        facts, "concept", f"{compared}, while the inputs are quiet: what is to be predicted has changed", "retrain", seen, since=found.since
    )


def _came_with_release(facts: Facts, found: LossFinding) -> bool:
    """Worse from the release's first days on, by much, while the release before it was, and others beside it are, as expected."""
    first = facts.first_day
    if first is None or found.since is None or found.expected is None or found.excess is None or not facts.before:
        return False
    if _later(first, FRESH_DAYS) < max(facts.answers) or found.since > _later(first, 2) or found.excess < SKEWED * found.expected:
        return False
    calm = _excess([state for day, state in facts.before.items() if day < first][-WEEK:])
    if calm is None or calm > found.excess / 2:
        return False
    beside = [_excess([state for day, state in days.items() if day >= first]) for days in facts.beside.values()]
    # the same rows are hard for the others, too: then it is not the release
    return all(other is None or other <= found.excess / 2 for other in beside)


def _labels(facts: Facts) -> tuple[set[str], str | None, str | None]:
    """Days with odd labels; what is odd now, and since when."""
    labelled = {day: state for day, state in facts.live.items() if state.sum("rows") >= ENOUGH / 2}
    odd = {day: "all outcomes are the same" for day, state in labelled.items() if loss.constant(state, classes=facts.classes, naive=facts.naive)}
    if not facts.regression and facts.classes == 2:
        ranked = {day: live.area(state.scores) for day, state in facts.by_model.items() if state.sum("rows") >= ENOUGH / 2}
        odd |= {day: "high scores go with the wrong outcomes" for day in _turned(ranked)}
    if odd and max(odd) == max(labelled):
        since = _first_of_run(odd, sorted(labelled))
        return set(odd), f"{odd[max(odd)]} since {since}: the outcomes look wrong, not the model; nothing is learnt from them", since
    stopped = _stopped(facts)
    if stopped:
        return set(odd), f"no outcomes have come since {stopped}, longer than ever before: their source is down", stopped
    return set(odd), None, None


def _turned(areas: Mapping[str, Estimate | None]) -> set[str]:
    """Return runs of days whose AUC lies under one half by more than days differ from each other, and than chance.

    The rows of a day share its weather, so the interval from its rows alone is too narrow: one dreadful day in fifty turns
    the scores around by itself. A run is judged by the sum of its days' scores over the root of their number (Stouffer).
    """
    values = [found.value for found in areas.values() if found]
    middle = float(np.median(values)) if values else 0.0
    if middle <= 0.55 and len(values) >= 3:
        return set()  # a model that never told the classes apart
    spread = 1.4826 * float(np.median(np.abs(np.array(values) - middle))) if len(values) >= 3 else 0.05
    turned: set[str] = set()
    run: dict[str, float] = {}
    for day, found in [*sorted(areas.items()), ("", None)]:
        if found and found.value < 0.5:
            noise = max((found.high - found.low) / 3.92, 0.5 / math.sqrt(found.rows))
            run[day] = (0.5 - found.value) / math.hypot(noise, spread)
            continue
        if sum(run.values()) > TURNED * math.sqrt(len(run)):
            turned |= run.keys()
        run = {}
    return turned


def _stopped(facts: Facts) -> str | None:
    """The first day without outcomes, when they have not come for longer than ever before."""
    silence = facts.at - facts.labelled_at
    if facts.label_days < WEEK or silence < max(LABELS_STOPPED_DAYS * 86_400, 2 * facts.longest_gap_s):
        return None
    stopped = datetime.fromtimestamp(facts.labelled_at, UTC).date().isoformat()
    asked = sum(state.sum("answered") for day, state in facts.live.items() if day >= stopped)
    return stopped if asked >= ENOUGH else None


def _diagnosis(
    facts: Facts, label: Label, cause: str, action: Action, seen: Seen | None, *, view: str | None = None, columns: list[str] | None = None,
    since: str | None = None, **more: Any,
) -> Diagnosis:  # fmt: skip
    evidence: dict[str, Any] = {"release": facts.release, **more}
    if seen is not None:
        evidence["loss"] = msgspec.to_builtins(seen.loss)
        evidence["moved"] = {column.column: column.reason for column in seen.drifts if column.drifted}
        evidence["upstream"] = [
            {"kind": item.kind, "view": item.view, "since": item.since, "until": item.days[-1], "current": item.current} for item in seen.failures
        ]
    return Diagnosis(
        endpoint=facts.endpoint,
        label=label,
        cause=cause,
        action=action,
        view=view,
        columns=columns or [],
        since=since,
        evidence=evidence,
        at=facts.at,
    )


def _all_well(seen: Seen) -> str:
    if seen.loss.rows < ENOUGH or seen.loss.expected is None:
        return "the inputs look as in training; there are too few outcomes yet to say how good the answers are"
    where = {"holdout": "before release", "live": "in its first calm weeks", "own": "by its own probabilities"}[seen.loss.expected_from]
    chance = " (chance may explain the difference)" if (seen.loss.loss or 0.0) > seen.loss.expected else ""
    return f"the loss is {seen.loss.loss:.4f}, {seen.loss.expected:.4f} was expected {where}{chance}; the inputs look as in training"


def _excess(states: list[DayState]) -> float | None:
    total = live.total(states)
    rows = total.sum("rows")
    return (total.sum("loss") - total.sum("own")) / rows if rows >= ENOUGH else None


def _first_of_run(odd: Mapping[str, str], days: list[str]) -> str:
    first = days[-1]
    for day in reversed(days):
        if day not in odd:
            break
        first = day
    return first


def _later(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()
