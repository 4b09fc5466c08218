"""Exclusions: rows of a source or a range of time that nothing learns from. A filter in front of the rows; the rows and their versions stay."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from kaizenml.data.store import exclusions_table

Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]

class Exclusion(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of ``dataset`` from ``source`` (None: any) whose time is in ``[since, until)``, in seconds UTC (None: open).

    A row's time is what its column ``time`` says; where it says nothing, or there is no such column (None), when the row was added.
    """

    id: int
    dataset: str
    source: str | None = None
    since: float | None = None
    until: float | None = None
    time: str | None = None
    why: str = ""
    by: str
    at: float
    lifted_at: float | None = None
    lifted_by: str | None = None
    lifted_why: str = ""

    @property
    def active(self) -> bool:
        return self.lifted_at is None


def every(connection: sa.Connection, dataset: str | None = None) -> list[Exclusion]:
    """Return all exclusions that were ever made, oldest first, those that were lifted too."""
    query = sa.select(exclusions_table.c.document).order_by(exclusions_table.c.id)
    if dataset is not None:
        query = query.where(exclusions_table.c.dataset == dataset)
    return [msgspec.json.decode(body, type=Exclusion) for body in connection.execute(query).scalars()]


def active(connection: sa.Connection, datasets: Iterable[str]) -> list[Exclusion]:
    """Return the exclusions that hold on any of these datasets, oldest first."""
    t = exclusions_table.c
    query = sa.select(t.document).where(t.dataset.in_(list(datasets)), t.lifted_at.is_(None)).order_by(t.id)
    return [msgspec.json.decode(body, type=Exclusion) for body in connection.execute(query).scalars()]


def next_id(connection: sa.Connection) -> int:
    """Return the id that the next exclusion gets, inside the transaction that writes it."""
    return int(connection.execute(sa.select(sa.func.max(exclusions_table.c.id))).scalar() or 0) + 1


def save(connection: sa.Connection, exclusion: Exclusion) -> None:
    """Write an exclusion, new or lifted."""
    values = {"dataset": exclusion.dataset, "lifted_at": exclusion.lifted_at, "document": msgspec.json.encode(exclusion)}
    done = connection.execute(exclusions_table.update().where(exclusions_table.c.id == exclusion.id).values(**values))
    if not done.rowcount:
        connection.execute(exclusions_table.insert().values(id=exclusion.id, **values))


def matches(exclusion: Exclusion, sources: pa.ChunkedArray, times_us: Int64) -> Bools:
    """Tell which rows an exclusion covers.

    Parameters
    ----------
    sources : the name of each row's source.
    times_us : each row's time, in microseconds since 1970 UTC.

    >>> one = Exclusion(id=1, dataset="orders", source="feed7", since=10.0, by="me", at=0.0)
    >>> matches(one, pa.chunked_array([["feed7", "feed7", "shop"]]), np.array([9_000_000, 10_000_000, 11_000_000])).tolist()
    [False, True, False]
    """
    found = np.ones(len(times_us), bool)
    if exclusion.source is not None:
        found = np.asarray(pc.fill_null(pc.equal(sources, exclusion.source), False).to_numpy(), bool)
    if exclusion.since is not None:
        found &= times_us >= round(exclusion.since * 1e6)
    if exclusion.until is not None:
        found &= times_us < round(exclusion.until * 1e6)
    return found
