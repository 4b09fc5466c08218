"""The online store on Redis or Valkey: one packed value per entity and view, read by MGET, shared by any number of machines.

Format 1, the first byte of every value; then the event time as a double, then the values as msgpack. Keys are
``kaizen:PROJECT:on:VIEW:ENTITY``, and ``kaizen:PROJECT:views`` names the views. A conditional write is a script, so that it is
one step for everybody; so is a change, which holds only where the value is still the one that was read. One server with its
replicas, not a cluster: MGET over many slots would be many calls. Hot path: the client is imported when a store is opened.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from kaizenml.errors import Corrupt, InvalidSettings, MissingExtra, StorageFull, Unavailable
from kaizenml.ports import Change, OnlineRow, Values

FORMAT = 1
SCHEMES = ("redis", "rediss", "unix")
_HEAD = struct.Struct(">Bd")
_CHUNK = 1000  # rows in one call: the server does nothing else meanwhile
_CHUNK_BYTES = 4_000_000
_PAUSE_S = 1.0  # a reader that was not answered does not ask again for so long: it has requests to answer
_WRITE = """
local kept = 0
for i, key in ipairs(KEYS) do
  local body = ARGV[i + 1]
  local head = redis.call('GETRANGE', key, 1, 8)
  if #head < 8 or struct.unpack('>d', head) <= struct.unpack('>d', string.sub(body, 2, 9)) then
    if ARGV[1] == '0' then redis.call('SET', key, body) else redis.call('SET', key, body, 'PX', ARGV[1]) end
    kept = kept + 1
  end
