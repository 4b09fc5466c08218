"""The rules of an endpoint: what they say, and how often each decided."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pyarrow as pa

from kaizenml.context import Context
from kaizenml.rollouts import conditions, snapshot
from kaizenml.rollouts.rules import describe
from kaizenml.rollouts.snapshot import EndpointRoute, Rule
from kaizenml.serving.journaling import predictions

DAYS = 7


def values(ctx: Context, endpoint: str) -> dict[str, Any]:
    """Return the rules in force, with the rows of the newest days that each decided."""
    route = _route(ctx, endpoint)
    if route is None or not (route.rules or route.problem):
        return {"rules": [], "rules_problem": None, "rules_rows": 0}
    today = ctx.clock.now()
    days = [(today - timedelta(days=back)).strftime("%Y-%m-%d") for back in range(DAYS)]
    rows = predictions.read(ctx, endpoint, days=days, columns=["decided_by", "reason"], role="live")
    counts: list[Counter[str]] = [Counter() for _ in route.rules]
    for group in pa.table(rows).group_by(["decided_by", "reason"]).aggregate([([], "count_all")]).to_pylist():
        why = (group["reason"] or "").partition(": ")[2]
        place = next((at for at, rule in enumerate(route.rules) if why and _is_of(rule, why)), None)
        if place is not None:
            counts[place]["tried" if group["decided_by"] == "model" else "decided"] += group["count_all"]
    return {
        "rules": [
            {"said": describe(rule), "decided": found["decided"], "tried": found["tried"], "share": found["decided"] / max(rows.num_rows, 1)}
            for rule, found in zip(route.rules, counts, strict=True)
        ],
        "rules_problem": route.problem,
        "rules_rows": rows.num_rows,
    }  # fmt: skip


def _route(ctx: Context, endpoint: str) -> EndpointRoute | None:
    try:
        return snapshot.read(ctx.state / "serving" / snapshot.FILE).endpoints.get(endpoint)
    except (OSError, ValueError):  # none was written yet, or it is damaged, which serving says
        return None


def _is_of(rule: Rule, why: str) -> bool:
    """Tell whether a reason, as serving writes it, is of this rule."""
    if rule.when is not None:
        text = conditions.read(rule.when).text
        return why == text or (why.endswith("...") and text.startswith(why[:-3]))
    return (
        (bool(rule.unknown) and why.startswith("new level: "))
        or (rule.outside is not None and (" is outside " in why or " is missing, which it never was" in why))
        or (rule.confidence is not None and why.startswith("confidence "))
    )
