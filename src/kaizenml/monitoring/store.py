"""Tables of monitoring: cursors, mergeable sums by day, outcomes that wait for their prediction, alerts.

Everything that an ``observe`` adds is written in one transaction with the cursors it advances, so that rows are counted once
whatever is killed when.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import sqlalchemy as sa

from kaizenml.catalog import metadata
from kaizenml.monitoring import live, profile
from kaizenml.monitoring.alert import Alert
from kaizenml.monitoring.live import DayState
from kaizenml.monitoring.pairs import PairState
from kaizenml.monitoring.profile import Profile

cursors = sa.Table(
    "monitoring_cursors",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("predictions", sa.Integer, nullable=False),  # version of the table of predictions
    sa.Column("outcomes", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("labelled_at", sa.Float, nullable=False),  # when the newest outcome seen was received
    sa.Column("longest_gap_s", sa.Float, nullable=False),  # between two arrivals of outcomes
    sa.Column("label_days", sa.Integer, nullable=False),  # days on which outcomes arrived
)
accuracy = sa.Table(
    "monitoring_accuracy",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("release", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, primary_key=True),  # live, shadow
    sa.Column("arm", sa.Text, primary_key=True),
    sa.Column("decided_by", sa.Text, primary_key=True),  # model, fallback, kill
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
pairs = sa.Table(
    "monitoring_pairs",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("one", sa.Text, primary_key=True),  # releases, the smaller name first
    sa.Column("other", sa.Text, primary_key=True),
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
windows = sa.Table(
    "monitoring_windows",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("reference", sa.Text, primary_key=True),  # release whose reference fixed the bins
    sa.Column("day", sa.Text, primary_key=True),
    sa.Column("profile", sa.LargeBinary, nullable=False),
)
pending = sa.Table(
    "monitoring_pending",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),  # JSON
    sa.Column("received_at", sa.Float, nullable=False, index=True),
)
alerts = sa.Table(
    "monitoring_alerts",
    metadata,
    sa.Column("endpoint", sa.Text, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.Column("closed_at", sa.Float),
    sa.Column("alert", sa.LargeBinary, nullable=False),
)


class Cursors(NamedTuple):
    """How far an endpoint has been observed."""

    predictions: int = 0
    outcomes: int = 0
    at: float = 0.0
    labelled_at: float = 0.0
    longest_gap_s: float = 0.0
    label_days: int = 0


class AccuracyKey(NamedTuple):
    """Whose answers a state sums."""

    release: str
    role: str
    arm: str
    decided_by: str
    day: str


class PairKey(NamedTuple):
    """Which two releases answered the same rows; ``one`` < ``other``."""

    one: str
    other: str
    day: str


_AT_ONCE = 500  # days in one query


def read_cursors(connection: sa.Connection, endpoint: str) -> Cursors:
    row = connection.execute(sa.select(cursors).where(cursors.c.endpoint == endpoint)).first()
    return Cursors(*row[1:]) if row else Cursors()


def move_cursors(connection: sa.Connection, endpoint: str, before: Cursors, after: Cursors) -> bool:
    """Advance the cursors, unless somebody else did since they were read."""
    if read_cursors(connection, endpoint)[:2] != before[:2]:
        return False
    connection.execute(cursors.delete().where(cursors.c.endpoint == endpoint))
    connection.execute(cursors.insert().values(endpoint=endpoint, **after._asdict()))
    return True


def add_accuracy(connection: sa.Connection, endpoint: str, states: dict[AccuracyKey, DayState]) -> None:
    """Add sums to those that stand."""
    standing = _standing(connection, accuracy, endpoint, states)
    added = {key: live.encode(live.decode(standing[key]) + state if key in standing else state) for key, state in states.items()}
    _put(connection, accuracy, endpoint, standing, added)


def read_accuracy(
    connection: sa.Connection, endpoint: str, *, release: str | None = None, role: str | None = None, since: str | None = None
) -> dict[AccuracyKey, DayState]:
    """Return the sums of an endpoint, by day in order."""
    query = sa.select(accuracy).where(accuracy.c.endpoint == endpoint)
    for column, value in ((accuracy.c.release, release), (accuracy.c.role, role)):
        query = query.where(column == value) if value is not None else query
    query = query.where(accuracy.c.day >= since) if since is not None else query
    rows = connection.execute(query.order_by(accuracy.c.day))
    return {AccuracyKey(row.release, row.role, row.arm, row.decided_by, row.day): live.decode(row.state) for row in rows}


def add_pairs(connection: sa.Connection, endpoint: str, states: dict[PairKey, PairState]) -> None:
    """Add sums of differences to those that stand."""
    standing = _standing(connection, pairs, endpoint, states)
    _put(connection, pairs, endpoint, standing, {key: _differences(standing.get(key), state) for key, state in states.items()})


def _differences(body: bytes | None, state: PairState) -> bytes:
    return (state if body is None else np.frombuffer(body, np.float64).reshape(state.shape) + state).tobytes()


def read_pairs(connection: sa.Connection, endpoint: str, one: str, other: str) -> dict[str, PairState]:
    """Return the sums of differences of two releases by day, in order."""
    query = (
        sa.select(pairs.c.day, pairs.c.state).where(pairs.c.endpoint == endpoint, pairs.c.one == one, pairs.c.other == other).order_by(pairs.c.day)
    )
    return {row.day: np.frombuffer(row.state, np.float64).reshape(live.HOURS, -1) for row in connection.execute(query)}


def add_windows(connection: sa.Connection, endpoint: str, reference: str, found: dict[str, Profile]) -> None:
    """Add profiles of days to those that stand."""
    for day, counted in found.items():
        where = sa.and_(windows.c.endpoint == endpoint, windows.c.reference == reference, windows.c.day == day)
        row = connection.execute(sa.select(windows.c.profile).where(where)).first()
        if row:
            connection.execute(windows.update().where(where).values(profile=profile.encode(profile.decode(row.profile) + counted)))
        else:
            connection.execute(windows.insert().values(endpoint=endpoint, reference=reference, day=day, profile=profile.encode(counted)))


def read_windows(connection: sa.Connection, endpoint: str, reference: str, *, newest: int) -> dict[str, Profile]:
    """Return the newest days' profiles over a reference's bins, in order."""
    query = sa.select(windows.c.day, windows.c.profile).where(windows.c.endpoint == endpoint, windows.c.reference == reference)
    rows = connection.execute(query.order_by(windows.c.day.desc()).limit(newest)).all()
    return {row.day: profile.decode(row.profile) for row in reversed(rows)}


def read_pending(connection: sa.Connection, endpoint: str) -> dict[str, Any]:
    """Return outcomes whose prediction has not been seen, by id."""
    rows = connection.execute(sa.select(pending.c.id, pending.c.value).where(pending.c.endpoint == endpoint))
    return {row.id: msgspec.json.decode(row.value) for row in rows}


def change_pending(connection: sa.Connection, endpoint: str, *, found: list[str], waiting: list[tuple[str, Any, float]], older_than: float) -> None:
    """Take away what was found or is too old to ever be, and keep what waits."""
    if found:
        mine = (pending.c.endpoint == endpoint, pending.c.id == sa.bindparam("found"))
        connection.execute(pending.delete().where(*mine), [{"found": identity} for identity in found])
    connection.execute(pending.delete().where(pending.c.endpoint == endpoint, pending.c.received_at < older_than))
    if waiting:
        rows = [{"endpoint": endpoint, "id": key, "value": msgspec.json.encode(value), "received_at": at} for key, value, at in waiting]
        connection.execute(pending.insert(), rows)


def _standing(connection: sa.Connection, table: sa.Table, endpoint: str, wanted: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], bytes]:
    """Return the states that stand of the days of these keys."""
    names = _key_of(table)
    days = sorted({key[names.index("day")] for key in wanted})
    query = sa.select(*(table.c[name] for name in names), table.c.state).where(table.c.endpoint == endpoint)
    found: dict[tuple[str, ...], bytes] = {}
    for start in range(0, len(days), _AT_ONCE):
        for row in connection.execute(query.where(table.c.day.in_(days[start : start + _AT_ONCE]))):
            found[tuple(row[:-1])] = row.state
    return found


def _put(connection: sa.Connection, table: sa.Table, endpoint: str, old: Container[tuple[str, ...]], states: Mapping[Any, bytes]) -> None:
    """Write states by key, in two statements whatever their number; those of ``old`` are there."""
    names = _key_of(table)
    changed = [{f"old_{name}": value for name, value in zip(names, key, strict=True)} | {"new": states[key]} for key in states if key in old]
    added = [dict(zip(names, key, strict=True)) | {"endpoint": endpoint, "state": states[key]} for key in states if key not in old]
    if changed:
        mine = [table.c.endpoint == endpoint, *(table.c[name] == sa.bindparam(f"old_{name}") for name in names)]
        connection.execute(table.update().where(*mine).values(state=sa.bindparam("new")), changed)
    if added:
        connection.execute(table.insert(), added)


def _key_of(table: sa.Table) -> list[str]:
    """Return the columns of the key beside the endpoint, in the order of the keys."""
    return [column.name for column in table.primary_key if column.name != "endpoint"]


def open_alert(connection: sa.Connection, endpoint: str) -> Alert | None:
    """Return the alert that is open."""
    query = sa.select(alerts.c.alert).where(alerts.c.endpoint == endpoint, alerts.c.closed_at.is_(None)).order_by(alerts.c.number.desc()).limit(1)
    row = connection.execute(query).first()
    return msgspec.json.decode(row.alert, type=Alert) if row else None


def next_alert(connection: sa.Connection, endpoint: str) -> int:
    return (connection.execute(sa.select(sa.func.max(alerts.c.number)).where(alerts.c.endpoint == endpoint)).scalar() or 0) + 1


def put_alert(connection: sa.Connection, alert: Alert) -> None:
    """Write an alert, new or changed."""
    connection.execute(alerts.delete().where(alerts.c.endpoint == alert.endpoint, alerts.c.number == alert.number))
    connection.execute(
        alerts.insert().values(
            endpoint=alert.endpoint, number=alert.number, opened_at=alert.opened_at, closed_at=alert.closed_at, alert=msgspec.json.encode(alert)
        )
    )


def list_alerts(connection: sa.Connection, *, endpoint: str | None = None, open_only: bool = False, limit: int = 100) -> list[Alert]:
    """Return alerts, newest first."""
    query = sa.select(alerts.c.alert)
    query = query.where(alerts.c.endpoint == endpoint) if endpoint else query
    query = query.where(alerts.c.closed_at.is_(None)) if open_only else query
    rows = connection.execute(query.order_by(alerts.c.opened_at.desc(), alerts.c.number.desc()).limit(limit))
    return [msgspec.json.decode(row.alert, type=Alert) for row in rows]


def first_live_day(connection: sa.Connection, endpoint: str, release: str) -> str | None:
    """Return the first day on which a release answered as champion."""
    query = sa.select(sa.func.min(accuracy.c.day)).where(
        accuracy.c.endpoint == endpoint, accuracy.c.release == release, accuracy.c.role == "live", accuracy.c.arm == "champion"
    )
    return connection.execute(query).scalar()
