"""Where runs are kept."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from kaizenml.catalog import metadata
from kaizenml.training.run import Run

runs_table = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("dataset", sa.Text, nullable=False, index=True),  # the name, without the number
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
)


def insert(connection: sa.Connection, run: Run) -> None:
    """Add a run. Runs never change."""
    connection.execute(
        runs_table.insert().values(id=run.id, dataset=run.dataset.partition("@")[0], started_at=run.started_at, document=msgspec.json.encode(run))
    )


def find(connection: sa.Connection, run: str) -> Run | None:
    """Return one run, or None."""
    row = connection.execute(sa.select(runs_table.c.document).where(runs_table.c.id == run)).first()
    return _run(row) if row else None


def all_runs(connection: sa.Connection, dataset: str | None = None) -> list[Run]:
    """Return the runs, newest first, optionally those on one dataset's versions."""
    query = sa.select(runs_table.c.document).order_by(runs_table.c.started_at.desc(), runs_table.c.id.desc())
    if dataset:
        query = query.where(runs_table.c.dataset == dataset)
    return [_run(row) for row in connection.execute(query)]


def _run(row: sa.Row[tuple[bytes]]) -> Run:
    return msgspec.json.decode(row.document, type=Run)
