"""The append-only record of who did what, when and why. Each event carries the hash of the one before it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from kaizenml.schema import metadata

events_table = sa.Table(
    "events",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False, index=True),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

GENESIS = "0" * 64


class Event(msgspec.Struct, frozen=True):
    """One thing that happened: ``kind`` (``noun.verb-in-past``) to ``subject`` (a reference), by ``actor``, and why."""

    seq: int
    at: float
    actor: str
    kind: str
    subject: str
    why: str
    data: dict[str, Any]
    previous: str
    hash: str


def append(connection: sa.Connection, *, at: float, actor: str, kind: str, subject: str, why: str = "", **data: Any) -> Event:
    """Write one event inside the caller's transaction, so that the act and its record stand or fall together.

    The catalog's write transactions are serialised (``BEGIN IMMEDIATE``), so reading the last
    hash and writing the next cannot race.
    """
    last = connection.execute(sa.select(events_table.c.seq, events_table.c.hash).order_by(events_table.c.seq.desc()).limit(1)).first()
    seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
    payload = msgspec.json.encode(data, order="deterministic")
    digest = _digest(seq=seq, at=at, actor=actor, kind=kind, subject=subject, why=why, payload=payload, previous=previous)
    connection.execute(
        events_table.insert().values(
            seq=seq, at=at, actor=actor, kind=kind, subject=subject, why=why, data=payload, previous=previous, hash=digest
        )
    )
    return Event(seq, at, actor, kind, subject, why, msgspec.json.decode(payload), previous, digest)


def read(
    connection: sa.Connection,
    *,
    after: int = 0,
    before: int | None = None,
    kind: str | None = None,
    subject: str | None = None,
    limit: int | None = None,
    newest_first: bool = False,
) -> list[Event]:
    """Return events in order, optionally of one kind (``rollouts.`` matches every kind of that room) or one subject.

    ``after`` and ``before`` are sequence numbers, both exclusive.
    """
    query = sa.select(events_table).where(events_table.c.seq > after)
    if before is not None:
        query = query.where(events_table.c.seq < before)
    if kind:
        query = query.where(events_table.c.kind.startswith(kind, autoescape=True) if kind.endswith(".") else events_table.c.kind == kind)
    if subject:
        query = query.where(events_table.c.subject == subject)
    query = query.order_by(events_table.c.seq.desc() if newest_first else events_table.c.seq)
    return [_event(row) for row in connection.execute(query.limit(limit) if limit else query)]


def verify(rows: Iterator[Any]) -> tuple[int, str, str | None]:
    """Walk the chain; return (events seen, last hash, what is wrong or None).

    ``rows`` are rows of the events table in order of ``seq``.
    """
    count, previous = 0, GENESIS
    for row in rows:
        if row.seq != count + 1:
            return count, previous, f"event {count + 1} is missing"
        if row.previous != previous:
            return count, previous, f"event {row.seq} does not follow event {count}"
        payload = row.data if isinstance(row.data, bytes) else str(row.data).encode()  # whoever changed it may have changed its type
        digest = _digest(
            seq=row.seq, at=row.at, actor=row.actor, kind=row.kind, subject=row.subject, why=row.why, payload=payload, previous=row.previous
        )
        if digest != row.hash:
            return count, previous, f"event {row.seq} was changed after it was written"
        count, previous = row.seq, row.hash
    return count, previous, None


def _event(row: Any) -> Event:
    return Event(row.seq, row.at, row.actor, row.kind, row.subject, row.why, msgspec.json.decode(row.data), row.previous, row.hash)


def _digest(*, seq: int, at: float, actor: str, kind: str, subject: str, why: str, payload: bytes, previous: str) -> str:
    # repr(float) round-trips, so a value read back from the database hashes alike
    head = msgspec.json.encode([previous, seq, repr(float(at)), actor, kind, subject, why])
    return hashlib.sha256(head + b"\n" + payload).hexdigest()
