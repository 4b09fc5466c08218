"""The overview: what matters now, in its first line; then the endpoints, and what happened lately."""

from __future__ import annotations

from typing import Any, NamedTuple

from kaizenml import charts, events
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.features.signature import TaskKind
from kaizenml.loop import operations as loop
from kaizenml.loop.improvement import STEPS
from kaizenml.loop.operations import LoopStatus
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts.rollout import Rollout
from kaizenml.server import actions
from kaizenml.server.pages import vitals, words
from kaizenml.server.pages.vitals import Chart, Vital
from kaizenml.training import operations as training

LATELY = 8
_STEP_NAMES = {
    "collect": "collect outcomes", "train": "train", "register": "register", "release": "gates", "challenge": "start trial", "watch": "trial",
    "done": "watch",
}  # fmt: skip


def values(ctx: Context) -> dict[str, Any]:
    """Return what the overview shows."""
    found = rollouts.list(ctx)
    looked = [_look(ctx, rollout) for rollout in found]
    statement, advice = _statement([one.vital for one in looked])
    first = max(looked, key=lambda one: one.vital.rank, default=None)
    with ctx.catalog.read() as connection:
        newest = events.read(connection, limit=200, newest_first=True)
    return {
        "statement": statement,
        "advice": advice,
        "rows": [one.row for one in looked],
        "chart": _chart(ctx, first) if first else None,
        "charted": first.row["name"] if first else "",
        "loops": [loop_state(status) for status in loop.status(ctx)],
        "recent": [words.told(event) for event in newest if words.matters(event)][:LATELY],
        "counts": {} if found else {"datasets": len(data.list(ctx)), "runs": len(training.list(ctx)), "releases": len(releases.list(ctx))},
    }


def loop_state(status: LoopStatus) -> dict[str, Any]:
    """Return where the loop stands, as steps and in a sentence."""
    it = status.improvement
    working = it is not None and it.step != "done"
    at = STEPS.index(it.step) if it and working else len(STEPS) - 1
    steps = [{"name": _STEP_NAMES[name], "now": i == at, "past": working and i < at} for i, name in enumerate(STEPS)]
    if it and working:
        said = f"{it.token} is at work on {_STEP_NAMES[it.step]}, because {it.why[:1].lower()}{it.why[1:]}" if it.why else f"{it.token} is at work"
    elif status.asked:
        said = f"asked for an improvement: {status.asked}"
    elif status.held:
        said = f"watching; {status.held}"
    elif it and it.outcome:
        said = f"watching; the last improvement was {it.result}: {it.outcome}"
    else:
        said = "watching"
    return {"endpoint": status.endpoint, "steps": steps, "words": said}


class Look(NamedTuple):
    """An endpoint as the overview sees it."""

    rollout: Rollout
    states: vitals.States
    task: TaskKind | None
    vital: Vital
    row: dict[str, Any]


def _look(ctx: Context, rollout: Rollout) -> Look:
    states = vitals.states_of(ctx, rollout.endpoint)
    alerts = vitals.alerts_of(ctx, rollout.endpoint)
    task = vitals.task_of(ctx, rollout)
    vital = vitals.vital(rollout, alerts, states)
    parts = vitals.arms(rollout)
    row = {
        "name": rollout.endpoint,
        "state": vital.state,
        "tone": vital.tone,
        "arms": parts,
        "bar": charts.traffic(parts, title=f"Traffic of {rollout.endpoint}"),
        "answers": vitals.answers(states, ctx.clock.now()),
        "live": vitals.newest(ctx, states, task, rollout.champion, "live") if task else None,
        "alerts": sum(alert.open and alert.severity != "note" for alert in alerts),
        "offers": actions.offers(rollout),
    }
    return Look(rollout, states, task, vital, row)


def _chart(ctx: Context, one: Look) -> Chart | None:
    """Draw the live loss of the endpoint that matters most."""
    if one.task is None:
        return None
    drawn = vitals.accuracy_charts(one.rollout, one.states, one.task, rollouts.history(ctx, one.rollout.endpoint, limit=200), limit=1)
    return drawn[0] if drawn else None


def _statement(states: list[Vital]) -> tuple[str, str]:
    if not states:
        return "Nothing is deployed yet", ""
    worst = max(states, key=lambda vital: vital.rank)
    others = sum(vital.rank > 1 for vital in states) - 1
    if worst.rank <= 0 and len(states) > 1:
        return f"All {len(states)} endpoints are healthy", ""
    more = f" {others} other endpoint{'s need' if others > 1 else ' needs'} a look." if others > 0 and worst.rank > 1 else ""
    return worst.words, f"{worst.advice}{more}".strip()
