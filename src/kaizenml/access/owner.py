"""The owner's own token: whoever may read the project's state folder needs no other on the same machine.

Every start of a server that asks for tokens makes a fresh one, in a file that only its user may read; it is worth nothing when
the server has ended. ``kaizen predict`` sends it to the running server of its own project, and nowhere else.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from kaizenml.access.token import write_private

FILE = "owner.token"  # below the project's state folder, in ``serving/``


def renew(state: Path) -> None:
    """Make a fresh one."""
    write_private(state / "serving" / FILE, f"kzn_owner_{secrets.token_urlsafe(32)}".encode())


def read(state: Path) -> str | None:
    """Return it; None when there is none, or this user may not read it."""
    try:
        return (state / "serving" / FILE).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
