"""Compare two versions of a dataset: rows, columns, contract, and which columns drifted; as numbers and as a picture."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import Any, cast

import msgspec
import pyarrow as pa

from kaizenml import charts
from kaizenml.context import Context
from kaizenml.data import diff as parts
from kaizenml.data import store, tables
from kaizenml.data.dataset import DatasetVersion, Kind
from kaizenml.data.kinds import STORED
from kaizenml.errors import UsageError
from kaizenml.features.signature import Field, FieldKind
from kaizenml.monitoring import drift
from kaizenml.monitoring.drift import ColumnDrift
from kaizenml.monitoring.profile import Bins, Column, Profile, count, empty, learn

__all__ = ["diff"]

ALPHA = 0.01
LEARNT = 500_000  # rows on which bins are fixed
BARS = 16
SHOWN = 12  # columns in a picture


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How one version of a dataset differs from another."""

    old: str
    new: str
    rows: parts.Rows
    columns: parts.Columns
    contract: dict[str, list[Any]]  # promises that differ: before, now; empty too where an old version did not keep its contract
    compared: str  # which rows the drift is of
    drifted: list[str]
    drift: list[ColumnDrift]  # of every column but texts, the farthest first
    picture: str = ""  # SVG


def diff(ctx: Context, old: str, new: str | None = None, *, picture: bool = False) -> Difference:
    """Compare two versions of a dataset: rows, columns, contract, and what drifted.

    Rows are matched by the contract's key where there is one. Where the newer version only added rows, the drift is that of the rows
    that came against those that were there; else of the whole versions. A column has drifted when the distance is more than chance
    gives, and large enough to matter.

    Parameters
    ----------
    old : ``name@number``; a bare name is the version before the newest.
    new : ``name@number``; default the newest.
    picture : whether to draw the distributions; on the command line the file to write the SVG to.

    Raises
    ------
    NotFound : no such dataset or version.
    UsageError : versions of two datasets, or there is only one version.

    Examples
    --------
    kaizen data diff orders@3 orders@5 --picture orders.svg
    """
    now = tables.version(ctx, new or old.partition("@")[0])
    if "@" not in old and now.number == 1:
        raise UsageError(f"{now.ref} is the only version", remedy=f"kaizen data versions {now.dataset}", values={"version": now.ref})
    before = tables.version(ctx, old if "@" in old else f"{old}@{now.number - 1}")
    if before.dataset != now.dataset:
        raise UsageError(
            f"{before.ref} and {now.ref} are of two datasets", remedy="name two versions of one", values={"old": before.ref, "new": now.ref}
        )
    made, pictures = looked_at(ctx, before.ref, now.ref)
    return msgspec.structs.replace(made, picture=_drawn(made, pictures)) if picture else made


def looked_at(ctx: Context, old: str, new: str) -> tuple[Difference, dict[str, str]]:
    """Compare two versions of a dataset; with a picture of every column that was compared, the older rows outlined."""
    before, now = tables.version(ctx, old), tables.version(ctx, new)
    with ctx.catalog.read() as connection:
        dataset = store.find(connection, now.dataset)
    assert dataset is not None  # versions refer to their dataset
    # a key and the time drift by themselves
    bins, reference, window, compared = _profiles(ctx, before, now, leave_out={*dataset.contract.keys, dataset.contract.time or ""})
    moved = sorted(drift.compare(bins, reference, window, alpha=ALPHA), key=lambda one: (not one.drifted, -one.distance))
    found = [msgspec.structs.replace(one, reason=one.reason.replace("in training", f"in {before.ref}")) for one in moved]
    made = Difference(
        old=before.ref,
        new=now.ref,
        rows=parts.rows(ctx, before, now, dataset.contract),
        columns=parts.columns(before, now),
        contract=parts.promises(before.contract, now.contract),
        compared=compared,
        drifted=[one.column for one in found if one.drifted],
        drift=found,
    )
    counted = zip(bins.columns, reference.counts.tolist(), window.counts.tolist(), strict=True)
    return made, {column.name: _histogram(column, then, now_) for column, then, now_ in counted}


