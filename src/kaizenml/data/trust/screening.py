"""Bring the poison scan to a dataset: which rows and columns it looks at, and what to do about what it finds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.data.dataset import Contract, Dataset, DatasetVersion, Suspicion
from kaizenml.data.kinds import SOURCE
from kaizenml.data.trust import poison
from kaizenml.data.trust.units import FEWEST

_ENOUGH, _MOST = 30_000, 1_000_000  # rows of the others that suffice; rows that are read at all, the newest parts first


def suspicions(ctx: Context, version: DatasetVersion, dataset: Dataset, given: Collection[str]) -> list[Suspicion]:
    """Scan an addition that is about to become ``version``: its sources that are not internal against the others.

    Parameters
    ----------
    dataset : as it will be.
    given : the sources of the addition.
    """
    untrusted = [source.name for source in dataset.sources if source.trust != "internal" and source.name in given]
    found = look(ctx, version, dataset.contract, untrusted).findings if untrusted else []
    remedy = f"kaizen data quarantine {version.dataset} --source "
    return [msgspec.structs.replace(each, remedy=remedy + _quoted(each.source)) for each in found]


def record(ctx: Context, connection: sa.Connection, version: DatasetVersion) -> None:
    """Write the suspicions of a version into the record of what happened, in the transaction that adds it."""
    for each in version.suspicions:
        ctx.record(
            connection, "data.suspected", version.ref, each.about,
            source=each.source, by=each.kind, value=each.value, limit=each.limit, rows=each.rows, slice=each.slice, remedy=each.remedy,
        )  # fmt: skip


def look(
    ctx: Context, version: DatasetVersion, contract: Contract, untrusted: Sequence[str], *, only: Collection[str] | None = None,
    without: Collection[int] = (),
) -> poison.Scan:  # fmt: skip
    """Scan the newest rows of a version.

    Parameters
    ----------
    untrusted : the sources to judge.
    only : the columns to look at; default all but key, time, free text and what the task ignores.
    without : ids of exclusions whose rows do not count; those that hold now never do.
    """
    others = [rows for name, rows in version.sources.items() if name not in untrusted]
    if len(untrusted) < 2 and not any(rows >= FEWEST for rows in others):
        return poison.Scan(sources=[*untrusted], compared=0, rows=0, columns=0, skipped="there is no other source to compare with")
    task = ctx.settings.task
    mine = task if task is not None and task.dataset == version.dataset else None
    target = mine.target if mine and mine.target in version.columns else None
    time = contract.time or (mine.time if mine else None)
    keys = [contract.key] if isinstance(contract.key, str) else [*(contract.key or [])]
    left_out = {*keys, time, target, *(mine.ignore if mine else []), *version.personal}
    columns = [name for name, kind in version.columns.items() if name not in left_out and kind != "text" and (only is None or name in only)]
    wanted = [*columns, *(name for name in (target, time) if name and name in version.columns)]
    rows = _newest(ctx, version, wanted, set(untrusted), without)
    if rows is None:
        return poison.Scan(sources=[*untrusted], compared=0, rows=0, columns=0, skipped="no row is left")
    return poison.scan(rows, rows[SOURCE], untrusted, target=target, columns=columns, time=time if time in wanted else None)


def _newest(ctx: Context, version: DatasetVersion, columns: list[str], untrusted: set[str], without: Collection[int]) -> pa.Table | None:
    """Read whole parts, the newest first, until there are enough rows of other sources; rows in their order, without excluded ones."""
    with ctx.catalog.read() as connection:
        held = [each for each in exclusions.every(connection, version.dataset) if each.active or each.id in without]
    found: list[pa.Table] = []
    others = read = 0
    for number in reversed(version.parts):
        part = msgspec.structs.replace(version, parts=[number])
        pieces: list[pa.Table] = []
        for piece in tables.batches(ctx, part, [*columns, SOURCE]):
            pieces.append(piece)
            read += piece.num_rows
            if read >= _MOST:
                break
        if not pieces:
            continue  # all its rows were forgotten
        rows = pa.concat_tables(pieces)
        if held:
            rows = rows.filter(pa.array(~tables.covered(ctx, part, held)[: rows.num_rows]))
        found.append(rows)
        others += pc.sum(pc.invert(pc.is_in(rows[SOURCE], pa.array([*untrusted])))).as_py() or 0
        if others >= _ENOUGH or read >= _MOST:
            break
    return pa.concat_tables(reversed(found)) if found else None


def _quoted(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() else f"'{name}'"
