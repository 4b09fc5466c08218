"""What one can ask of the loop."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kaizenml.access import operations as tokens
from kaizenml.context import Context
from kaizenml.errors import NotFound, Refused, UsageError, Waiting, nearest
from kaizenml.loop import store
from kaizenml.loop.improvement import STEPS, Improvement
from kaizenml.loop.reconciler import lease, reconcile
from kaizenml.monitoring import operations as monitoring
from kaizenml.monitoring import parity
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts import publishing
from kaizenml.serving.journaling import drain as journal

__all__ = ["ask", "history", "improve", "status", "tick"]


class EndpointTick(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at an endpoint found and did."""

    endpoint: str
    diagnosis: str
    cause: str
    improvement: Improvement | None


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of the loop."""

    at: float
    drained: int  # prediction rows
    endpoints: list[EndpointTick]


class LoopStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where the loop stands with one endpoint."""

    endpoint: str
    improvement: Improvement | None
    held: str | None  # why retraining is held
    asked: str | None  # a person's wish that waits


def tick(ctx: Context, *, progress: Callable[[str, float], None] | None = None) -> Tick:
    """Look once: drain the journal, watch every endpoint, and do the next step where one is due.

    Safe to kill anywhere and to call again; two at once: the second raises Conflict.

    Parameters
    ----------
    progress : called with a sentence and a share (0 to 1) during long steps.

    Returns
    -------
    What was drained, and for each endpoint the diagnosis and the improvement as it now stands.

    Raises
    ------
    Conflict : another loop works on this project.

    Examples
    --------
    >>> tick(ctx).drained  # doctest: +SKIP
    930
    """
    ctx = ctx.acting_as("loop")
    with lease(ctx):
        publishing.publish(ctx)  # rules that cannot be followed are told by the snapshot and do not hold the loop up
        tokens.publish(ctx)
        drained_at = ctx.clock.timestamp()
        report = journal.drain(ctx)
        looked = []
        for rollout in rollouts.list(ctx):
            monitoring.observe(ctx, rollout.endpoint, drained_at=drained_at)
            improvement, diagnosis = reconcile(ctx, rollout, progress)
            looked.append(EndpointTick(endpoint=rollout.endpoint, diagnosis=diagnosis.label, cause=diagnosis.cause, improvement=improvement))
        parity.watch(ctx)
    return Tick(at=ctx.clock.timestamp(), drained=report.rows, endpoints=looked)


def status(ctx: Context) -> list[LoopStatus]:
    """Say where the loop stands with each endpoint."""
    found = []
    for rollout in rollouts.list(ctx):
        with ctx.catalog.read() as connection:
            newest = store.latest(connection, rollout.endpoint)
            found.append(
                LoopStatus(
                    endpoint=rollout.endpoint,
                    improvement=newest[0] if newest else None,
                    held=store.hold(connection, rollout.endpoint),
                    asked=store.wish(connection, rollout.endpoint),
                )
            )
    return found


def history(ctx: Context, endpoint: str, *, limit: int = 50) -> list[Improvement]:
    """List the improvements of an endpoint, newest first.

    Parameters
    ----------
    endpoint : its name.
    limit : how many at most, from 1.
    """
    with ctx.catalog.read() as connection:
        return store.latest(connection, endpoint, limit)


def ask(ctx: Context, endpoint: str | None = None, *, why: str = "asked for") -> LoopStatus:
    """Ask for an improvement; the loop takes it up at its next look.

    An improvement on its way is not asked for again, and an upstream failure holds this one too.

    Parameters
    ----------
    endpoint : default the project's only one.
    why : the reason, for the audit trail.

    Returns
    -------
    Where the loop stands with the endpoint.

    Raises
    ------
    NotFound : there is no such endpoint.
    """
    name = rollouts.show(ctx, endpoint).endpoint if endpoint else _only_endpoint(ctx)
    with ctx.catalog.write() as connection:
        newest = store.latest(connection, name)
        if not newest or newest[0].step == "done":
            store.put_wish(connection, name, why=why, actor=ctx.actor, at=ctx.clock.timestamp())
            ctx.record(connection, "loop.asked", name, why)
    return next(item for item in status(ctx) if item.endpoint == name)


def improve(
    ctx: Context, endpoint: str | None = None, *, until: str = "watch", why: str = "asked for", progress: Callable[[str, float], None] | None = None
) -> Improvement:
    """Ask for an improvement and carry it as far as ``until``; repeat the call to go on.

    Made for other orchestrators: it is idempotent, and its exit code says how it stands
    (0 reached, 3 refused by a gate, 4 waiting for evidence).

    Parameters
    ----------
    endpoint : default the project's only one.
    until : the step to reach: collect, train, register, release, challenge, watch or done.
    why : the reason, for the audit trail.
    progress : called with a sentence and a share (0 to 1) during long steps.

    Returns
    -------
    The improvement as it stands.

    Raises
    ------
    Refused : a gate refused the new release, or the evidence went against it.
    Waiting : held by an upstream failure, or evidence is still missing.
    """
    if until not in STEPS:
        close = nearest(until, STEPS)
        raise UsageError(f"there is no step {until!r}" + (f"; did you mean {close!r}?" if close else ""), remedy=f"one of {', '.join(STEPS)}")
    asked = ask(ctx, endpoint, why=why)
    name, current = asked.endpoint, asked.improvement
    before = 0 if current is None else current.number if current.step == "done" else current.number - 1
    while True:
        looked = {item.endpoint: item for item in tick(ctx, progress=progress).endpoints}[name]
        it = looked.improvement
        if it is None or it.number <= before:
            raise Waiting(f"no improvement was started: {looked.cause}", remedy="kaizen status", values={"diagnosis": looked.diagnosis})
        if it.step == "done" and it.result != "promoted":
            raise Refused(f"{it.token} was {it.result}: {it.outcome}", remedy="kaizen status", values=msgspec.to_builtins(it))
        if STEPS.index(it.step) >= STEPS.index(until):
            return it
        if it.step == "watch":
            raise Waiting(f"{it.release} is on trial against {it.against}", remedy="repeat the call later", values=msgspec.to_builtins(it))


def _only_endpoint(ctx: Context) -> str:
    names = [rollout.endpoint for rollout in rollouts.list(ctx)]
    if len(names) == 1:
        return names[0]
    if not names:
        raise NotFound("there is no endpoint to improve", remedy="kaizen up")
    raise UsageError(f"there are several endpoints: {', '.join(names)}", remedy=f"kaizen improve {names[0]}")
