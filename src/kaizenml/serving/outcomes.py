"""Outcomes: the truth that arrives later, kept in ``outcomes.db`` (SQLite, write-ahead log) of the project's state.

Format 1 (``PRAGMA user_version``). The first value of an id stands; the same again is a duplicate, another is a conflict,
kept beside it. Early, late and unknown outcomes are taken and told apart. Hot path: the standard library and msgspec.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kaizenml import sqlite_file
from kaizenml.errors import Corrupt, InvalidInput, KaizenError, StorageFull, Unavailable, nearest
from kaizenml.features.encoding.encoder import parse_time_us
from kaizenml.features.signature import Signature
from kaizenml.serving.ids import Ids, seconds_of

FILE = "outcomes.db"
SHOWN = 100  # ids named in an answer
_TABLES = (
    """CREATE TABLE IF NOT EXISTS outcomes (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, value TEXT NOT NULL,
  at REAL NOT NULL, received_at REAL NOT NULL, timing TEXT NOT NULL, known INTEGER NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS outcomes_by_endpoint ON outcomes (endpoint, seq)",
    """CREATE TABLE IF NOT EXISTS conflicts (
  id TEXT NOT NULL, endpoint TEXT NOT NULL, value TEXT NOT NULL, at REAL NOT NULL, received_at REAL NOT NULL, PRIMARY KEY (id, value)
) WITHOUT ROWID""",
)
_SCHEMA = sqlite_file.Schema(format=1, statements=_TABLES)
_INSERT = "INSERT INTO outcomes (id, endpoint, value, at, received_at, timing, known) VALUES (?, ?, ?, ?, ?, ?, ?)"
_CONFLICT = "INSERT OR REPLACE INTO conflicts (id, endpoint, value, at, received_at) VALUES (?, ?, ?, ?, ?)"
_CHUNK = 1000


class Outcome(msgspec.Struct, forbid_unknown_fields=True):
    """One outcome as a client sends it. ``at`` is when the truth was known: ISO 8601 or seconds; absent: now."""

    id: str
    value: str | int | float | bool | None
    at: str | int | float | None = None


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a request's outcomes. ``accepted`` counts those newly kept; late, early and unknown ones are among them."""

    accepted: int
    late: int
    early: int
    duplicate: int
    conflicting: int
    unknown: int
    conflicting_ids: list[str] = []
    unknown_ids: list[str] = []


class Kept(NamedTuple):
    """An outcome as it was kept; ``cursor`` grows with every one."""

    cursor: int
    id: str
    value: Any
    at: float
    received_at: float


def checked_value(value: Any, signatures: Sequence[Signature], position: int) -> Any:
    """Return the outcome's value as the signature writes it.

    Parameters
    ----------
    value : a class, or a number for regression; 0 and 1 stand for false and true.
    signatures : of the releases that answer the endpoint; a class of any of them will do.
    position : the outcome's place in the request, for messages.

    Raises
    ------
    InvalidInput : it is none of the classes, or no finite number.
    """
    field = f"outcomes[{position}].value"
    first = signatures[0]
    if first.task == "regression":
        if type(value) is int or (type(value) is float and math.isfinite(value)):
            return float(value)
        raise InvalidInput(
            f"{field}: {value!r} is not a number", remedy=f"send the true {first.target!r} as a number",
            values={"row": position, "field": "value", "found": value, "expected": "a number"},
        )  # fmt: skip
    for signature in signatures:
        for name in signature.classes:
            if type(name) is type(value) and name == value:
                return name
    classes = list(dict.fromkeys(name for signature in signatures for name in signature.classes))
    if value is not None:
        for name in classes:  # 1 for true, 3.0 for 3
            if not isinstance(name, str) and not isinstance(value, str) and name == value:
                return name
    close = nearest(str(value), [str(name) for name in classes])
    raise InvalidInput(
        f"{field}: {value!r} is none of the classes" + (f"; did you mean {close!r}?" if close and close != str(value) else ""),
        remedy="send one of " + ", ".join(msgspec.json.encode(name).decode() for name in classes[:10]),
        values={"row": position, "field": "value", "found": value, "expected": classes[:50]},
    )


class OutcomeStore:
    """The writing end, for one thread.

    Parameters
    ----------
    state : the project's state folder.
    ids : tells which ids the project gave.
    window_s : outcomes longer after their prediction are called late.
    durable : wait for the disk itself in every request.
    """

    def __init__(self, state: Path, ids: Ids, *, window_s: float, durable: bool = False) -> None:
        self._path = state / FILE
        self._ids = ids
        self._window_s = window_s
        self._durable = durable
        self._connection: sqlite3.Connection | None = None

    def take(self, endpoint: str, found: Sequence[Outcome], signatures: Sequence[Signature], now: float) -> Taken:
        """Keep the outcomes of one request, all in one transaction or none.

        Raises
        ------
        InvalidInput : a value or a time does not fit; nothing was kept.
        StorageFull, Unavailable : the file cannot be written; nothing was kept.
        """
        rows = [self._row(endpoint, outcome, signatures, now, position) for position, outcome in enumerate(found)]
        try:
            if self._connection is None:
                self._connection = sqlite_file.connect(self._path, _SCHEMA, durable=self._durable)
            with sqlite_file.transaction(self._connection) as connection:
                return _keep(connection, rows)
        except sqlite3.Error as error:
            raise _translated(error, self._path) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _row(self, endpoint: str, outcome: Outcome, signatures: Sequence[Signature], now: float, position: int) -> tuple[Any, ...]:
        value = msgspec.json.encode(checked_value(outcome.value, signatures, position)).decode()
        if not 0 < len(outcome.id) <= 200:
            values = {"row": position, "field": "id"}
            raise InvalidInput(f"outcomes[{position}].id is empty or longer than 200", remedy="send the prediction's id", values=values)
        at = now
        if outcome.at is not None:
            try:
                at = (parse_time_us(outcome.at) or 0) / 1e6
            except (ValueError, OverflowError, TypeError):
                shown, remedy = str(outcome.at)[:100], "send ISO 8601 or seconds since 1970, or leave it out"
                values = {"row": position, "field": "at", "found": shown, "expected": "a time"}
                raise InvalidInput(f"outcomes[{position}].at: {shown!r} is not a time", remedy=remedy, values=values) from None
        known = self._ids.known(outcome.id)
        timing = "in time"
        if known:
            asked = seconds_of(outcome.id)
            timing = "early" if at < asked else "late" if max(at, now) > asked + self._window_s else "in time"
        return (outcome.id, endpoint, value, at, now, timing, int(known))


