"""The sources of datasets. What a dataset had before is its first source, ``main``."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply it."""
    sources = op.create_table(
        "dataset_sources",
        sa.Column("dataset", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["dataset"], ["datasets.name"]),
        sa.PrimaryKeyConstraint("dataset", "name"),
    )
    rows = op.get_bind().execute(sa.text("SELECT name, source, trust, created_at FROM datasets")).all()
    for row in rows:
        body = {"name": "main", "location": row.source, "trust": row.trust, "created_at": row.created_at}
        op.execute(sources.insert().values(dataset=row.name, name="main", place=0, body=json.dumps(body).encode()))
