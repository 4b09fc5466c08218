"""Which source each row came from, and how far the sources of a dataset are trusted."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Dataset, DatasetVersion, Source, Trust
from kaizenml.data.kinds import no_column
from kaizenml.errors import InvalidData, UsageError

MAIN = "main"
"""The name of a dataset's first source where nobody gives one."""
MOST = 1000
_LONGEST = 200
_LEAST_FIRST: tuple[Trust, ...] = ("public", "partner", "internal")


def main_of(dataset: Dataset | None) -> str:
    """Return the name of the source that rows belong to when nobody names one: the dataset's first."""
    return dataset.sources[0].name if dataset and dataset.sources else MAIN


def names_of(rows: pa.Table, name: str, column: str | None) -> pa.ChunkedArray:
    """Return the name of each row's source.

    Parameters
    ----------
    rows : as they came.
    name : the source of rows for which ``column`` says none.
    column : column that says it; None: all rows are of source ``name``.

    Raises
    ------
    InvalidData : no such column, or its values are too many or too long to be names of sources.
    """
    if column is None:
        return pa.chunked_array([pa.repeat(pa.scalar(name, pa.string()), rows.num_rows)])
    if column not in rows.column_names:
        raise no_column(column, rows.column_names, "the table")
    found = pc.fill_null(rows[column].cast(pa.string()), name)
    different = pc.unique(found)
    if len(different) > MOST or pc.max(pc.utf8_length(different)).as_py() > _LONGEST:
        raise InvalidData(
            f"column {column!r} does not name sources: it has {len(different):,} values, such as {str(different[0])[:60]!r}",
            remedy=f"name a column with the feed that a row came from ({MOST:,} at most, {_LONGEST} characters each), or give --source-name",
            values={"column": column, "distinct": len(different)},
        )
    return found


def check_source_name(name: str) -> str:
    """Return ``name`` if it can name a source, else raise UsageError."""
    if not name.strip() or len(name) > _LONGEST or not name.isprintable():
        raise UsageError(
            f"{name[:80]!r} is no name for a source", remedy=f"give 1 to {_LONGEST} printable characters, such as feed7", values={"found": name[:100]}
        )
    return name


def counted(names: pa.ChunkedArray) -> dict[str, int]:
    """Return how many rows each source gave, in the order in which sources first appear."""
    counts: list[dict[str, Any]] = pc.value_counts(names).to_pylist()
    return {entry["values"]: entry["counts"] for entry in counts}


def rows_by_source(dataset: Dataset | None, onto: DatasetVersion | None, added: dict[str, int]) -> dict[str, int]:
    """Add up the rows of each source; a version from before rows had a source counts as the first one's."""
    if onto is None:
        return added
    before = onto.sources or {main_of(dataset): onto.rows}
    return before | {name: before.get(name, 0) + rows for name, rows in added.items()}


def grown(dataset: Dataset | None, names: list[str], *, location: str, trust: Trust | None, at: float) -> list[Source]:
    """Return the dataset's sources after rows of the sources ``names`` came; ``trust`` is said of these alone."""
    known = {source.name: source for source in (dataset.sources if dataset else [])}
    for name in names:
        if name not in known:
            known[name] = Source(name=name, location=location, trust=trust or "internal", created_at=at)
        elif trust:
            known[name] = msgspec.structs.replace(known[name], trust=trust)
    if len(known) > MOST:
        raise InvalidData(
            f"the dataset would have {len(known):,} sources; {MOST:,} are the most",
            remedy="give --source-name, or a --source-column with fewer values",
            values={"sources": len(known)},
        )
    return [*known.values()]


def least_trust(sources: list[Source]) -> Trust:
    """Return how far a dataset is trusted: as far as the least trusted of its sources."""
    return min((source.trust for source in sources), key=_LEAST_FIRST.index)