def since(state: Path, endpoint: str, cursor: int, limit: int = 10_000) -> list[Kept]:
    """Return the endpoint's outcomes after ``cursor`` in the order they were taken; 0 is the beginning.

    Outcomes with unknown ids are among them: nothing joins them.
    """
    query = "SELECT seq, id, value, at, received_at FROM outcomes WHERE endpoint = ? AND seq > ? ORDER BY seq LIMIT ?"
    decode = msgspec.json.Decoder().decode
    known: dict[str, Any] = {}  # few different values: classes
    kept = []
    for seq, identity, text, at, received_at in _query(state, query, (endpoint, cursor, limit)):
        if text not in known and len(known) < 10_000:
            known[text] = decode(text)
        kept.append(Kept(seq, identity, known[text] if text in known else decode(text), at, received_at))
    return kept


def count(state: Path, endpoint: str, *, after: int = 0) -> tuple[int, int]:
    """Return how many outcomes with known ids the endpoint has after the cursor, and the newest cursor."""
    query = "SELECT COALESCE(SUM(known), 0), COALESCE(MAX(seq), ?) FROM outcomes WHERE endpoint = ? AND seq > ?"
    for fresh, newest in _query(state, query, (after, endpoint, after)):
        return fresh, newest
    return 0, after


def find(state: Path, identity: str) -> Kept | None:
    """Return the outcome of one prediction, if it is known."""
    for row in _query(state, "SELECT seq, id, value, at, received_at FROM outcomes WHERE id = ?", (identity,)):
        return Kept(row[0], row[1], msgspec.json.decode(row[2]), row[3], row[4])
    return None


def states(state: Path, endpoint: str) -> Mapping[str, int]:
    """Return how many outcomes an endpoint has: kept, early, late, unknown, conflicting."""
    sums = "COALESCE(SUM(timing = 'early'), 0), COALESCE(SUM(timing = 'late'), 0), COALESCE(SUM(known = 0), 0)"
    query = f"SELECT COUNT(*), {sums} FROM outcomes WHERE endpoint = ?"  # noqa: S608  only constants
    conflicts = next(iter(_query(state, "SELECT COUNT(*) FROM conflicts WHERE endpoint = ?", (endpoint,))), (0,))[0]
    kept = next(iter(_query(state, query, (endpoint,))), (0, 0, 0, 0))
    return {**dict(zip(("kept", "early", "late", "unknown"), kept, strict=True)), "conflicting": conflicts}


def _keep(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> Taken:
    standing = _standing(connection, [row[0] for row in rows])
    fresh, conflicts, duplicate = [], [], 0
    for row in rows:
        have = standing.get(row[0])
        if have is None:
            standing[row[0]] = row[2]
            fresh.append(row)
        elif have == row[2]:
            duplicate += 1
        else:
            conflicts.append(row)
    if fresh:
        connection.executemany(_INSERT, fresh)
    if conflicts:
        connection.executemany(_CONFLICT, [row[:5] for row in conflicts])
    unknown = [row[0] for row in rows if not row[6]]
    return Taken(
        accepted=len(fresh),
        late=sum(row[5] == "late" for row in fresh),
        early=sum(row[5] == "early" for row in fresh),
        duplicate=duplicate,
        conflicting=len(conflicts),
        unknown=len(unknown),
        conflicting_ids=[row[0] for row in conflicts[:SHOWN]],
        unknown_ids=unknown[:SHOWN],
    )


def _standing(connection: sqlite3.Connection, wanted: list[str]) -> dict[str, str]:
    standing: dict[str, str] = {}
    for start in range(0, len(wanted), _CHUNK):
        some = wanted[start : start + _CHUNK]
        marks = ",".join("?" * len(some))
        standing.update(connection.execute(f"SELECT id, value FROM outcomes WHERE id IN ({marks})", some).fetchall())  # noqa: S608  only marks
    return standing


def _query(state: Path, query: str, values: tuple[Any, ...]) -> Iterable[tuple[Any, ...]]:
    path = state / FILE
    if not path.exists():
        return []
    try:
        connection = sqlite_file.connect(path, readonly=True)
        try:
            return connection.execute(query, values).fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        if "no such table" in str(error):  # the serving process is just making it
            return []
        raise _translated(error, path) from error


def _translated(error: sqlite3.Error, path: Path) -> KaizenError:
    text, values = str(error), {"file": str(path)}
    if "disk is full" in text or "disk I/O error" in text:
        what = "the disk that holds the outcomes is full; none of this request's were taken"
        return StorageFull(what, remedy="free some space and repeat", values=values)
    if "not a database" in text or "malformed" in text:
        return Corrupt(f"{path} is damaged: {text}", remedy=f"move {path} away; clients may send the outcomes again", values=values)
    return Unavailable(f"the outcomes cannot be kept now: {text}", remedy="repeat; outcomes may be sent again safely", values=values)
