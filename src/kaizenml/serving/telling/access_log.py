"""The access log: a line of JSON for each request, written by a thread of its own from a bounded queue.

A line tells when, what was asked of whom, how it ended and how long it took; never inputs, never tokens. When the disk or the
reader of the stream is too slow, lines are dropped and counted: answering never waits for its log. Hot path.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

log = logging.getLogger("kaizenml.serving")
STDERR = "stderr"
LONGEST_QUEUE = 20_000  # lines; about ten megabytes
ROTATE_BYTES = 64_000_000
KEPT = 4  # older files, NAME.1 the youngest of them
EVERY_S = 0.2


class Access(NamedTuple):
    """One request as it ended."""

    at: float
    method: str
    path: str  # the template, for example /predict/{endpoint}
    endpoint: str
    status: int
    code: str  # of the error
    ms: float
    rows: int
    release: str
    client: str
    trace: str  # the caller's trace id


class _Line(msgspec.Struct):
    time: str
    method: str
    path: str
    endpoint: str | None
    status: int
    code: str | None
    ms: float
    rows: int | None
    release: str | None
    client: str | None
    trace: str | None
    pid: int


class AccessLog:
    """The writing end, for one process. Several may write the same file, and rotate it together.

    Parameters
    ----------
    target : a file, or ``stderr``.
    dropped : called with the number of lines that found no room, or could not be written.
    rotate_bytes : a file that has grown to this gets another name, and a new one is begun.
    """

    def __init__(
        self, target: Path | str, *, dropped: Callable[[int], None], rotate_bytes: int = ROTATE_BYTES, longest_queue: int = LONGEST_QUEUE
    ) -> None:
        self._path = None if target == STDERR else Path(target)
        self._dropped = dropped
        self._rotate_bytes = rotate_bytes
        self._longest = longest_queue
        self._queue: deque[Access] = deque()
        self._lost = 0
        self._handle = 2 if self._path is None else -1
        self._told = False
        self._pid = os.getpid()
        self._encode = msgspec.json.Encoder().encode_lines
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)  # a stuck pipe must not keep the process
        self._thread.start()

    def add(self, access: Access) -> None:
        """Queue a line; costs next to nothing."""
        if len(self._queue) < self._longest:
            self._queue.append(access)
        else:
            self._lost += 1

    def flush_lost(self) -> None:
        """Tell how many lines were lost since the last call; for the thread that counts."""
        lost, self._lost = self._lost, 0
        if lost:
            self._dropped(lost)

    def close(self, patience_s: float = 2.0) -> None:
        """Write what is queued, and end."""
        self._ended.set()
        self._thread.join(patience_s)
        self.flush_lost()

    def _run(self) -> None:
        while True:
            ending = self._ended.wait(EVERY_S)
            while self._queue:
                self._write([self._queue.popleft() for _ in range(min(len(self._queue), 1000))])
            if ending:
                if self._handle > 2:
                    os.close(self._handle)
                return

    def _write(self, some: list[Access]) -> None:
        lines = self._encode([_line(access, self._pid) for access in some])
        try:
            if self._path is not None:
                self._turn(self._path)
            while lines:
                lines = lines[os.write(self._handle, lines) :]
            self._told = False
        except OSError as error:
            self._lost += len(some)
            if not self._told:
                log.error("the access log cannot be written: %s", error.strerror)
            self._told = True

    def _turn(self, path: Path) -> None:
        """Have the file that bears the name open, and one that is not too long."""
        if self._handle < 0 or _moved(self._handle, path):
            self._open(path)
        if os.fstat(self._handle).st_size < self._rotate_bytes:
            return
        with path.with_name(f".{path.name}.lock").open("w") as lock:  # of several processes one does it
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _moved(self._handle, path):
                for number in range(KEPT - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        os.replace(f"{path}.{number}", f"{path}.{number + 1}")
                os.replace(path, f"{path}.1")
            self._open(path)

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = fresh


def _moved(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return True
    mine = os.fstat(handle)
    return (there.st_ino, there.st_dev) != (mine.st_ino, mine.st_dev)


def _line(access: Access, pid: int) -> _Line:
    moment = datetime.fromtimestamp(access.at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _Line(
        moment, access.method, access.path, access.endpoint or None, access.status, access.code or None, round(access.ms, 3), access.rows or None,
        access.release or None, access.client or None, access.trace or None, pid,
    )  # fmt: skip
