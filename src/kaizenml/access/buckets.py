"""How often each token was used lately, counted over all processes that serve one state folder. Hot path: standard library only.

A bucket is one number: the moment at which it is full again. The moments lie in a small file that every process maps into memory,
under a lock that the system gives back when its holder dies. They are those of the machine's steady clock: setting the time of day,
or a simulated clock, changes no rate.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path

FILE = "rates"  # below the project's state folder, in ``serving/``
SLOTS = 4096
_BYTES = SLOTS * 8
_LATE_S = 1.0  # a process may have read its clock, and then waited: what others took meanwhile is not to be forgotten


def take(full_at: float, rate: float, now: float) -> tuple[float, float]:
    """Take one request from a bucket that holds a second's worth, and one at least. Pure.

    Parameters
    ----------
    full_at : when it is full again (seconds of the same clock as ``now``); in the past: it is full.
    rate : requests a second, above 0.
    now : the moment.

    Returns
    -------
    When it is full again, and how many seconds to wait; 0: the request was taken.
    """
    longest = max(rate, 1.0) / rate  # to fill an empty bucket
    if not full_at > now:  # also what is no number
        full_at = now
    if full_at > now + longest + _LATE_S:  # a moment of before the machine's last start
        full_at = now + longest
    wait = full_at + 1.0 / rate - (now + longest)
    return (full_at, wait) if wait > 1e-9 else (full_at + 1.0 / rate, 0.0)


def slot(identity: str) -> int:
    """Return a token's place in the file: ids are made so that valid tokens do not share one."""
    return int(identity[:3], 16) % SLOTS


class Buckets:
    """The buckets of one state folder, for one thread of a process.

    Parameters
    ----------
    path : their file; made when it is not there. On a full disk each process counts for itself, and answering goes on.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._memory = _mapped(self._handle)
        self._full_at = memoryview(self._memory).cast("d")

    def take(self, identity: str, rate: float, now: float) -> float:
        """Take one request of a token; return the seconds to wait, 0 when it was taken."""
        place = slot(identity)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        try:
            self._full_at[place], wait = take(self._full_at[place], rate, now)
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_UN)
        return wait


def _mapped(handle: int) -> mmap.mmap:
    try:
        # written, not left sparse: a page without room on the disk would end the process when it is first written to
        while (size := os.fstat(handle).st_size) < _BYTES:
            os.pwrite(handle, bytes(_BYTES - size), size)
        return mmap.mmap(handle, _BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return mmap.mmap(-1, _BYTES)
