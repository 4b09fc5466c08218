"""The page of API tokens: who may ask, for what and how often. Never a secret."""

from __future__ import annotations

from typing import Any

from kaizenml import events
from kaizenml.access import operations as tokens
from kaizenml.context import Context


def values(ctx: Context) -> dict[str, Any]:
    """Return what the page shows."""
    found = tokens.list(ctx)
    with ctx.catalog.read() as connection:
        made = events.read(connection, kind="tokens.created")
    by = {str(event.data.get("id")): (event.actor, event.why) for event in made}
    order = {"valid": 0, "expired": 1, "revoked": 2}
    rows = [{"token": one, "by": by.get(one.id, ("", ""))[0], "why": by.get(one.id, ("", ""))[1]} for one in found]
    return {
        "rows": sorted(rows, key=lambda row: (order[row["token"].state], -row["token"].created_at)),
        "valid": sum(one.state == "valid" for one in found),
    }
