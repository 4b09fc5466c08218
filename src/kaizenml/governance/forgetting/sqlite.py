"""SQLite files without what was deleted from them: no free page, no slack in a page, no write-ahead log."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from kaizenml import sqlite_file
from kaizenml.errors import Unavailable

Found = TypeVar("Found")
_WAIT_S = 60.0


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file of the project for one write transaction; what is deleted in it is overwritten."""
    connection = sqlite_file.connect(path, wait_s=_WAIT_S)
    try:
        connection.execute("PRAGMA secure_delete = ON")
        with sqlite_file.transaction(connection):
            yield connection
    finally:
        connection.close()


def scrub(path: Path) -> None:
    """Write the file anew from its live rows and empty its log. Other processes may have it open; readers are waited for.

    Raises
    ------
    Unavailable : somebody reads or writes it all the time.
    """
    if not path.exists():
        return
    deadline = time.perf_counter() + _WAIT_S
    connection = sqlite_file.connect(path, wait_s=_WAIT_S)
    try:
        connection.execute("PRAGMA secure_delete = ON")
        _patiently(path, deadline, lambda: connection.execute("VACUUM") is not None)
        _patiently(path, deadline, lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    finally:
        connection.close()


def _patiently(path: Path, deadline: float, work: Callable[[], bool]) -> None:
    while True:
        try:
            if work():
                return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
        if time.perf_counter() > deadline:
            what = f"{path.name} has been in use for {_WAIT_S:.0f} s, and cannot be written anew"
            raise Unavailable(what, remedy="repeat; if it stays so, look at what holds the file", values={"file": str(path)})
        time.sleep(0.05)
