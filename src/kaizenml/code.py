"""Which commit of the project's code is at work."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def commit(root: Path) -> str | None:
    """Return the commit that ``root`` stands on, with ``-dirty`` when tracked files differ from it.

    Parameters
    ----------
    root : a folder, usually the project's.

    Returns
    -------
    40 hex digits, perhaps followed by ``-dirty``; None without git, outside a repository, or before the first commit.
    """
    head = _git(root, "rev-parse", "--verify", "HEAD")
    if not head:
        return None
    return f"{head}-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else head


def _git(root: Path, *arguments: str) -> str | None:
    # a hook that calls kaizen exports GIT_DIR and friends; they would name another repository than root's
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # a look must not take the lock that somebody's commit needs
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    try:
        done = subprocess.run(["git", *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
