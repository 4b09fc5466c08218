"""Time, real or simulated. Nothing else in kaizenml asks the machine for the time of day."""

from __future__ import annotations

import mmap
import os
import re
import struct
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from kaizenml.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|w)\s*")


class Clock(Protocol):
    """What the time is."""

    def timestamp(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        ...

    def now(self) -> datetime:
        """Return the time as an aware datetime in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def timestamp(self) -> float:
        return time.time()

    def now(self) -> datetime:
        return datetime.now(UTC)


class SimulatedClock:
    """A clock that stands until it is set, shared between processes through an 8-byte file.

    Replays and tests set it; every process of the project that was started with
    ``KAIZEN_CLOCK=PATH`` sees the change at once (the file is mapped into memory).
    """

    def __init__(self, path: str | os.PathLike[str], start: datetime | None = None) -> None:
        self.path = Path(path)
        if start is not None or not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # written aside and renamed, so that no reader ever maps an empty file
            fresh = self.path.with_suffix(f".{os.getpid()}.new")
            fresh.write_bytes(struct.pack("<d", (start or datetime.now(UTC)).timestamp()))
            os.replace(fresh, self.path)
        with self.path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    def timestamp(self) -> float:
        value: float = struct.unpack("<d", self._memory[:8])[0]
        return value

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.timestamp(), UTC)

    def set(self, moment: datetime) -> None:
        """Set the time to ``moment`` (aware); other processes see it at once."""
        self._memory[:8] = struct.pack("<d", moment.timestamp())

    def advance(self, by: timedelta) -> None:
        """Move the time on by ``by``."""
        self.set(self.now() + by)


def open_clock() -> Clock:
    """Return the simulated clock that ``KAIZEN_CLOCK`` names, else the machine's."""
    path = os.environ.get("KAIZEN_CLOCK")
    return SimulatedClock(path) if path else SystemClock()


def parse_duration(text: str) -> float:
    """Read a duration such as ``90s``, ``5min``, ``1.5h`` or ``14d`` and return seconds.

    >>> parse_duration("1.5h")
    5400.0
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is not a duration", remedy="write a number and a unit: 90s, 5min, 1h, 14d or 2w", values={"found": text})
    return float(match[1]) * _UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """Write seconds the way people read them.

    >>> format_duration(5400)
    '1.5 h'
    """
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1000:.3g} ms"
