"""How an endpoint does: its state in a word, its traffic, and its live accuracy beside naive, from the sums that monitoring keeps."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from kaizenml import charts
from kaizenml.charts import Mark, Series
from kaizenml.context import Context
from kaizenml.errors import KaizenError
from kaizenml.features.signature import TaskKind
from kaizenml.monitoring import live, reference, store
from kaizenml.monitoring.alert import Alert
from kaizenml.monitoring.live import DayState
from kaizenml.monitoring.store import AccuracyKey
from kaizenml.rollouts.rollout import WHOLE, Change, Rollout

WINDOW_DAYS = 30  # of the live metric in tables
LONG_DAYS = 100  # from then on the charts show weeks
COLOURS = (3, 4, 5, 6, 2)  # of challengers and shadows; 1 is the champion's
_LOSS = {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}
_SECOND = {"binary": "auc", "multiclass": "accuracy", "regression": "mae"}
_LOWER = {"log_loss", "rmse", "mae", "brier"}

States = dict[AccuracyKey, DayState]

_ALERT_WORDS = {
    "upstream": "upstream failure", "shift": "drifting", "concept": "getting worse", "skew": "worse since release", "labels": "odd labels",
    "shift_harmless": "inputs moved",
}  # fmt: skip
_ADVICE = {
    "upstream": "Retraining is held, because a model learnt from broken data would be worse; mend the feed.",
    "labels": "Retraining is held until the outcomes can be trusted again.",
    "shift": "The loop retrains as soon as there are enough labelled rows.",
    "concept": "The loop retrains as soon as there are enough labelled rows.",
    "skew": "The loop rolls back when there is a former champion.",
}


class Live(NamedTuple):
    """A live metric with its 95 % interval, and naive on the same rows."""

    name: str
    value: float
    low: float
    high: float
    rows: int
    naive: float | None


class Vital(NamedTuple):
    """The state of an endpoint in words."""

    state: str
    tone: str
    words: str
    advice: str
    rank: int  # the higher, the more it matters


class Chart(NamedTuple):
    """A chart in the two widths that a page has."""

    title: str
    note: str
    wide: str
    narrow: str


def task_of(ctx: Context, rollout: Rollout) -> TaskKind | None:
    """Return the kind of task of an endpoint, None while its champion cannot be read."""
    try:
        return reference.answers_of(ctx, rollout.champion).task
    except (KaizenError, OSError):
        return None


def states_of(ctx: Context, endpoint: str) -> States:
    """Return the sums of an endpoint by day."""
    with ctx.catalog.read() as connection:
        return store.read_accuracy(connection, endpoint)


def alerts_of(ctx: Context, endpoint: str) -> list[Alert]:
    """Return the alerts of an endpoint, newest first."""
    with ctx.catalog.read() as connection:
        return store.list_alerts(connection, endpoint=endpoint, limit=20)


def vital(rollout: Rollout, alerts: list[Alert], states: States) -> Vital:
    """Say how an endpoint is, the most important thing only."""
    name = rollout.endpoint
    now = next((alert for alert in alerts if alert.open), None)
    if rollout.killed:
        return Vital("killed", "bad", f"{name} is killed: {rollout.killed}", "Every answer is the naive one. Revive it when the reason is gone.", 5)
    if now and now.severity != "note":
        word = _ALERT_WORDS.get(now.label, now.label)
        tone, rank = ("bad", 4) if now.severity == "critical" else ("warn", 3)
        return Vital(word, tone, f"{name}: {now.cause}", _ADVICE.get(now.label, ""), rank)
    if rollout.challengers:
        trial = " and ".join(f"{arm.release} on {charts.percent(arm.weight / WHOLE)}" for arm in rollout.challengers)
        return Vital("on trial", "warn", f"{name} tries {trial} of its traffic", "The loop decides on evidence; you may decide earlier.", 2)
    if not any(state.sum("answered") for state in states.values()):
        return Vital("no traffic yet", "quiet", f"{name} has not been asked yet", f"Ask it with: kaizen predict {name} '{{...}}'", 1)
    return Vital("healthy", "good", f"{name} is healthy", now.cause if now else "", 0)


def colours(rollout: Rollout) -> dict[str, int]:
    """Return the colour of each release of an endpoint, the same in every picture of a page."""
    others = dict.fromkeys([*(arm.release for arm in rollout.challengers), *rollout.shadows])  # a shadow may also be champion or challenger
    others.pop(rollout.champion, None)
    return {rollout.champion: 1, **{release: COLOURS[i % len(COLOURS)] for i, release in enumerate(others)}}


def arms(rollout: Rollout) -> list[tuple[str, float, str]]:
    """Return (label, share, colour) of everything that answers now."""
    if rollout.killed:
        return [("naive", 1.0, "quiet")]
    colour = colours(rollout)
    shares = [(rollout.champion, rollout.champion_weight), *((arm.release, arm.weight) for arm in rollout.challengers)]
    return [(release, weight / WHOLE, f"c{colour[release]}") for release, weight in shares]


def answers(states: States, now: datetime, *, decided_by: Iterable[str] = ("model", "fallback", "kill")) -> int:
    """Count the live answers of the last 24 hours."""
    start = now - timedelta(hours=23)
    allowed, total = set(decided_by), 0.0
    for key, state in states.items():
        if key.role != "live" or key.decided_by not in allowed:
            continue
        day = datetime.strptime(key.day, "%Y-%m-%d").replace(tzinfo=UTC)
        for hour, count in enumerate(state.column("answered")):
            if count and start.replace(minute=0, second=0, microsecond=0) <= day + timedelta(hours=hour) <= now:
                total += count
    return int(total)


def newest(ctx: Context, states: States, task: TaskKind, release: str, role: str) -> Live | None:
    """Return the live loss of a release over the newest days."""
    since = (ctx.clock.now() - timedelta(days=WINDOW_DAYS)).strftime("%Y-%m-%d")
    days: dict[str, DayState] = {}
    for key, state in states.items():
        if (key.release, key.role, key.decided_by) == (release, role, "model") and key.day >= since:
            days[key.day] = days[key.day] + state if key.day in days else state
    return _live(task, [days[day] for day in sorted(days)])


def _live(task: TaskKind, days: list[DayState]) -> Live | None:
    name = _LOSS[task]
    found = live.metrics(task, days).get(name) if days else None
    if found is None:
        return None
    naive = live.naive_metric(task, days)
    return Live(name, found.value, found.low, found.high, found.rows, naive.value if naive else None)


def accuracy_charts(rollout: Rollout, states: States, task: TaskKind, history: list[Change], *, limit: int = 2) -> list[Chart]:
    """Draw the live metrics over time: what was answered, the shadows, naive, and marks where the releases changed."""
    rows: dict[str, dict[str, list[DayState]]] = {"live": {}, **{release: {} for release in rollout.shadows}}
    for key, state in states.items():
        if key.decided_by != "model" or not state.sum("rows"):
            continue
        who = "live" if key.role == "live" else key.release
        if who in rows:
            rows[who].setdefault(key.day, []).append(state)
    all_days = sorted({day for days in rows.values() for day in days})
    if not all_days:
        return []
    weekly = len(all_days) > LONG_DAYS
    found = []
    for name in (_LOSS[task], _SECOND[task])[:limit]:
        series = _series(rows, task, name, colours(rollout), weekly=weekly)
        if series:
            found.append(_chart(series, name, marks(history, all_days[0]), weekly=weekly))
    return found


def marks(history: list[Change], since: str) -> list[Mark]:
    """Return the changes of an endpoint as marks of a chart, oldest first."""
    tones = {"deployed": "good", "promoted": "good", "rolled_back": "bad", "killed": "bad", "revived": "neutral"}
    start = datetime.strptime(since, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    found = []
    for change in sorted(history, key=lambda one: one.at):
        if change.verb in tones and change.at >= start:
            label = change.release if change.verb in ("deployed", "promoted") and change.release else change.verb.replace("_", " ")
            found.append(Mark(change.at, label, tones[change.verb], change.why))  # type: ignore[arg-type]
    return found


def _series(
    rows: dict[str, dict[str, list[DayState]]], task: TaskKind, name: str, colour: dict[str, int], *, weekly: bool
) -> list[Series]:
    series = []
    for who, by_day in rows.items():
        buckets = _buckets(by_day, weekly=weekly)
        points = [(at, live.metrics(task, days).get(name), live.naive_metric(task, days)) for at, days in buckets]
        kept = [(at, value, naive) for at, value, naive in points if value]
        if not kept:
            continue
        x = [at for at, _, _ in kept]
        is_live = who == "live"
        series.append(
            Series(
                "live" if is_live else who, x, [value.value for _, value, _ in kept], colour=1 if is_live else _apart(colour[who]),
                low=[value.low for _, value, _ in kept] if is_live else None, high=[value.high for _, value, _ in kept] if is_live else None,
            )
        )  # fmt: skip
        if is_live and name == _LOSS[task] and all(naive for _, _, naive in kept):
            series.append(Series("naive", x, [naive.value if naive else None for _, _, naive in kept], colour=0, dashed=True))
    return series


def _apart(colour: int) -> int:
    return 2 if colour == 1 else colour  # the champion's own shadow runs beside "live"


def _buckets(by_day: dict[str, list[DayState]], *, weekly: bool) -> list[tuple[datetime, list[DayState]]]:
    found: dict[datetime, list[DayState]] = {}
    for day in sorted(by_day):
        at = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC)
        if weekly:
            at -= timedelta(days=at.weekday())
        found.setdefault(at, []).append(live.total(by_day[day]))
    return sorted(found.items())


def _chart(series: list[Series], name: str, found: list[Mark], *, weekly: bool) -> Chart:
    title = f"Live {name.replace('_', ' ').replace('auc', 'AUC').replace('rmse', 'RMSE').replace('mae', 'MAE')}"
    step = "week" if weekly else "day"
    better = "lower" if name in _LOWER else "higher"
    common: dict[str, Any] = {"title": f"{title} by {step}", "marks": found}
    return Chart(
        title,
        f"by {step}, band: 95 % interval, {better} is better",
        charts.line(series, width=1080, height=280, **common),
        charts.line(series, width=340, height=230, **common),
    )
