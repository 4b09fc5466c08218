"""The journal: what was answered, on disk before the answer leaves.

Format 1. A segment is a file ``<process>-<number>.journal`` in the journal folder: 8 bytes of magic, then records, each
a little-endian ``uint32`` length, a ``uint32`` crc32 of the payload, and the payload (msgpack of ``records``). One ``write`` takes
whole records, one or some. A segment belongs to the process that holds its lock; nobody else writes to it, and a new process starts new
segments. So a torn tail needs no repair: it can only be of the last write of a dead process, whose answers never left.
Hot path: imports only the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from kaizenml.errors import Corrupt, KaizenError, StorageFull, Unavailable

FOLDER = "journal"  # below the project's state
SUFFIX = ".journal"
ASKED = "close"  # a file in the folder: segments that were begun before it was written are closed at their writers' next turn
MAGIC = b"KZJRNL1\n"
LONGEST = 1 << 30  # a longer length is a damaged one
_HEAD = struct.Struct("<II")
_ROOM = 65_536  # bytes that must fit before a full disk counts as having room
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Journal:
    """The writing end, for one process.

    Parameters
    ----------
    folder : where segments lie; made when absent.
    segment_bytes : a segment that has grown to this is closed and the next one begun.
    segment_age_s : a segment this old is closed as well, at the next record or ``turn``.
    fsync : ``request``: every record is on the disk itself before ``append`` returns (survives a power cut);
        ``tick``: the caller calls ``sync`` now and then; ``off``: the operating system decides (survives ``kill -9``).
    full : what ``append`` does where there is no room: ``refuse`` raises, ``answer`` says so and leaves the record out.
    """

    def __init__(
        self, folder: Path, *, segment_bytes: int = 64_000_000, segment_age_s: float = 3600.0, fsync: Literal["off", "tick", "request"] = "off",
        full: Literal["refuse", "answer"] = "refuse",
    ) -> None:  # fmt: skip
        self.folder = folder
        self.fsync = fsync
        self.full = full
        self.trouble: str | None = None
        """Why the last record could not be written; None when it could."""
        self.left_out = 0
        """Records that were left out since the start."""
        self._segment_bytes = segment_bytes
        self._segment_age_s = segment_age_s
        self._begun = 0.0
        self._asked = 0
        self._closing = threading.Lock()  # ``sync`` runs in another thread, and must not meet a handle that was given back
        self._process = os.urandom(6).hex()
        self._number = 0
        self._handle = -1
        self._size = 0
        self._dirty = False
        self._broken = False
        folder.mkdir(parents=True, exist_ok=True)

    def append(self, payload: bytes) -> bool:
        """Write one record, whole or not at all; return whether it stands there.

        Raises
        ------
        StorageFull : no room left, and ``full`` is ``refuse``; what was begun is cut off again.
        Unavailable : the journal cannot be written for another reason.
        """
        try:
            self._write((_HEAD.pack(len(payload), zlib.crc32(payload)), payload))
        except KaizenError as error:
            self.trouble = error.what
            if self.full == "answer" and isinstance(error, StorageFull):
                self.left_out += 1
                return False
            raise
        self.trouble = None
        return True

    def append_all(self, payloads: Sequence[bytes]) -> bool:
        """Write some records at once, all of them or none; return whether they stand there. Why not is told by ``append``.

        Parameters
        ----------
        payloads : 500 at most.
        """
        parts: list[bytes] = []
        for payload in payloads:
            parts += (_HEAD.pack(len(payload), zlib.crc32(payload)), payload)
        try:
            self._write(parts)
        except KaizenError as error:
            self.trouble = error.what
            return False
        self.trouble = None
        return True

    def turn(self) -> None:
        """Close a segment whose time is over, or that was asked for, and look whether there is room again. Call it now and then."""
        if self._handle >= 0 and (self._is_old() or _asked(self.folder) != self._asked) and self._size > len(MAGIC):
            self.close()
        if self.trouble is not None and self._has_room():
            self.trouble = None

    def _write(self, parts: Sequence[bytes]) -> None:
        if self._handle < 0 or self._broken or self._size >= self._segment_bytes or self._is_old():
            self._begin()
        try:
            written = os.writev(self._handle, parts)
            if written != sum(map(len, parts)):  # the disk filled up in the middle
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.fsync == "request":
                os.fdatasync(self._handle)
        except OSError as error:
            self._cut()
            raise _translated(error, self.folder) from error
        self._size += written
        self._dirty = True

    def _is_old(self) -> bool:
        return time.monotonic() - self._begun >= self._segment_age_s

    def _has_room(self) -> bool:
        """Try with a file that nobody reads."""
        tried = self.folder / f".{self._process}.room"
        try:
            with tried.open("wb") as file:
                file.write(bytes(_ROOM))
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                tried.unlink()
        return True

    def sync(self) -> None:
        """Bring what was written to the disk itself."""
        with self._closing:
            if self._dirty and self._handle >= 0:
                self._dirty = False
                os.fdatasync(self._handle)

    def close(self) -> None:
        """Give the segment up: from now on readers know that it is complete."""
        with self._closing:
            handle, self._handle = self._handle, -1
            if handle < 0:
                return
            try:
                if self.fsync != "off" and self._dirty:
                    os.fdatasync(handle)
            finally:
                self._dirty = False
                os.close(handle)

    def _begin(self) -> None:
        with contextlib.suppress(OSError):  # a disk that fails is told by what is written next
            self.close()
        name = f"{self._process}-{self._number:06d}{SUFFIX}"
        fresh = self.folder / f".{name}.new"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        except OSError as error:
            raise _translated(error, self.folder) from error
        try:
            # locked before it gets its name: no reader may ever take a new segment for a finished one
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.write(handle, MAGIC) != len(MAGIC):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.rename(fresh, self.folder / name)
            if self.fsync != "off":
                _sync_folder(self.folder)  # else a power cut could take the name, and all records with it
        except OSError as error:
            os.close(handle)
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise _translated(error, self.folder) from error
        self._handle, self._size, self._broken, self._begun, self._asked = handle, len(MAGIC), False, time.monotonic(), _asked(self.folder)
        self._number += 1

    def _cut(self) -> None:
        try:
            os.ftruncate(self._handle, self._size)
        except OSError:
            self._broken = True  # readers ignore the torn tail; the next record opens a new segment


class Segment(NamedTuple):
    """A segment as a reader finds it. ``finished``: no process writes to it any more."""

    path: Path
    finished: bool

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(SUFFIX)


class Found(NamedTuple):
    """A record: where the next one begins, and its payload; None when the payload is not what its checksum says."""

    end: int
    payload: bytes | None


def segments(folder: Path) -> list[Segment]:
    """Return the segments, oldest names first.

    ``finished`` is asked before anything is read, so what is then read of a finished segment is all of it.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIX) and not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    return [Segment(folder / name, _unlocked(folder / name)) for name in names]


