"""Folders for what does not fit into memory. They go when they are closed; those of a process that was killed go with the next addition."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

FOLDER = "tmp"  # below the project's state


class Scratch:
    """A folder of its own below ``parent``, made when it is first asked for.

    A lock on it, which goes with the process, tells that it is in use: rows in it are as they came, and must not outlive who reads them.
    """

    def __init__(self, parent: Path, what: str) -> None:
        self._parent, self._what = parent, what
        self._held: tuple[Path, int] | None = None

    @property
    def made(self) -> bool:
        """Whether there is anything."""
        return self._held is not None

    @property
    def path(self) -> Path:
        """The folder."""
        while self._held is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(prefix=f"{self._what}-", dir=self._parent))
            handle = _lock(path)
            if handle is not None:  # else ``clean`` came between, and took it for one that was left
                self._held = path, handle
        return self._held[0]

    def close(self) -> None:
        """Remove the folder."""
        if self._held is not None:
            path, handle = self._held
            self._held = None
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def clean(parent: Path) -> None:
    """Remove what processes left that were killed."""
    if not parent.is_dir():
        return
    for path in parent.iterdir():
        handle = _lock(path)
        if handle is not None:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            os.close(handle)


def _lock(path: Path) -> int | None:
    """Lock a folder that is there; None where another process holds it, or has removed it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.stat()
        except OSError:
            os.close(handle)
            return None
        return handle
    return None
