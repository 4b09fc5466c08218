"""Watch endpoints: what was answered, how it looks beside training, how good it was, and what is the matter."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.errors import Conflict, KaizenError, UsageError
from kaizenml.monitoring import alert as episodes
from kaizenml.monitoring import diagnosis as rules
from kaizenml.monitoring import feedback, joining, live, pairs, profile, reference, store
from kaizenml.monitoring.alert import Alert
from kaizenml.monitoring.diagnosis import Diagnosis as Diagnosis  # noqa: PLC0414  the loop names the type through this module
from kaizenml.monitoring.diagnosis import Facts
from kaizenml.monitoring.drift import ColumnDrift
from kaizenml.monitoring.live import DayState
from kaizenml.monitoring.pairs import Verdict
from kaizenml.monitoring.reference import Answers, Reference
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts.snapshot import LENT
from kaizenml.training.run import Estimate

__all__ = ["accuracy", "alerts", "diagnose", "drift", "evidence", "labelled", "observe"]

LOOK_BACK_DAYS = 28
ATTEMPTS = 5
FORGOTTEN_S = 7 * 86_400.0  # an outcome whose prediction has not turned up for so long was never ours


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What an observation added. Rows are counted once, whatever was interrupted before."""

    endpoint: str
    predictions: int  # new answers
    shadows: int  # new answers of shadows
    outcomes: int  # new outcomes
    labelled: int  # rows (answers and shadows' answers) that met their outcome
    pairs: int  # rows on which two releases were compared
    without_model: int  # new answers by fallback or kill switch
    waiting: int  # outcomes without a prediction so far
    reference: str | None  # release whose training data the inputs are compared with
    note: str = ""  # why there is no reference


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Live accuracy of one release (or of all that answered) in one window."""

    endpoint: str
    release: str | None  # None: whoever answered
    window: str  # a day, a month, or "all"
    answered: int  # by a model
    rows: int  # with an outcome
    metrics: dict[str, Estimate]  # log_loss, auc, accuracy, brier | rmse, mae, r2; 95 % intervals
    naive: Estimate | None  # loss of the naive answer on the same rows
    without_model: int  # answers by fallback or kill switch; not in the metrics


def observe(ctx: Context, endpoint: str, *, drained_at: float | None = None) -> Observation:
    """Take in the predictions and outcomes that are new since the last observation.

    Cheap to call often, safe to kill anywhere: what is counted and how far it was counted are written in one transaction.

    Parameters
    ----------
    endpoint : name of the endpoint.
    drained_at : when the journal was last drained, seconds UTC: what was answered later is not expected yet. Default now.

    Returns
    -------
    What was added.

    Raises
    ------
    Conflict : several processes observe the endpoint at once, again and again.

    Examples
    --------
    >>> observe(ctx, "flights").predictions  # doctest: +SKIP
    930
    """
    champion, known, note = _reference(ctx, endpoint)
    seen: Observation | None = None
    failures = 0
    while True:
        step = _step(ctx, endpoint, known, ctx.clock.timestamp() if drained_at is None else drained_at)
        if step is None:  # somebody else observed meanwhile: look again from there
            failures += 1
            if failures >= ATTEMPTS:
                raise Conflict(f"{endpoint} is being observed by another process", remedy="let one loop do it")
            continue
        observation, more = step
        observation = msgspec.structs.replace(observation, reference=champion if known else None, note=note)
        seen = observation if seen is None else _added(seen, observation)
        if not more:
            return seen


def diagnose(ctx: Context, endpoint: str) -> Diagnosis:
    """Say what is the matter with an endpoint, if anything, and what to do about it.

    An alert is opened at the first diagnosis of an episode, and closed when it is over.

    Parameters
    ----------
    endpoint : name of the endpoint.

    Returns
    -------
    Diagnosis ; its ``action`` is none, retrain, hold (something outside the model must be mended) or rollback.

    Raises
    ------
    NotFound : there is no such endpoint.

    Examples
    --------
    >>> diagnose(ctx, "flights").label  # doctest: +SKIP
    'healthy'
    """
    facts, alert = _facts(ctx, endpoint)
    found = rules.judge(facts)
    quiet_s = 2 * parse_duration(ctx.settings.monitor.window)  # one quiet window inside an episode does not end it
    change = episodes.after(alert, endpoint=endpoint, label=found.label, cause=found.cause, since=found.since, at=facts.at, number=0, quiet_s=quiet_s)
    if change != (None, None):
        _record(ctx, endpoint, found, quiet_s)
    return found


def drift(ctx: Context, endpoint: str) -> builtins.list[ColumnDrift]:
    """Compare the inputs of the newest week with the champion's training data, the most changed first.

    Parameters
    ----------
    endpoint : name of the endpoint.

    Returns
    -------
    One line per input; empty while there are fewer than 200 answers of whole days, or no reference.

    Raises
    ------
    NotFound : there is no such endpoint.
    """
    facts, _ = _facts(ctx, endpoint)
    return rules.look(facts).drifts


def evidence(ctx: Context, endpoint: str, challenger: str, *, against: str | None = None) -> Verdict:
    """Judge a challenger on the labelled rows that both it and another release answered.

    The verdict may be asked for as often as one likes: the chance of ever calling a release better or worse that is not is
    ``loop.error_level``. It takes at least 100 rows, 12 hours with rows, and 5 days; a gross harm
    is called worse without waiting for the days.

    Parameters
    ----------
    endpoint : name of the endpoint.
    challenger : release ``name@number``.
    against : the release to compare with; default the champion.

    Returns
    -------
    Verdict ; a positive ``difference`` means that the challenger's loss is lower.

    Raises
    ------
    NotFound : there is no such endpoint.
    UsageError : both are the same release.

    Examples
    --------
    >>> evidence(ctx, "flights", "flights@2").decision  # doctest: +SKIP
    'undecided'
    """
    against = against or rollouts.show(ctx, endpoint).champion
    if against == challenger:
        raise UsageError(f"{challenger} cannot be compared with itself", remedy="name another release with --against")
    one, other = sorted((challenger, against))
    with ctx.catalog.read() as connection:
        days = store.read_pairs(connection, endpoint, one, other)
        answers = store.read_accuracy(connection, endpoint, release=against, since=min(days)) if days else {}
    by_model = live.total(state for key, state in answers.items() if key.decided_by == "model")
    loss = by_model.sum("loss") / max(by_model.sum("rows"), 1.0)
    return pairs.judge(challenger, against, days, sign=1.0 if one == against else -1.0, loss=loss, level=ctx.settings.loop.error_level)


def accuracy(ctx: Context, endpoint: str, *, release: str | None = None, by: str = "day", since: str | None = None) -> builtins.list[Accuracy]:
    """Return live accuracy with 95 % intervals.

    Only answers that a model gave count; those of the fallback and the kill switch are counted apart.

    Parameters
    ----------
    endpoint : name of the endpoint.
    release : one release, its answers as a shadow included; default whoever answered.
    by : day, month or all.
    since : first day (YYYY-MM-DD), default all.

    Returns
    -------
    One line per window that has answers, in order.

    Examples
    --------
    >>> accuracy(ctx, "flights", by="month")[0].metrics["log_loss"].value  # doctest: +SKIP
    0.49
    """
    if by not in ("day", "month", "all"):
        raise UsageError(f"by {by!r} is not a window", remedy="one of day, month, all", values={"found": by})
    with ctx.catalog.read() as connection:
        states = store.read_accuracy(connection, endpoint, release=release, role=None if release else "live", since=since)
    windows: dict[str, dict[str, DayState]] = {}
    without: dict[str, int] = {}
    for key, state in states.items():
        window = {"day": key.day, "month": key.day[:7], "all": "all"}[by]
        if key.decided_by == "model":
            days = windows.setdefault(window, {})
            days[key.day] = days[key.day] + state if key.day in days else state
        elif key.role == "live":
            without[window] = without.get(window, 0) + int(state.sum("answered"))
    if not states:
        return []
    task = reference.answers_of(ctx, release or next(iter(states)).release).task
    return [
        Accuracy(
            endpoint=endpoint, release=release, window=window, answered=int(sum(state.sum("answered") for state in days.values())),
            rows=int(sum(state.sum("rows") for state in days.values())), metrics=live.metrics(task, list(days.values())),
            naive=live.naive_metric(task, list(days.values())), without_model=without.get(window, 0),
        )
        for window in sorted(windows.keys() | without.keys())
        for days in [windows.get(window, {})]
    ]  # fmt: skip


def labelled(ctx: Context, endpoint: str, *, after: int = 0, upto: int | None = None) -> tuple[pa.Table, int]:
    """Return live rows with their outcomes, as rows of the training dataset: what production has taught.

    Parameters
    ----------
    endpoint : name of the endpoint.
    after : cursor over outcomes: only those taken after it; 0 for all.
    upto : only those up to this cursor, default all.

    Returns
    -------
    The inputs that the requests carried, under their names in the dataset, the target, and ``id``; and the cursor to
    go on from. The cursor stops before outcomes of the last hour whose prediction is still in the journal.
    """
    return feedback.labelled(ctx, endpoint, after=after, upto=upto)


def alerts(ctx: Context, *, endpoint: str | None = None, open_only: bool = False, limit: int = 100) -> builtins.list[Alert]:
    """List alerts, newest first: one for each episode, not for each look.

    Parameters
    ----------
    endpoint : default all endpoints.
    open_only : leave out those that are over.
    limit : how many at most, from 1.
    """
    with ctx.catalog.read() as connection:
        return store.list_alerts(connection, endpoint=endpoint, open_only=open_only, limit=limit)


def _reference(ctx: Context, endpoint: str) -> tuple[str | None, Reference | None, str]:
    """The champion, its reference, and why there is none."""
    try:
        champion = rollouts.show(ctx, endpoint).champion
    except KaizenError as error:
        return None, None, error.what
    try:
        return champion, reference.of(ctx, champion), ""
    except KaizenError as error:
        return champion, None, f"the inputs are not watched: {error.what}"


def _step(ctx: Context, endpoint: str, known: Reference | None, drained_at: float) -> tuple[Observation, bool] | None:
    """Take in one batch; None when another process was quicker."""
    with ctx.catalog.read() as connection:
        before = store.read_cursors(connection, endpoint)
        pending = store.read_pending(connection, endpoint)
    solid = np.array(known.solid, bool) if known else np.zeros(0, bool)
    columns = [f"x_{column.name}" for column, firm in zip(known.bins.columns, solid, strict=True) if firm] if known else []
    found = joining.gather(ctx, endpoint, before, pending, extra=columns, drained_at=drained_at)
    if not found.fresh.num_rows and not found.received and not found.settled:
        return _observation(endpoint, found, joining.Joined({}, {}, 0, 0), len(pending)), False
    gaps = {name: _gaps(table, known, solid) for name, table in (("fresh", found.fresh), ("old", found.old))}
    joined = joining.join(found, _answers(ctx, found.fresh, found.old), gaps)
    windows = _windows(found.fresh, known, solid)
    with ctx.catalog.write() as connection:
        if not store.move_cursors(connection, endpoint, before, found.after):
            return None
        store.add_accuracy(connection, endpoint, joined.accuracy)
        store.add_pairs(connection, endpoint, joined.pairs)
        if known:
            store.add_windows(connection, endpoint, known.release, windows)
        waiting = [(kept.id, kept.value, kept.received_at) for kept in found.waiting]
        store.change_pending(connection, endpoint, found=found.found, waiting=waiting, older_than=found.after.at - FORGOTTEN_S)
    left = len(pending) - len(found.found) + len(found.waiting)
    return _observation(endpoint, found, joined, left), found.received >= joining.BATCH


def _gaps(table: pa.Table, known: Reference | None, solid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    if known is None or not table.num_rows:
        return np.zeros(table.num_rows, bool)
    holes = profile.holes(known.bins, table, solid, prefix="x_")
    return np.asarray(np.logical_and(holes, np.array([role == "live" for role in table["role"].to_pylist()], bool)))


def _windows(fresh: pa.Table, known: Reference | None, solid: npt.NDArray[np.bool_]) -> dict[str, profile.Profile]:
    if known is None or not fresh.num_rows:
        return {}
    live = fresh.filter(pc.equal(fresh["role"], "live")).sort_by("day")
    counted = live["day"].value_counts()  # in the order of the rows
    bounds = np.append(0, np.cumsum(counted.field("counts").to_numpy()))
    windows = profile.count_blocks(known.bins, live, bounds, prefix="x_", solid=solid)
    return dict(zip(counted.field("values").to_pylist(), windows, strict=True))


def _answers(ctx: Context, *tables: pa.Table) -> dict[str, Answers]:
    """What is to be known of every release among the rows; one whose bundle is gone is left out."""
    found = {}
    for release in {name for table in tables for name in table["release"].unique().to_pylist() if name}:
        try:
            found[release] = reference.answers_of(ctx, release)
        except KaizenError:
            continue
    return found


def _observation(endpoint: str, found: joining.Gathered, joined: joining.Joined, waiting: int) -> Observation:
    shadows = joining.count(found.fresh, "role", "shadow")
    return Observation(
        endpoint=endpoint, predictions=found.fresh.num_rows - shadows, shadows=shadows, outcomes=found.received, labelled=joined.labelled,
        pairs=int(sum(state[:, 0].sum() for state in joined.pairs.values())), without_model=joined.not_model, waiting=waiting, reference=None,
    )  # fmt: skip


def _added(one: Observation, other: Observation) -> Observation:
    names = ("predictions", "shadows", "outcomes", "labelled", "pairs", "without_model")
    return msgspec.structs.replace(other, **{name: getattr(one, name) + getattr(other, name) for name in names})


def _facts(ctx: Context, endpoint: str) -> tuple[Facts, Alert | None]:
    """Read what a diagnosis looks at."""
    champion = rollouts.show(ctx, endpoint).champion
    known, now = _known(ctx, champion), ctx.clock.now()
    since = (now - timedelta(days=LOOK_BACK_DAYS)).date().isoformat()
    with ctx.catalog.read() as connection:
        cursors = store.read_cursors(connection, endpoint)
        states = store.read_accuracy(connection, endpoint, since=since)
        windows = store.read_windows(connection, endpoint, champion, newest=LOOK_BACK_DAYS) if known else {}
        alert = store.open_alert(connection, endpoint)
        first = store.first_live_day(connection, endpoint, champion)
    try:
        answers = reference.answers_of(ctx, champion)
    except KaizenError:
        answers = Answers(task="binary", target="", classes=[], naive=[])
    # rows that a rule lent to another release are a segment of their own: they say nothing of the releases that had the traffic
    model = {key: state for key, state in states.items() if key.decided_by == "model" and key.arm != LENT}
    others = {key.release for key in model} - {champion}
    facts = Facts(
        endpoint=endpoint,
        at=now.timestamp(),
        # what was answered after the last drain is not here yet, so the day of that moment is not over, whatever the clock says by now
        today=datetime.fromtimestamp(cursors.at or now.timestamp(), UTC).date().isoformat(),
        release=champion,
        reference=known,
        windows={day: window for day, window in windows.items() if day >= since},
        answers=_by_day(model, lambda key: key.release == champion),
        live=_by_day(states, lambda key: key.role == "live"),
        by_model=_by_day(model, lambda key: key.role == "live"),
        before=_by_day(model, lambda key: key.role == "live" and key.release != champion),
        beside={name: _by_day(model, lambda key, name=name: key.release == name) for name in others},
        first_day=first,
        regression=answers.task == "regression",
        classes=len(answers.classes),
        naive=answers.naive,
        false_alarms=ctx.settings.monitor.false_alarms,
        labelled_at=cursors.labelled_at,
        longest_gap_s=cursors.longest_gap_s,
        label_days=cursors.label_days,
    )
    return facts, alert


def _known(ctx: Context, champion: str) -> Reference | None:
    """The reference if it is there; a diagnosis does not wait for one to be made."""
    return reference.of(ctx, champion) if reference.path_of(ctx, champion).exists() else None


def _by_day(states: Mapping[store.AccuracyKey, DayState], chosen: Callable[..., bool]) -> dict[str, DayState]:
    days: dict[str, DayState] = {}
    for key, state in states.items():
        if chosen(key):
            days[key.day] = days[key.day] + state if key.day in days else state
    return days


def _record(ctx: Context, endpoint: str, found: Diagnosis, quiet_s: float) -> None:
    """Write what a diagnosis does to the endpoint's alert, with its events, unless another process just did."""
    with ctx.catalog.write() as connection:
        number = store.next_alert(connection, endpoint)
        old, new = episodes.after(
            store.open_alert(connection, endpoint),
            endpoint=endpoint,
            label=found.label,
            cause=found.cause,
            since=found.since,
            at=found.at,
            number=number,
            quiet_s=quiet_s,
        )
        if old:
            store.put_alert(connection, old)
            if not old.open:
                ctx.record(
                    connection, "monitoring.closed", endpoint, f"{old.label} is over", number=old.number, label=old.label, severity=old.severity
                )
        if new:
            store.put_alert(connection, new)
            ctx.record(
                connection, "monitoring.opened", endpoint, found.cause, number=new.number, label=new.label, severity=new.severity, since=new.since,
                view=found.view, columns=found.columns[:20], action=found.action,
            )  # fmt: skip
