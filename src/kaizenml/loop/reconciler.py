"""The reconciler: reads the state, does the next step, writes it in one transaction.

Level-triggered: nothing is remembered outside the catalog, so a process killed anywhere goes on
where it was. Each step is repeatable, because what it makes carries the improvement's token; and
a step's end is written only if nobody else moved the improvement meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from kaizenml import events
from kaizenml.clock import format_duration, parse_duration
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data import tables
from kaizenml.errors import Conflict, KaizenError, RecipeOutdated, Refused, StorageFull, Unavailable
from kaizenml.features import operations as features
from kaizenml.features.offline import frame
from kaizenml.loop import store
from kaizenml.loop.improvement import Facts, Hold, Improvement, Start, judge, should_start
from kaizenml.monitoring import operations as monitoring
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts.rollout import Rollout
from kaizenml.serving import outcomes
from kaizenml.training import operations as training

ATTEMPTS = 3  # of a step that fails for reasons that may pass (disk, database); then the improvement ends as failed

Progress = Callable[[str, float], None]


@contextmanager
def lease(ctx: Context) -> Iterator[None]:
    """Hold the right to move improvements; Conflict when another process has it. Ends with the process, however it ends."""
    with ctx.hold("loop") as held:
        if not held:
            raise Conflict("another loop works on this project", remedy="let it work, or stop it: kaizen status shows it")
        yield


def reconcile(ctx: Context, rollout: Rollout, progress: Progress | None = None) -> tuple[Improvement | None, monitoring.Diagnosis]:
    """Do what one endpoint needs next; return its current improvement, if any, and the diagnosis it was based on."""
    endpoint = rollout.endpoint
    with ctx.catalog.read() as connection:
        found = store.latest(connection, endpoint)
    current = found[0] if found else None
    diagnosis = monitoring.diagnose(ctx, endpoint)
    if diagnosis.action == "rollback" and rollout.previous and not rollout.killed:
        rollouts.rollback(ctx, endpoint, why=diagnosis.cause)
        return current, diagnosis
    _remember_hold(ctx, endpoint, diagnosis)
    judge_challengers(ctx, rollout, current)
    if current is None or current.step == "done":
        current = consider(ctx, rollout, current, diagnosis)
    while current and current.step != "done":
        before, current = current, advance(ctx, current, progress)
        if current.step == before.step:  # waiting for evidence
            break
    return current, diagnosis


def consider(ctx: Context, rollout: Rollout, last: Improvement | None, diagnosis: monitoring.Diagnosis) -> Improvement | None:
    """Start an improvement if there is a reason to, or remember why retraining is held."""
    endpoint, now = rollout.endpoint, ctx.clock.timestamp()
    settings = ctx.settings.loop
    after = last.upto if last else 0
    fresh, newest = outcomes.count(ctx.state, endpoint, after=after)
    with ctx.catalog.read() as connection:
        wish = store.wish(connection, endpoint)
    decision = should_start(
        Facts(
            now=now,
            killed=rollout.killed is not None,
            challengers=len(rollout.challengers),
            diagnosis=diagnosis.label,
            action=diagnosis.action,
            cause=diagnosis.cause,
            new_labelled=fresh,
            min_new_rows=settings.min_new_rows,
            trained_at=last.started_at if last else releases.show(ctx, rollout.champion).created_at,
            ended_at=last.step_at if last else 0.0,
            cooldown_s=parse_duration(settings.cooldown),
            retrain_after_s=parse_duration(settings.retrain_after) if settings.retrain_after else None,
            asked=wish,
        )
    )
    if isinstance(decision, Hold):
        return last
    return _start(ctx, rollout, last, decision, diagnosis, after=after, upto=newest)


def _start(
    ctx: Context, rollout: Rollout, last: Improvement | None, decision: Start, diagnosis: monitoring.Diagnosis, *, after: int, upto: int
) -> Improvement:
    now = ctx.clock.timestamp()
    with ctx.catalog.write() as connection:
        recent = store.latest(connection, rollout.endpoint, limit=2)
        if recent and recent[0].step != "done":  # another loop was quicker
            return recent[0]
        improvement = Improvement(
            endpoint=rollout.endpoint,
            number=(last.number if last else 0) + 1,
            step="collect",
            trigger=decision.trigger,
            why=decision.why,
            diagnosis=diagnosis.label,
            # when the model got worse and two refits did not help, the recipe is not the one for today's data
            search=decision.trigger != "schedule" and len(recent) == 2 and all(item.result != "promoted" for item in recent),
            after=after,
            upto=upto,
            against=rollout.champion,
            started_at=now,
            step_at=now,
        )
        store.insert(connection, improvement)
        store.drop_wish(connection, rollout.endpoint)
        ctx.record(
            connection, "loop.started", improvement.token, decision.why,
            endpoint=rollout.endpoint, trigger=decision.trigger, diagnosis=diagnosis.label, against=rollout.champion,
        )  # fmt: skip
    return improvement


def _remember_hold(ctx: Context, endpoint: str, diagnosis: monitoring.Diagnosis) -> None:
    """Write an event when retraining begins or ceases to be held, and nothing while it lasts."""
    holds = diagnosis.action == "hold"
    with ctx.catalog.read() as connection:
        held = store.hold(connection, endpoint)
    if holds == (held is not None):
        return
    with ctx.catalog.write() as connection:
        store.put_hold(connection, endpoint, diagnosis.cause if holds else None, ctx.clock.timestamp())
        why = diagnosis.cause if holds else "the reason is gone"
        ctx.record(connection, "loop.held" if holds else "loop.resumed", endpoint, why, diagnosis=diagnosis.label)


def advance(ctx: Context, improvement: Improvement, progress: Progress | None = None) -> Improvement:
    """Do the improvement's next step and write where it stands."""
    act = _ACTS.get(improvement.step)
    if act is None:  # watch: the challenger's judgement moves it
        return _watched(ctx, improvement)
    try:
        moved = act(ctx, improvement, progress)
    except Refused as refusal:
        release = str(refusal.values.get("release") or "") or None
        moved = improvement.ended("refused", refusal.what, ctx.clock.timestamp(), release=release)
    except (StorageFull, Unavailable) as error:
        if improvement.attempts + 1 < ATTEMPTS:
            _save(ctx, improvement, _tried(improvement))
            raise
        moved = improvement.ended("failed", error.what, ctx.clock.timestamp())
    except KaizenError as error:
        moved = improvement.ended("failed", error.what, ctx.clock.timestamp())
    _save(ctx, improvement, moved)
    return moved


