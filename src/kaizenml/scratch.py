"""Folders for what is needed for a while only. They go with their process, however that ends. Hot path: imports only the standard library."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

FOLDER = "tmp"  # below the project's state: rows on their way


class Scratch:
    """A folder of its own, made when it is first asked for; a context manager that gives the folder.

    A lock on it, which the system releases with the process, tells that it is in use. What a killed process left behind goes when the next
    one makes a folder of the kind there, or with ``clean``.

    >>> with Scratch(None, "doctest-") as folder:
    ...     _ = (folder / "rows").write_text("1,2,3")
    >>> folder.exists()
    False

    Parameters
    ----------
    parent : made where there is none; None: the system's folder for temporary files.
    prefix, suffix : of the folder's name. All folders of such names below ``parent`` are taken for scratch.
    """

    def __init__(self, parent: Path | None, prefix: str, suffix: str = "") -> None:
        self._parent, self._prefix, self._suffix = parent or Path(tempfile.gettempdir()), prefix, suffix
        self._held: tuple[Path, int] | None = None

    @property
    def made(self) -> bool:
        """Whether there is anything."""
        return self._held is not None

    @property
    def path(self) -> Path:
        """The folder."""
        if self._held is None:
            self._parent.mkdir(parents=True, exist_ok=True)
            clean(self._parent, f"{self._prefix}*{self._suffix}")
        while self._held is None:
            path = Path(tempfile.mkdtemp(prefix=self._prefix, suffix=self._suffix, dir=self._parent))
            handle = _lock(path)
            if handle is not None:  # else ``clean`` came between, and took it for one that was left
                self._held = path, handle
        return self._held[0]

    def close(self) -> None:
        """Remove the folder with all that is still in it."""
        if self._held is not None:
            path, handle = self._held
            self._held = None
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def clean(parent: Path, pattern: str = "*") -> None:
    """Remove what processes left that were killed."""
    for path in parent.glob(pattern):
        handle = _lock(path)
        if handle is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _lock(path: Path) -> int | None:
    """Lock a folder that is there; None where another process holds it, or has removed it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.stat()
        except OSError:
            os.close(handle)
            return None
        return handle
    return None