end
return kept
"""
_CHANGE = """
local lost = {}
for i, key in ipairs(KEYS) do
  local old, body = redis.call('GET', key), ARGV[2 * i + 1]
  if (old and redis.sha1hex(old) or '') ~= ARGV[2 * i] then
    lost[#lost + 1] = i
  elseif body == '' then
    redis.call('DEL', key)
  elseif ARGV[1] == '0' then
    redis.call('SET', key, body)
  else
    redis.call('SET', key, body, 'PX', ARGV[1])
  end
end
return lost
"""
_PUT = b"for i, key in ipairs(KEYS) do redis.call('SET', key, ARGV[i + 1], 'PX', ARGV[1]) end"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
T = TypeVar("T")


class RedisOnlineStore:
    """Newest feature values by entity, in a Redis server. Connected at the first use; threads may share it, and a fork is noticed.

    Parameters
    ----------
    url : ``redis://[[user]:password@]host[:port][/db]``, ``rediss://`` for TLS, ``unix:///path``. It is never shown: it may hold a password.
    project : the project's name; projects on one server do not see each other.
    readonly : never write, and give up soon: for serving processes, which answer without features rather than late.

    Raises
    ------
    MissingExtra : the client is not installed.
    InvalidSettings : the URL is none.
    """

    def __init__(self, url: str, project: str, *, readonly: bool = False) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise MissingExtra("the client for Redis is not installed here", remedy='pip install "kaizenml[redis]"') from None
        self.place = shown(url)
        self.readonly = readonly
        patience_s = 0.5 if readonly else 15.0
        try:
            # one more try and no more: a connection that idled away is opened again, a server that is gone is not waited for
            self._redis: Any = redis.Redis.from_url(
                url, socket_timeout=patience_s, socket_connect_timeout=patience_s, retry=Retry(NoBackoff(), 1), health_check_interval=0, protocol=2
            )
        except (ValueError, TypeError):
            raise InvalidSettings(
                f"project.online: {self.place} is no address of a Redis server",
                remedy='write online = "redis://host:6379/0" under [project]; a password goes into the environment variable KAIZEN_PROJECT_ONLINE',
                values={"setting": "project.online"},
            ) from None
        self._errors = redis.exceptions
        self._prefix = f"kaizen:{project}:".encode()
        self._write_script = self._redis.register_script(_WRITE)
        self._change_script = self._redis.register_script(_CHANGE)
        self._idle: deque[Any] = deque()  # connections that nobody reads by now; taking and giving back needs no lock
        self._silent_until = 0.0
        self._pid = os.getpid()

    def write(self, view: str, rows: Iterable[tuple[str, float, Values]], *, keep_s: float | None = None, over: bool = False) -> int:
        prefix, head = self._key(view, ""), _HEAD.pack
        packed = [(prefix + key.encode(), head(FORMAT, at) + _encode(values)) for key, at, values in rows]
        self._check_writable()
        if not packed:
            return 0
        if over:
            return self._asked(lambda: self._put_over(view, packed, _milliseconds(keep_s)))

        def send() -> int:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.sadd(self._prefix + b"views", view)
                for start in range(0, len(packed), _CHUNK):
                    chunk = packed[start : start + _CHUNK]
                    self._write_script(keys=[key for key, _ in chunk], args=[_milliseconds(keep_s), *(body for _, body in chunk)], client=pipe)
                return sum(pipe.execute()[1:])

        return self._asked(send)

    def _put_over(self, view: str, packed: Sequence[tuple[bytes, bytes]], keep_ms: int) -> int:
        """Look which values differ and write those; while the server does either, the next commands are made. Packing is ours: see ``_fetched``."""
        waiting = [_command(b"SADD", self._prefix + b"views", view.encode())]
        differing = 0
        connection = self._redis.connection_pool.get_connection()
        try:
            for chunk in _chunks(packed):
                asked = [*waiting, _command(b"MGET", *(name for name, _ in chunk))]
                connection.send_packed_command(asked)
                for _ in waiting:
                    connection.read_response()
                found = connection.read_response()
                fresh = [pair for pair, old in zip(chunk, found, strict=True) if pair[1] != old]
                differing += len(fresh)
                waiting = [_putting(fresh, keep_ms)] if fresh else []
            connection.send_packed_command(waiting)
            for _ in waiting:
                connection.read_response()
        except BaseException:
            connection.disconnect()  # answers that nobody has read must not be taken for another's
            raise
        finally:
            self._redis.connection_pool.release(connection)
        return differing

    def update(self, view: str, keys: Iterable[str], change: Change, *, keep_s: float | None = None) -> int:
        self._check_writable()
        wanted = list(dict.fromkeys(keys))
        if wanted:
            self._asked(lambda: self._redis.sadd(self._prefix + b"views", view))
        changed = 0
        for start in range(0, len(wanted), _CHUNK):
            left = wanted[start : start + _CHUNK]
            while left:  # until nobody came between; whoever did has made progress, so this ends
                changed_now, left = self._change(view, left, change, _milliseconds(keep_s))
                changed += changed_now
        return changed

    def _change(self, view: str, keys: list[str], change: Change, keep_ms: int) -> tuple[int, list[str]]:
        names = [self._key(view, key) for key in keys]
        found: list[bytes | None] = self._asked(lambda: self._redis.mget(names))
        tried: list[str] = []
        asked: list[bytes] = []
        given: list[bytes | str | int] = [keep_ms]
        for key, name, body in zip(keys, names, found, strict=True):
            old = None if body is None else self._row(body)
            row = change(key, old)
            if row is old:
                continue
            tried.append(key)
            asked.append(name)
            given += ["" if body is None else hashlib.sha1(body, usedforsecurity=False).hexdigest()]
            given += [b"" if row is None else _HEAD.pack(FORMAT, row.at) + _encode(row.values)]
        if not asked:
            return 0, []
        lost = self._asked(lambda: self._change_script(keys=asked, args=given))
        return len(asked) - len(lost), [tried[place - 1] for place in lost]

    def read(self, view: str, keys: Sequence[str]) -> list[OnlineRow | None]:
        return self.read_many([(view, keys)])[0]

    def read_many(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[OnlineRow | None]]:
        names = [prefix + key.encode() for view, keys in asked for prefix in (self._key(view, ""),) for key in keys]
        if not names:
            return [[] for _ in asked]
        if self._silent_until and time.monotonic() < self._silent_until:
            raise self._away("it did not answer a moment ago")
        bodies = iter(self._asked(lambda: self._fetched(names)))
        return [[None if (body := next(bodies)) is None else self._row(body) for _ in keys] for _, keys in asked]

    def _fetched(self, names: list[bytes]) -> list[bytes | None]:
        """Ask by connections of our own: the client's pool, its measuring and its retries cost more than the answer takes."""
        if self._pid != os.getpid():  # forked: what was open is the parent's
            self._idle, self._pid = deque(), os.getpid()
        try:
            connection, used = self._idle.pop(), True
        except IndexError:
            connection, used = self._redis.connection_pool.make_connection(), False
        try:
            connection.send_command("MGET", *names)
            found: list[bytes | None] = connection.read_response()
        except self._errors.ConnectionError:
            if not used:
                raise
            connection.disconnect()  # it idled away, or the server was started anew: sending connects again, once
            connection.send_command("MGET", *names)
            found = connection.read_response()
        self._idle.append(connection)  # none that failed: an answer that comes late must not be taken for another's
        return found

    def keys(self, view: str) -> Iterator[str]:
        prefix = self._key(view, "")
        cursor: int | None = None
        while cursor != 0:
            at = cursor or 0
            cursor, page = self._asked(partial(self._redis.scan, at, match=_literal(prefix) + b"*", count=_CHUNK))
            for name in page:
                yield name[len(prefix) :].decode()

    def delete(self, key: str) -> int:
        self._check_writable()
        views: set[bytes] = self._asked(lambda: self._redis.smembers(self._prefix + b"views"))
        names = [self._key(view.decode(), key) for view in sorted(views)]
        return self._asked(lambda: self._redis.delete(*names)) if names else 0

    def drop(self, view: str) -> None:
        self._check_writable()
        page: list[bytes] = []
        for key in self.keys(view):
            page.append(self._key(view, key))
            if len(page) == _CHUNK:
                self._asked(partial(self._redis.unlink, *page))
                page = []
        if page:
            self._asked(partial(self._redis.unlink, *page))
        self._asked(lambda: self._redis.srem(self._prefix + b"views", view))

    def close(self) -> None:
        if self._pid == os.getpid():
            while self._idle:
                self._idle.pop().disconnect()
            self._redis.close()

    def _key(self, view: str, key: str) -> bytes:
        return self._prefix + f"on:{view}:{key}".encode()

    def _row(self, body: bytes) -> OnlineRow:
        try:
            version, at = _HEAD.unpack_from(body)
            if version == FORMAT:
                return OnlineRow(at, _decode(memoryview(body)[_HEAD.size :]))
        except (struct.error, msgspec.DecodeError) as error:
            remedy = "kaizen features materialize VIEW --everything"
            raise Corrupt(f"a value in the online store on {self.place} is damaged: {error}", remedy=remedy) from error
        what = f"the online store on {self.place} holds values of format {version}; this kaizenml reads {FORMAT}"
        raise Corrupt(what, remedy="pip install --upgrade kaizenml")

    def _check_writable(self) -> None:
        if self.readonly:
            raise Unavailable(f"the online store on {self.place} was opened for reading only", remedy="write with `kaizen features push`")

    def _asked(self, call: Callable[[], T]) -> T:
        try:
            answer = call()
        except (self._errors.ConnectionError, self._errors.TimeoutError, OSError) as error:
            if self.readonly:
                self._silent_until = time.monotonic() + _PAUSE_S
            raise self._away(_without_address(error)) from error
        except self._errors.RedisError as error:
            if isinstance(error, self._errors.OutOfMemoryError) or "OOM command not allowed" in str(error):
                what = f"the online store on {self.place} has no memory left; nothing was half-written"
                raise StorageFull(what, remedy="give the server more memory (maxmemory), and repeat") from error
            raise self._away(str(error)) from error
        self._silent_until = 0.0
        return answer

    def _away(self, why: str) -> Unavailable:
        what = f"the online store on {self.place} does not answer: {why}"
        return Unavailable(what, remedy="start the server, or set project.online right; then repeat", values={"server": self.place})


def shown(url: str) -> str:
    """Return where a server is, without who may enter."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return parts.path
        return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
    except ValueError:
        return "what it says"


def _without_address(error: Exception) -> str:
    return re.sub(r"^Error -?\d+ (while )?connecting to \S+ ", "", str(error)) or type(error).__name__


def _literal(text: bytes) -> bytes:
    """Escape what means something in a pattern of Redis."""
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", text)


def _chunks(packed: Sequence[tuple[bytes, bytes]]) -> Iterator[Sequence[tuple[bytes, bytes]]]:
    """Cut what is written into pieces that the server takes in one go, by number and by size."""
    start = size = 0
    for place, (_, body) in enumerate(packed):
        if place - start == _CHUNK or (size + len(body) > _CHUNK_BYTES and place > start):
            yield packed[start:place]
            start, size = place, 0
        size += len(body)
    yield packed[start:]


def _putting(pairs: Sequence[tuple[bytes, bytes]], keep_ms: int) -> bytes:
    if not keep_ms:
        return _command(b"MSET", *(part for pair in pairs for part in pair))
    return _command(b"EVAL", _PUT, b"%d" % len(pairs), *(name for name, _ in pairs), b"%d" % keep_ms, *(body for _, body in pairs))


def _command(*parts: bytes) -> bytes:
    return b"".join([b"*%d\r\n" % len(parts), *[b"$%d\r\n%b\r\n" % (len(part), part) for part in parts]])


def _milliseconds(keep_s: float | None) -> int:
    return 0 if keep_s is None else max(int(keep_s * 1000), 1)
