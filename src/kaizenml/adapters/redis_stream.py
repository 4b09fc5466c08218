"""Rows out of a Redis stream (``XADD NAME * row '{"column": value}'``), read by the consumer group ``kaizen``.

What cannot be taken goes to the stream ``NAME:refused``, with the reason. What a reader was given that has not confirmed it for
a minute, nor is there any more, goes to another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kaizenml.adapters.redis_online import shown
from kaizenml.errors import InvalidSettings, MissingExtra, Unavailable
from kaizenml.ports import Entry

GROUP = "kaizen"
FIELD = b"row"
_ABANDONED_MS = 60_000
_REFUSED_MOST = 100_000
T = TypeVar("T")


class RedisStream:
    """One reader of a stream. Parameters as of ``adapters.online.open_stream``."""

    def __init__(self, url: str, name: str, reader: str) -> None:
        try:
            import redis
        except ImportError:
            raise MissingExtra("the client for Redis is not installed here", remedy='pip install "kaizenml[redis]"') from None
        self.place, self.name, self.reader = shown(url), name, reader
        try:
            self._redis: Any = redis.Redis.from_url(url, socket_timeout=60.0, socket_connect_timeout=15.0, protocol=2)
        except (ValueError, TypeError):
            raise InvalidSettings(f"{self.place} is no address of a Redis server", remedy="--url redis://host:6379/0") from None
        self._errors = redis.exceptions
        self._own = True  # first what was given before
        with contextlib.suppress(redis.exceptions.ResponseError):  # it is there already
            self._asked(lambda: self._redis.xgroup_create(name, GROUP, id="0", mkstream=True))

    def read(self, most: int, wait_s: float) -> list[Entry]:
        if self._own:
            found = self._asked(lambda: self._redis.xreadgroup(GROUP, self.reader, {self.name: "0"}, count=most))
            entries = found[0][1] if found else []
            if entries:
                return [_entry(*entry) for entry in entries]
            self._own = False
        claimed = self._asked(lambda: self._redis.xautoclaim(self.name, GROUP, self.reader, min_idle_time=_ABANDONED_MS, count=most))[1]
        if claimed:
            return [_entry(*entry) for entry in claimed]
        found = self._asked(lambda: self._redis.xreadgroup(GROUP, self.reader, {self.name: ">"}, count=most, block=max(round(wait_s * 1000), 1)))
        return [_entry(*entry) for entry in found[0][1]] if found else []

    def confirm(self, entries: Sequence[str]) -> None:
        if entries:
            self._asked(lambda: self._redis.xack(self.name, GROUP, *entries))

    def refuse(self, entry: Entry, why: str) -> None:
        fields = {"entry": entry.id, "why": why, "row": entry.row or b""}
        self._asked(lambda: self._redis.xadd(f"{self.name}:refused", fields, maxlen=_REFUSED_MOST, approximate=True))
        self.confirm([entry.id])

    def close(self) -> None:
        self._redis.close()

    def _asked(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except self._errors.ResponseError:
            raise
        except (self._errors.RedisError, OSError) as error:
            what = f"the stream {self.name!r} on {self.place} does not answer: {type(error).__name__}"
            raise Unavailable(what, remedy="start the server; then consume again", values={"server": self.place}) from error


def _entry(identity: bytes, fields: dict[bytes, bytes] | None) -> Entry:
    return Entry(identity.decode(), (fields or {}).get(FIELD))