def _tried(improvement: Improvement) -> Improvement:
    import msgspec

    return msgspec.structs.replace(improvement, attempts=improvement.attempts + 1, revision=improvement.revision + 1)


def _save(ctx: Context, before: Improvement, after: Improvement) -> None:
    with ctx.catalog.write() as connection:
        store.update(connection, before, after)
        if after.step == "done":
            ctx.record(
                connection, f"loop.{after.result}", after.token, after.outcome,
                endpoint=after.endpoint, trigger=after.trigger, release=after.release, seconds=round(after.step_at - after.started_at, 3),
            )  # fmt: skip
        elif after.step != before.step:
            ctx.record(connection, "loop.stepped", after.token, after.why, endpoint=after.endpoint, step=after.step)


def _collect(ctx: Context, it: Improvement, progress: Progress | None) -> Improvement:
    """Bring the labelled answers of production into the training dataset, and pushed feature values into theirs."""
    for view in frame.views(ctx):
        if view.sql is None:
            features.flush(ctx, view.name)
    task = ctx.settings.task
    assert task is not None  # an endpoint exists, so the project has a task
    rows, _ = monitoring.labelled(ctx, it.endpoint, after=it.after, upto=it.upto)
    rows = rows.drop_columns(["id"])  # the dataset's contract knows no prediction ids; predictions and outcomes keep them
    if rows.num_rows:
        version = data.add(
            ctx, task.dataset, table=rows, mode="append", partial=True, origin="feedback", source_name="feedback", once=it.token,
            why=f"labelled answers for {it.token}",
        )  # fmt: skip
    else:
        version = tables.version(ctx, task.dataset)
    return it.moved("train", ctx.clock.timestamp(), dataset=version.ref)


