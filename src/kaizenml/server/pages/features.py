"""The features pages: what there is, who owns and uses it, and how each feature of a view looks."""

from __future__ import annotations

from typing import Any

from kaizenml import charts
from kaizenml.context import Context
from kaizenml.features import operations as features
from kaizenml.governance import features as described
from kaizenml.governance.features import Feature
from kaizenml.server.pages.data import holds


def values(ctx: Context, asked: dict[str, str]) -> dict[str, Any]:
    """Return what the list shows; ``asked`` narrows it."""
    text, owner, tag = (asked.get(name, "").strip() for name in ("text", "owner", "tag"))
    every = described.search(ctx)
    found = described.search(ctx, text, owner=owner or None, tag=tag or None, unused=bool(asked.get("unused")))
    states = {state.view.name: state for state in features.list(ctx)}
    return {
        "every": len(every),
        "views": len(states),
        "unused_of_all": sum(not one.used for one in every),
        "found": found,
        "states": states,
        "owners": sorted({state.view.owner for state in states.values() if state.view.owner}),
        "tags": sorted({tag for state in states.values() for tag in state.view.tags}),
        "text": text,
        "owner": owner,
        "tag": tag,
        "unused": bool(asked.get("unused")),
    }


def view_values(ctx: Context, name: str) -> dict[str, Any]:
    """Return what the page of one view shows."""
    found = described.describe(ctx, name)
    return {
        "state": found.state,
        "view": found.state.view,
        "described": found,
        "online": _online(found.state.materialized, found.state.dataset_version),
        "rows": [
            {
                "feature": one,
                "holds": holds(one.profile),
                "picture": described.distribution(one, width=120, height=28),
                "missing_over_time": _over_time(one, "missing"),
                "over_time": _over_time(one, "middle"),
            }
            for one in found.features
        ],
    }


def _online(materialized: int, newest: int | None) -> str:
    if not materialized:
        return "not materialized yet"
    return "holds the newest version" if materialized == newest else f"holds version {materialized}, {(newest or materialized) - materialized} behind"


def _over_time(one: Feature, what: str) -> str:
    """Draw a feature from the oldest rows to the newest ones."""
    steps = [getattr(step, what) for step in one.over_time]
    if len(steps) < 2:
        return ""
    said = "share missing" if what == "missing" else "mean" if one.kind in ("number", "integer") else "share of the commonest value"
    return charts.spark(steps, title=f"{one.name} over time: {said}", width=110, colour="c3" if what == "missing" else "c1")
