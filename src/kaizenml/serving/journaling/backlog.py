"""How much of the journal waits to be drained. Hot path: the standard library and msgspec."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import msgspec

from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.records import Record

_HEAD = struct.Struct("<II")
_decode = msgspec.msgpack.Decoder(Record).decode
DONE = "drained.json"  # in the journal folder; a hint that saves reading, never the truth


class Hint(msgspec.Struct):
    """How far each segment is in all tables, and the batch of each table when that was noted.

    A table that is at another batch was written to by a drain that died before its hint; its own notes then tell.
    """

    segments: dict[str, int] = {}
    batches: dict[str, int] = {}


class Backlog(NamedTuple):
    """What waits. ``oldest_at``: when the oldest record was written (seconds since 1970); None when nothing waits."""

    bytes: int
    segments: int
    oldest_at: float | None


def backlog(folder: Path) -> Backlog:
    """Look at the journal: sizes, and the head of the oldest record of each segment."""
    done = read_hint(folder).segments
    size, found = 0, journal.segments(folder)
    oldest: float | None = None
    for segment in found:
        start = done.get(segment.name, len(journal.MAGIC))
        try:
            waiting = segment.path.stat().st_size - start
            if waiting <= 0:
                continue
            at = _first_at(segment.path, start)
        except FileNotFoundError:  # drained and removed just now
            continue
        size += waiting
        oldest = at if oldest is None or (at is not None and at < oldest) else oldest
    return Backlog(size, len(found), oldest)


def read_hint(folder: Path) -> Hint:
    """Return what the last drain noted; nothing where it did not, or did not come to an end."""
    try:
        return msgspec.json.decode((folder / DONE).read_bytes(), type=Hint)
    except (FileNotFoundError, msgspec.DecodeError):
        return Hint()


def _first_at(path: Path, start: int) -> float | None:
    """Return when the record at ``start`` was written; None when it is not whole yet."""
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(_HEAD.size)
        length = _HEAD.unpack(head)[0] if len(head) == _HEAD.size else 0
        if not 0 < length <= journal.LONGEST:
            return None
        try:
            record: Record = _decode(file.read(length))
            return record.at
        except msgspec.DecodeError:
            return None
