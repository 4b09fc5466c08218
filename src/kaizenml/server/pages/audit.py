"""The audit page: who did what, when and why, and whether the record is whole."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from kaizenml import audit, events
from kaizenml.context import Context
from kaizenml.errors import Corrupt
from kaizenml.server.pages.words import told

PER_PAGE = 50


def values(ctx: Context, asked: dict[str, str]) -> dict[str, Any]:
    """Return what the audit page shows; ``asked`` holds the filters of the address."""
    kind, subject = asked.get("kind", "")[:80], asked.get("subject", "")[:80]
    table = events.events_table
    with ctx.catalog.read() as connection:
        total = connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        kinds = connection.execute(sa.select(table.c.kind).distinct()).scalars()
        nouns = sorted({found.partition(".")[0] for found in kinds})
        rows = events.read(
            connection, kind=kind or None, subject=subject or None, before=_number(asked.get("before", "")), limit=PER_PAGE + 1, newest_first=True
        )
    return {
        "total": total,
        "rows": [(event, told(event), json.dumps(event.data, indent=1, ensure_ascii=False) if event.data else "") for event in rows[:PER_PAGE]],
        "older": rows[PER_PAGE - 1].seq if len(rows) > PER_PAGE else None,
        "nouns": nouns,
        "kind": kind,
        "subject": subject,
        "verified": _verified(ctx) if "verify" in asked else None,
    }


def _verified(ctx: Context) -> dict[str, Any]:
    try:
        found = audit.verify(ctx)
    except Corrupt as error:
        return {"whole": False, "what": error.what}
    return {"whole": True, "events": found.events, "head": found.head}


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
