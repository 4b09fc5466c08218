"""The models page: releases beside naive, the board of a run, the gates of a release with their evidence."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from kaizenml import charts
from kaizenml.context import Context
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.releases.release import Release
from kaizenml.rollouts import operations as rollouts
from kaizenml.server.rendering import number
from kaizenml.training import operations as training
from kaizenml.training.run import Estimate, Run

MANY = 100  # rows of a table; the rest is on the command line
SERVED = ("ensemble", "boosted", "linear", "naive")  # which line of a board is the model that is released, best first


class Measure(NamedTuple):
    """A metric as the pages write it, with its picture."""

    name: str
    value: float
    low: float
    high: float
    rows: int
    naive: float | None
    picture: str


def values(ctx: Context) -> dict[str, Any]:
    """Return what the models page shows."""
    runs = training.list(ctx)
    found = releases.list(ctx)
    places = _places(ctx)
    by_model = {model.ref: model.run for model in registry.list(ctx)}
    by_id = {run.id: run for run in runs}
    rows = []
    for release in sorted(found, key=lambda one: (one.created_at, one.number), reverse=True)[:MANY]:
        run = by_id.get(by_model.get(release.pins.model, ""))
        rows.append({"release": release, "places": places.get(release.ref, []), "run": run, "measure": run and measure(run)})
    passed = [release for release in found if release.state == "passed"]
    return {
        "rows": rows,
        "passed": len(passed),
        "refused": len(found) - len(passed),
        "runs": [(run, measure(run)) for run in runs[:MANY]],
        "all_runs": len(runs),
        "same_metric": {run.metric for run in runs},
    }


def release_values(ctx: Context, ref: str) -> dict[str, Any]:
    """Return what the page of one release shows."""
    release = releases.show(ctx, ref)
    run = _run_of(ctx, release)
    card = releases.folder_of(ctx, release) / "card.md"
    return {
        "release": release,
        "places": _places(ctx).get(release.ref, []),
        "endpoints": [one.endpoint for one in rollouts.list(ctx) if one.champion != release.ref and not one.arm(release.ref)],
        "run": run,
        "measure": run and measure(run),
        "lines": board(run) if run else [],
        "metrics": _metrics(run) if run else [],
        "evidence": {gate.name: _pretty(gate.evidence) for gate in release.gates},
        "libraries": sorted(release.pins.libraries.items()),
        "data": list(zip(release.pins.data, release.pins.data_hashes, strict=False)),
        "card": card.read_text(encoding="utf-8") if card.is_file() else "",
    }


def run_values(ctx: Context, run_id: str) -> dict[str, Any]:
    """Return what the page of one run shows."""
    run = training.show(ctx, run_id)
    models = [model.ref for model in registry.list(ctx) if model.run == run.id]
    return {
        "run": run,
        "measure": measure(run),
        "lines": board(run),
        "metrics": _metrics(run),
        "models": models,
        "releases": [release for release in releases.list(ctx) if release.pins.model in models],
        "parameters": _pretty(run.parameters),
    }


def measure(run: Run) -> Measure | None:
    """Return the deciding metric of the model that the run made, beside naive."""
    lines = {row.name: row for row in run.board}
    served = next((lines[name] for name in SERVED if name in lines and run.metric in lines[name].metrics), None)
    if served is None:
        return None
    naive = lines["naive"].metrics.get(run.metric) if "naive" in lines else None
    return _measure(run.metric, served.metrics[run.metric], naive, _scale(run, run.metric))


def board(run: Run) -> list[dict[str, Any]]:
    """Return the lines of the board with their pictures, as they were measured on the same rows."""
    names = _metrics(run)
    naive = next((row.metrics for row in run.board if row.name == "naive"), {})
    scales = {name: _scale(run, name) for name in names}
    return [
        {
            "name": row.name,
            "note": row.note,
            "seconds": row.seconds,
            "measures": [_measure(name, row.metrics[name], naive.get(name), scales[name]) if name in row.metrics else None for name in names],
        }
        for row in run.board
    ]


def _measure(name: str, value: Estimate, naive: Estimate | None, scale: tuple[float, float]) -> Measure:
    beside = f", naive {number(naive.value)}" if naive else ""
    title = f"{name} {number(value.value)}, 95 % interval {number(value.low)} to {number(value.high)}{beside}"
    picture = charts.interval(
        value.value, value.low, value.high, title=title, start=scale[0], end=scale[1], reference=naive.value if naive else None, width=130
    )
    return Measure(name, value.value, value.low, value.high, value.rows, naive.value if naive else None, picture)


def _scale(run: Run, name: str) -> tuple[float, float]:
    found = [estimate for row in run.board if (estimate := row.metrics.get(name))]
    low, high = min(e.low for e in found), max(e.high for e in found)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    return low - room, high + room


def _metrics(run: Run) -> list[str]:
    """The deciding metric first, at most three."""
    known: dict[str, None] = dict.fromkeys([run.metric])
    for row in run.board:
        known.update(dict.fromkeys(row.metrics))
    return [name for name in known if any(name in row.metrics for row in run.board)][:3]


def _run_of(ctx: Context, release: Release) -> Run | None:
    made = next((model.run for model in registry.list(ctx) if model.ref == release.pins.model and not model.imported), None)
    return training.show(ctx, made) if made else None


def _places(ctx: Context) -> dict[str, list[str]]:
    """Return where each release answers, in words."""
    found: dict[str, list[str]] = {}
    for rollout in rollouts.list(ctx):
        found.setdefault(rollout.champion, []).append(f"champion of {rollout.endpoint}")
        for arm in rollout.challengers:
            found.setdefault(arm.release, []).append(f"challenger of {rollout.endpoint}")
        for shadow in rollout.shadows:
            found.setdefault(shadow, []).append(f"shadow of {rollout.endpoint}")
    return found


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode() if value else ""