def ask_to_close(folder: Path) -> list[Segment]:
    """Ask every writer to close its segment at its next turn; return the segments that are still written to."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{ASKED}.{os.getpid()}"
    fresh.write_bytes(b"")
    os.replace(fresh, folder / ASKED)  # another file each time: writers see that it is not the one they knew
    return being_written(folder)


def being_written(folder: Path) -> list[Segment]:
    """Return the segments with records that a process still writes to."""
    found = []
    for segment in segments(folder):
        with contextlib.suppress(FileNotFoundError):
            if not segment.finished and segment.path.stat().st_size > len(MAGIC):
                found.append(segment)
    return found


def read(path: Path, offset: int = 0) -> Iterator[Found]:
    """Yield the whole records from ``offset`` on; a record that is still being written, or torn, ends the reading.

    Raises
    ------
    Corrupt : the file is not a segment of this format.
    """
    with path.open("rb") as file:
        if offset < len(MAGIC):
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise Corrupt(f"{path.name} is not a journal segment of format 1", remedy=f"move {path} away", values={"file": str(path)})
            offset = len(MAGIC)
        file.seek(offset)
        data = file.read()
    view = memoryview(data)
    position, end = 0, len(data)
    while position + _HEAD.size <= end:
        length, crc = _HEAD.unpack_from(data, position)
        start = position + _HEAD.size
        if length > LONGEST or start + length > end:
            return
        payload = bytes(view[start : start + length])
        position = start + length
        yield Found(offset + position, payload if zlib.crc32(payload) == crc else None)


def _asked(folder: Path) -> int:
    try:
        return (folder / ASKED).stat().st_mtime_ns
    except OSError:
        return 0


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unlocked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return False


def _translated(error: OSError, folder: Path) -> KaizenError:
    values = {"folder": str(folder), "errno": error.errno}
    if error.errno in _FULL:
        what = "the disk that holds the prediction journal is full; the request was not answered"
        return StorageFull(what, remedy="free some space and repeat", values=values)
    what = f"the prediction journal cannot be written: {error.strerror}; the request was not answered"
    return Unavailable(what, remedy=f"look at {folder}", values=values)
