"""Prediction ids: 32 hex digits that carry their time and prove where they come from.

8 digits seconds since 1970, 8 the process that made it, 8 its counter, 8 a keyed check over the rest.
So the day of an id is known without looking, and an id that this project never gave is told without an index.
Eight ids whose counters differ in the last three bits only share one keyed hash, of which each has its eighth; in ids of
earlier versions each had a hash of its own, and these stay known.
Hot path: imports only the standard library.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from pathlib import Path

_AHEAD = 64
_PLACES = [[(f"{8 * odd + place:x}", slice(8 * place, 8 * place + 8)) for place in range(8)] for odd in (0, 1)]  # last digit, and where its check is
_ID = re.compile(r"[0-9a-f]{32}")


def project_key(state: Path) -> bytes:
    """Return the project's secret for ids (``keys/ids``), made at the first call; safe from several processes at once."""
    path = state / "keys" / "ids"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".ids.{os.getpid()}.{os.urandom(4).hex()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, os.urandom(32))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.link(fresh, path)  # the first one wins; a link never replaces
    except FileExistsError:
        pass
    finally:
        os.unlink(fresh)
    return path.read_bytes()


class Ids:
    """Makes and checks ids.

    >>> ids = Ids(b"key", boot="0000002a")
    >>> made = ids.make(1.7e9, 2)
    >>> made[0][:24]
    '6553f1000000002a00000000'
    >>> ids.known(made[1]), ids.known("0" * 32), seconds_of(made[0])
    (True, False, 1700000000)
    """

    def __init__(self, key: bytes, *, boot: str | None = None) -> None:
        self._shared = hashlib.blake2s(key=key[:32], digest_size=32)
        self._alone = hashlib.blake2s(key=key[:32], digest_size=4)
        self.boot = boot or os.urandom(4).hex()
        self._next = 0
        self._second = -1
        self._ready: list[str] = []  # of this second, the next one last
        self._ahead = 1

    def make(self, at: float, count: int) -> list[str]:
        """Return ``count`` new ids for predictions made at ``at`` (seconds since 1970).

        Where many are asked for in one second they are made ahead, some at once: one by one each finds the processor's
        caches full of other things, and costs several times as much.
        """
        second = int(at)
        if second != self._second:  # what is left over was never given to anybody
            self._second, self._ready, self._ahead = second, [], 1
        ready = self._ready
        if len(ready) < count:
            made = self._made(second, max(count - len(ready), self._ahead))
            self._ahead = min(2 * self._ahead, _AHEAD)
            ready[:0] = reversed(made)
        if count == 1:
            return [ready.pop()]
        rest = len(ready) - count
        given = ready[rest:]
        del ready[rest:]
        given.reverse()
        return given

    def _made(self, second: int, count: int) -> list[str]:
        first, self._next = self._next, self._next + count
        prefix = f"{second & 0xFFFFFFFF:08x}{self.boot}"
        made: list[str] = []
        for number in range(first >> 3, (first + count + 7) >> 3):
            block = number & 0x1FFFFFFF  # counters go round
            begin, checks = f"{prefix}{block >> 1:07x}", self._checks(prefix, block)
            made += [begin + digit + checks[place] for digit, place in _PLACES[block & 1]]
        return made[first & 7 : (first & 7) + count]

    def _checks(self, prefix: str, block: int) -> str:
        """Return the checks, of 8 digits each, of the eight ids of a block."""
        hashed = self._shared.copy()
        hashed.update(f"{prefix}{block:08x}".encode())
        return hashed.hexdigest()

    def known(self, text: str) -> bool:
        """Tell whether the id was made with this project's key."""
        if not _ID.fullmatch(text):
            return False
        number = int(text[16:24], 16)
        place = 8 * (number & 7)
        if hmac.compare_digest(self._checks(text[:16], number >> 3)[place : place + 8], text[24:]):
            return True
        alone = self._alone.copy()
        alone.update(text[:24].encode())
        return hmac.compare_digest(alone.hexdigest(), text[24:])


def is_id(text: str) -> bool:
    """Tell whether the text has the form of an id."""
    return _ID.fullmatch(text) is not None


def seconds_of(text: str) -> int:
    """Return the second (since 1970) in which the prediction was made."""
    return int(text[:8], 16)