def _train(ctx: Context, it: Improvement, progress: Progress | None) -> Improvement:
    champion = registry.show(ctx, releases.show(ctx, str(it.against)).pins.model)
    recipe = None if it.search or champion.imported else champion.run
    train = partial(training.train, ctx, dataset=it.dataset, champion_folder=ctx.state / champion.folder, run_id=it.token, progress=progress)
    why = it.why
    try:
        run = train(refit=recipe)
    except RecipeOutdated as outdated:
        run, why = train(), f"{it.why}; a new recipe was searched for: {outdated.what}"
    return it.moved("register", ctx.clock.timestamp(), run=run.id, why=why, search=run.parameters["refit_of"] is None)


def _register(ctx: Context, it: Improvement, progress: Progress | None) -> Improvement:
    model = registry.register(ctx, str(it.run), name=it.endpoint)
    return it.moved("release", ctx.clock.timestamp(), model=model.ref)


def _release(ctx: Context, it: Improvement, progress: Progress | None) -> Improvement:
    release = releases.create(ctx, str(it.model), against=it.against, why=it.why, once=it.token)
    return it.moved("challenge", ctx.clock.timestamp(), release=release.ref)


def _challenge(ctx: Context, it: Improvement, progress: Progress | None) -> Improvement:
    rollout = rollouts.show(ctx, it.endpoint)
    known = [rollout.champion, *(arm.release for arm in rollout.challengers)]
    if it.release not in known:
        rollouts.challenge(ctx, it.endpoint, str(it.release), weight=ctx.settings.loop.canary_weight, why=it.why)
    return it.moved("watch", ctx.clock.timestamp())


_ACTS: dict[str, Callable[[Context, Improvement, Progress | None], Improvement]] = {
    "collect": _collect,
    "train": _train,
    "register": _register,
    "release": _release,
    "challenge": _challenge,
}


def judge_challengers(ctx: Context, rollout: Rollout, current: Improvement | None) -> None:
    """Promote or withdraw every challenger for which the evidence suffices, whoever put it there."""
    settings = ctx.settings.loop
    for arm in rollout.challengers:
        verdict = monitoring.evidence(ctx, rollout.endpoint, arm.release, against=rollout.champion)
        age_s = ctx.clock.timestamp() - _challenged_at(ctx, rollout.endpoint, arm.release)
        refit = _is_refit(ctx, current, arm.release, rollout)
        action, reason = judge(verdict, refit=refit, age_s=age_s, max_age_s=parse_duration(settings.canary_max))
        if action == "wait":
            continue
        why = f"{reason}: after {format_duration(age_s)} {verdict.why}"
        if action == "promote":
            rollouts.promote(ctx, rollout.endpoint, arm.release, why=why)
            return  # the other challengers now stand against another champion
        rollouts.withdraw(ctx, rollout.endpoint, arm.release, why=why)


def _is_refit(ctx: Context, current: Improvement | None, release: str, rollout: Rollout) -> bool:
    """Whether the loop made this release by the recipe and of the same features as the very champion it stands against."""
    if current is None or current.release != release or current.search or current.against != rollout.champion:
        return False
    return releases.show(ctx, release).pins.features == releases.show(ctx, rollout.champion).pins.features


def _challenged_at(ctx: Context, endpoint: str, release: str) -> float:
    with ctx.catalog.read() as connection:
        for event in events.read(connection, kind="rollouts.challenged", subject=endpoint, newest_first=True, limit=50):
            if event.data.get("release") == release:
                return event.at
    return ctx.clock.timestamp()


def _watched(ctx: Context, it: Improvement) -> Improvement:
    """Close an improvement whose challenger was promoted or withdrawn, by the loop or by a person."""
    rollout = rollouts.show(ctx, it.endpoint)
    if any(arm.release == it.release for arm in rollout.challengers):
        return it
    won = rollout.champion == it.release or it.release in rollout.previous
    with ctx.catalog.read() as connection:
        kind = "rollouts.promoted" if won else "rollouts.withdrawn"
        newest = events.read(connection, kind=kind, subject=it.endpoint, newest_first=True, limit=20)
    said = [event.why for event in newest if event.data.get("release") == it.release]
    moved = it.ended("promoted" if won else "withdrawn", said[0] if said else "", ctx.clock.timestamp())
    _save(ctx, it, moved)
    return moved
