"""The page that compares two versions of a dataset."""

from __future__ import annotations

from typing import Any

from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.monitoring import versions
from kaizenml.refs import parse_ref

MANY = 60


def values(ctx: Context, name: str, asked: dict[str, str]) -> dict[str, Any]:
    """Return what the page shows; ``asked`` names the older and the newer version, default the newest two."""
    numbers = [version.number for version in data.versions(ctx, name)]
    old, new = _number(asked.get("old", "")), _number(asked.get("new", ""))
    new = new if new is not None else numbers[0]
    old = old if old is not None else max(new - 1, 1)
    made, pictures = versions.looked_at(ctx, f"{parse_ref(name).name}@{old}", f"{parse_ref(name).name}@{new}")
    return {"dataset": name, "numbers": numbers[:MANY], "old": old, "new": new, "made": made, "pictures": pictures}


def _number(text: str) -> int | None:
    digits = text.rpartition("@")[2]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
