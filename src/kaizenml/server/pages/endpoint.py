"""The page of an endpoint: who answers, how well, whether its inputs moved, and what was done about it."""

from __future__ import annotations

import itertools
import os
from typing import Any

import msgspec

from kaizenml import charts, events
from kaizenml.context import Context
from kaizenml.errors import KaizenError
from kaizenml.loop import operations as loop
from kaizenml.monitoring import operations as monitoring
from kaizenml.monitoring import profile, reference, store
from kaizenml.monitoring.alert import Alert
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts.rollout import WHOLE, Rollout
from kaizenml.server import actions
from kaizenml.server.pages import rules, vitals, words
from kaizenml.server.rendering import commas
from kaizenml.serving.connecting.front import needs_token

SHOWN_COLUMNS = 10
DRIFT_DAYS = 7
EVENTS = 12
BARS = 16


def values(ctx: Context, name: str, *, done: str = "") -> dict[str, Any]:
    """Return what the page of one endpoint shows; ``done`` is the number of the event that an act of the reader left."""
    rollout = rollouts.show(ctx, name)
    states = vitals.states_of(ctx, name)
    alerts = vitals.alerts_of(ctx, name)
    task = vitals.task_of(ctx, rollout)
    vital = vitals.vital(rollout, alerts, states)
    now = ctx.clock.now()
    moved, note = _drift(ctx, rollout)
    status = next((status for status in loop.status(ctx) if status.endpoint == name), None)
    with ctx.catalog.read() as connection:
        seen = events.read(connection, subject=name, limit=EVENTS, newest_first=True)
    return {
        "name": name,
        "state": vital.state,
        "tone": vital.tone,
        "words": "" if vital.rank == 0 else vital.words,
        "advice": vital.advice,
        "done": next((words.told(event) for event in seen if str(event.seq) == done), None),
        "offers": [*actions.offers(rollout), *actions.more_offers(rollout)],
        "bar": charts.traffic(vitals.arms(rollout), title=f"Traffic of {name}"),
        "answers": vitals.answers(states, now),
        "naive_answers": vitals.answers(states, now, decided_by=("fallback", "kill")),
        "window": f"{vitals.WINDOW_DAYS} d",
        "arms": _arms(ctx, rollout, states, task),
        "trials": bool(rollout.challengers),
        "charts": vitals.accuracy_charts(rollout, states, task, rollouts.history(ctx, name, limit=200)) if task else [],
        "drift": moved,
        "drift_note": note,
        "alerts": [_alert(alert) for alert in alerts],
        "improvements": loop.history(ctx, name, limit=8),
        "held": status.held if status else None,
        "events": [words.told(event) for event in seen],
        "example": _example(ctx, rollout),
        **rules.values(ctx, name),
    }


def _alert(alert: Alert) -> dict[str, Any]:
    quiet = alert.severity == "note" or not alert.open
    return {"opened_at": alert.opened_at, "open": alert.open, "text": alert.cause, "tone": "quiet" if quiet else "warn"}


def _arms(ctx: Context, rollout: Rollout, states: vitals.States, task: Any) -> list[dict[str, Any]]:
    killed = rollout.killed is not None

    def arm(release: str, role: str, share: float | None) -> dict[str, Any]:
        seen = "live" if share is not None else "shadow"
        return {
            "release": release,
            "role": role,
            "share": 0.0 if killed and share is not None else share,
            "live": vitals.newest(ctx, states, task, release, seen) if task else None,
            "trial": _trial(ctx, rollout, release) if role.startswith("challenger") else "",
        }

    return [
        arm(rollout.champion, "champion, killed" if killed else "champion", rollout.champion_weight / WHOLE),
        *(arm(one.release, f"challenger {one.number}", one.weight / WHOLE) for one in rollout.challengers),
        *(arm(release, "shadow", None) for release in rollout.shadows),
    ]


def _trial(ctx: Context, rollout: Rollout, release: str) -> str:
    try:
        verdict = monitoring.evidence(ctx, rollout.endpoint, release, against=rollout.champion)
    except KaizenError as error:
        return error.what
    return f"{verdict.decision}: {verdict.why}" if verdict.rows else "no row labelled for both yet"


def _drift(ctx: Context, rollout: Rollout) -> tuple[list[dict[str, Any]], str]:
    """Return how the inputs compare with training, the most changed first."""
    compared = monitoring.drift(ctx, rollout.endpoint)
    if not compared:
        return [], "compared with training once there are 200 answers of whole days"
    compared = sorted(compared, key=lambda column: (not column.drifted, -column.distance / max(column.limit, 1e-9)))
    known = reference.of(ctx, rollout.champion)
    with ctx.catalog.read() as connection:
        days = store.read_windows(connection, rollout.endpoint, rollout.champion, newest=DRIFT_DAYS)
    window = profile.total(known.bins, list(days.values()))
    order = {column.name: index for index, column in enumerate(known.bins.columns)}
    rows = []
    for column in compared[:SHOWN_COLUMNS]:
        at = order[column.column]
        rows.append({**msgspec.structs.asdict(column), "picture": _picture(known.bins.columns[at], window.counts[at], known.whole.counts[at])})
    moved = sum(column.drifted for column in compared)
    return rows, f"{moved} of {len(compared)} moved in the newest week, against {commas(known.rows)} rows of {known.dataset}"


def _picture(column: profile.Column, now: Any, then: Any) -> str:
    """Draw both distributions over groups of the reference's bins: equal shares of training for numbers, the commonest levels else."""
    if column.kind == "category":
        order = sorted(range(len(column.levels)), key=lambda i: -int(then[i]))[: BARS - 1]
        rest = [i for i in range(column.slots) if i not in set(order)]
        groups = [[i] for i in order] + ([rest] if rest else [])
        labels = [column.levels[i] for i in order] + (["others"] if rest else [])
    else:
        cuts = [round(column.slots * i / BARS) for i in range(BARS + 1)]
        groups = [list(range(a, b)) for a, b in itertools.pairwise(cuts) if b > a]
        labels = [_range(column, group) for group in groups]
    return charts.histogram(
        [float(now[group].sum()) for group in groups], reference=[float(then[group].sum()) for group in groups], labels=labels,
        title=f"{column.name}: now (bars) and in training (line)", width=150, height=32,
    )  # fmt: skip


def _range(column: profile.Column, group: list[int]) -> str:
    edges, (first, last) = column.edges, (group[0], group[-1])
    if not edges:
        return "values"
    low = f"{edges[first - 1]:.4g}" if 0 < first <= len(edges) else ""
    high = f"{edges[last]:.4g}" if last < len(edges) else ""
    return f"{low} to {high}" if low and high else f"below {high}" if high else f"{low} and above"


def _example(ctx: Context, rollout: Rollout) -> str:
    """Return a call that can be pasted, with a real row."""
    try:
        bundle = releases.folder_of(ctx, releases.show(ctx, rollout.champion))
        rows = msgspec.json.decode((bundle / "example.json").read_bytes())
    except (KaizenError, OSError, msgspec.DecodeError):
        return ""
    found = rows.get("inputs", []) if isinstance(rows, dict) else rows
    body = msgspec.json.encode({"inputs": found[:1]}).decode()
    serve = ctx.settings.serve
    quoted = body.replace("'", "'\\''")
    where = f"{'https' if serve.tls_cert else 'http'}://{serve.host}:{serve.port}/predict/{rollout.endpoint}"
    token = "-H 'Authorization: Bearer TOKEN' " if needs_token(serve, serve.host, os.environ) else ""
    return f"curl -s {where} \\\n  {token}-H 'Content-Type: application/json' -d '{quoted}'"
