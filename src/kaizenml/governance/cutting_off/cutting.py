"""Cut off the rows of a source or a range of time, take them back, and act on what they went into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec

from kaizenml.context import Context
from kaizenml.data import exclusions
from kaizenml.data import store as datasets
from kaizenml.data.dataset import Dataset
from kaizenml.data.exclusions import Exclusion
from kaizenml.errors import KaizenError, NotFound, UsageError, nearest, not_found
from kaizenml.features import operations as features
from kaizenml.features import store as views
from kaizenml.features.offline import frame
from kaizenml.governance.cutting_off.radius import Radius
from kaizenml.loop import operations as loop
from kaizenml.refs import check_name
from kaizenml.rollouts import operations as rollouts

Cut = list[Exclusion]


def planned(ctx: Context, dataset: str | None, *, source: str | None, since: str | None, until: str | None, why: str = "") -> Cut:
    """Return the exclusions that would be made, one for each dataset; where one stands that says the same, it is that one.

    Raises
    ------
    UsageError : neither a source nor a time is given, a time cannot be read, or the range is empty.
    NotFound : no such dataset, or no dataset has this source.
    """
    if source is None and since is None and until is None:
        raise UsageError("say which rows: of a source, of a range of time, or both", remedy="--source feed7 --since 2026-11-01")
    start, end = moment("since", since), moment("until", until)
    if start is not None and end is not None and end <= start:
        raise UsageError(f"no time lies from {since} up to {until}", remedy="give an `until` after `since`", values={"since": since, "until": until})
    with ctx.catalog.read() as connection:
        chosen = _chosen(datasets.every(connection), dataset, source)
        standing = exclusions.active(connection, [each.name for each in chosen])
    found = []
    for each in chosen:
        one = Exclusion(
            id=0, dataset=each.name, source=source, since=start, until=end, time=_time_of(ctx, each), why=why, by=ctx.actor, at=ctx.clock.timestamp()
        )
        same = next((other for other in standing if _rows(other) == _rows(one)), None)
        found.append(one if same is None else msgspec.structs.replace(same, why=why or same.why))
    return found


def cut_off(ctx: Context, cut: Sequence[Exclusion]) -> Cut:
    """Write the exclusions that are not there yet, each with its event, and bring the online values in line with them."""
    made = []
    with ctx.catalog.write() as connection:
        standing = exclusions.active(connection, {each.dataset for each in cut})
        for each in cut:
            same = next((other for other in standing if _rows(other) == _rows(each)), None)
            one = same or msgspec.structs.replace(each, id=exclusions.next_id(connection))
            if same is not None and each.why:  # cut in a hurry, explained later
                one = msgspec.structs.replace(same, why=each.why)
            if one != same:
                exclusions.save(connection, one)
                ctx.record(connection, "data.excluded", one.dataset, one.why, id=one.id, source=one.source, since=one.since, until=one.until)
            made.append(one)
    heed(ctx, made)
    return made


def take_back(ctx: Context, cut: Sequence[Exclusion], why: str) -> Cut:
    """Lift exclusions: their rows count again from now on."""
    lifted = [msgspec.structs.replace(each, lifted_at=ctx.clock.timestamp(), lifted_by=ctx.actor, lifted_why=why) for each in cut]
    with ctx.catalog.write() as connection:
        standing = {each.id for each in exclusions.active(connection, {each.dataset for each in cut})}
        for each in lifted:
            if each.id in standing:
                exclusions.save(connection, each)
                ctx.record(connection, "data.included", each.dataset, why, id=each.id, source=each.source, since=each.since, until=each.until)
    heed(ctx, lifted)
    return lifted


def lifting(ctx: Context, exclusion: int | None, *, dataset: str | None, source: str | None) -> Cut:
    """Return the exclusions that hold and are meant: one by its id, or those of a dataset or source."""
    with ctx.catalog.read() as connection:
        known = [each for each in exclusions.every(connection) if each.active]
    if exclusion is None and dataset is None and source is None:
        raise UsageError("say which exclusion to lift", remedy="kaizen data exclusions, then kaizen data include ID")
    found = [
        each
        for each in known
        if exclusion in (None, each.id) and dataset in (None, each.dataset) and (source is None or each.source == source)
    ]
    if not found:
        shown = ", ".join(f"{each.id} ({each.source or 'all sources'} in {each.dataset})" for each in known[:8]) or "none holds"
        raise NotFound(f"no such exclusion holds: {shown}", remedy="kaizen data exclusions", values={"known": [each.id for each in known]})
    return found


def heed(ctx: Context, cut: Sequence[Exclusion]) -> None:
    """Bring the online values of every view that was ever used over these datasets in line with the exclusions."""
    names = {each.dataset for each in cut}
    current = {view.ref: view for view in frame.views(ctx)}
    for view in current.values():
        if view.dataset in names:
            features.flush(ctx, view.name)  # pushed values are rows only after it
    with ctx.catalog.read() as connection:
        used = views.definitions(connection)
    for view in used.values():
        if view.dataset in names:
            features.heed(ctx, view)


def roll_back(ctx: Context, found: Radius, why: str) -> list[str]:
    """Take every release that learnt from the rows off its endpoint: champions give way to the newest former one that is free of them."""
    done = []
    for each in found.endpoints:
        if each.role == "champion" and each.free:
            done.append(_said(f"{each.endpoint} rolled back to {each.free}", partial(rollouts.rollback, ctx, each.endpoint, to=each.free, why=why)))
        elif each.role == "champion":
            done.append(f"{each.endpoint} has had no champion that is free of these rows: improve it, or kill it until there is one")
    for each in found.endpoints:
        standing = rollouts.show(ctx, each.endpoint)
        if each.role == "challenger" and standing.arm(each.release):
            act = partial(rollouts.withdraw, ctx, each.endpoint, each.release, why=why)
            done.append(_said(f"{each.release} withdrawn from {each.endpoint}", act))
        elif each.role == "shadow" and each.release in standing.shadows:
            act = partial(rollouts.unshadow, ctx, each.endpoint, each.release, why=why)
            done.append(_said(f"{each.release} no longer shadows {each.endpoint}", act))
        elif each.role.startswith("["):
            done.append(f"not done: {each.release} answers {each.endpoint} by {each.role} of kaizen.toml; name another answer there")
    return done


def retrain(ctx: Context, found: Radius, why: str, progress: Callable[[str, float], None] | None) -> list[str]:
    """Train without the rows for every endpoint that a release answers which learnt from them, as far as a trial on live traffic."""
    done = []
    for name in dict.fromkeys(each.endpoint for each in found.endpoints if each.role == "champion"):
        try:
            it = loop.improve(ctx, name, until="challenge", why=why, progress=progress)
            where = "answers a little of the traffic, on trial" if it.step == "watch" else f"is at the step {it.step!r}"
            done.append(f"{name}: {it.release or it.token} was trained without these rows and {where}")
        except KaizenError as error:  # refused, waiting, or a loop that runs has it: it is asked for, and its end is on record
            done.append(f"{name}: asked for a training without these rows; {error.what}")
    return done


def _said(words: str, act: Callable[[], object]) -> str:
    """Act, and say so; where it cannot be done say why: the others are acted on all the same."""
    try:
        act()
    except KaizenError as error:
        return f"not done: {words}; {error.what}"
    return words


def moment(name: str, text: str | None) -> float | None:
    """Read a day or an instant as seconds UTC.

    >>> moment("since", "1970-01-02")
    86400.0
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{name} {text!r} is no day or time", remedy=f"--{name} 2026-11-01, or --{name} 2026-11-01T06:00Z") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _chosen(known: Sequence[Dataset], dataset: str | None, source: str | None) -> list[Dataset]:
    if dataset is not None:
        known_names = [each.name for each in known]
        check_name(dataset)
        if dataset not in known_names:
            raise not_found("dataset", dataset, known_names, remedy="kaizen data list")
        known = [each for each in known if each.name == dataset]
    elif source is None:
        raise UsageError("a range of time without a source is of one dataset", remedy="name the dataset, or --source")
    if source is None:
        return list(known)
    found = [each for each in known if source in [one.name for one in each.sources]]
    if not found:
        there = sorted({one.name for each in known for one in each.sources})
        close = nearest(source, there)
        hint = f"; did you mean {close!r}?" if close else f"; there is {', '.join(there[:8])}"
        where = f"dataset {dataset!r} has" if dataset else "no dataset has"
        what = f"{where} {'no ' if dataset else 'a '}source {source!r}{hint}"
        raise NotFound(what, remedy="kaizen data show NAME lists its sources", values={"source": source, "nearest": close, "known": there[:50]})
    return found


def _time_of(ctx: Context, dataset: Dataset) -> str | None:
    """Return the column that says when a row happened: the contract's, else what a view or the task goes by; None: when it was added."""
    if dataset.contract.time:
        return dataset.contract.time
    task = ctx.settings.task
    if task is not None and task.dataset == dataset.name and task.time:
        return task.time
    return next((view.at for view in frame.views(ctx) if view.dataset == dataset.name and view.at), None)


def _rows(one: Exclusion) -> tuple[object, ...]:
    return (one.dataset, one.source, one.since, one.until)