def _drawn(made: Difference, pictures: dict[str, str]) -> str:
    """Draw the distributions of the columns that moved farthest below each other."""
    rows: list[tuple[str, str, charts.Tone, str]] = [
        (one.column, one.reason or f"distance {one.distance:.2f}", "warn" if one.drifted else "neutral", pictures[one.column])
        for one in made.drift[:SHOWN]
    ]
    moved = f"{len(made.drifted)} of {len(made.drift)} columns drifted"
    return charts.labelled(rows, title=f"{made.old} and {made.new}", about=f"{moved}. Bars: {made.compared}, which are outlined", standalone=True)


def _histogram(column: Column, then: list[int], now: list[int]) -> str:
    before, labels = _bars(column, then)
    return charts.histogram(_bars(column, now)[0], reference=before, labels=labels, title=f"{column.name}: newer rows (bars) and older ones (line)")


def _profiles(ctx: Context, before: DatasetVersion, now: DatasetVersion, *, leave_out: set[str]) -> tuple[Bins, Profile, Profile, str]:
    shared = set(before.parts) & set(now.parts)
    came = [part for part in now.parts if part not in shared]
    grown = bool(came) and shared == set(before.parts)
    names = {"number", "integer", "boolean", "category", "timestamp"}
    hidden = set(now.personal) | set(before.personal) | leave_out
    kinds: dict[str, Kind] = {
        name: kind for name, kind in now.columns.items() if kind in names and before.columns.get(name) == kind and name not in hidden
    }
    fields = [Field(name=name, kind=cast(FieldKind, kind)) for name, kind in kinds.items()]
    bins = learn(_sample(ctx, before, kinds), fields)
    reference = _counted(ctx, bins, before, before.parts, kinds)
    window = _counted(ctx, bins, now, came if grown else now.parts, kinds)
    which = f"the rows that {now.ref} has more" if grown else f"all rows of {now.ref}"
    return bins, reference, window, f"{which}, against those of {before.ref}"


def _sample(ctx: Context, version: DatasetVersion, kinds: dict[str, Kind]) -> pa.Table:
    """Return every k-th row of a version, some half a million at most."""
    if not kinds:
        return pa.table({})
    step = version.rows // LEARNT + 1
    found = [batch.take(pa.array(range(0, batch.num_rows, step), pa.int64())) for batch in parts.batches(ctx, version, version.parts, kinds)]
    return pa.concat_tables(found) if found else pa.table({name: pa.array([], STORED[kind]) for name, kind in kinds.items()})


def _counted(ctx: Context, bins: Bins, version: DatasetVersion, numbers: list[int], kinds: dict[str, Kind]) -> Profile:
    total = empty(bins)
    for batch in parts.batches(ctx, version, numbers, kinds) if kinds else ():
        total += count(bins, batch)
    return total


def _bars(column: Column, counts: list[int]) -> tuple[list[float], list[str]]:
    """Turn counts over fine bins into a few bars: the commonest levels and the rest, or steps of equal width over the middle."""
    if column.kind == "category":
        kept = min(len(column.levels), BARS - 1)
        return [*map(float, counts[:kept]), float(sum(counts[kept:]))], [*column.levels[:kept], "others"]
    edges = column.edges
    if len(edges) <= BARS:
        return [float(one) for one in counts[: column.slots]], ["below", *(f"{edge:g}" for edge in edges), "above"][: column.slots]
    low, high = edges[1], edges[-2]
    sums = [0.0, *itertools.accumulate(map(float, counts[: column.slots]))]

    def below(value: float) -> float:
        at = bisect_right(edges, value)
        if at == len(edges):
            return sums[at]
        left, right = edges[at - 1], edges[at]
        return sums[at] + (sums[at + 1] - sums[at]) * (value - left) / ((right - left) or 1.0)

    steps = [low + (high - low) * i / BARS for i in range(BARS + 1)]
    heights = [max(below(b) - below(a), 0.0) for a, b in itertools.pairwise(steps)]
    return heights, [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(steps)]
