"""A row to try: one that the release was made with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from kaizenml.context import Context


def example_row(ctx: Context, release: str) -> str:
    """Return a short JSON row for the release, fit to stand between single quotes in a shell."""
    from kaizenml.releases import operations as releases

    folder = releases.folder_of(ctx, releases.show(ctx, release))
    row = _from_examples(folder / "example.json")
    text = msgspec.json.encode(row).decode()
    return text.replace("'", "'\\''") if shlex.quote(text) != text else text


def _from_examples(path: Path) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    rows = found.get("inputs", found) if isinstance(found, dict) else found
    first = rows[0] if isinstance(rows, list) and rows else rows
    return first if isinstance(first, dict) else {}
