"""What monitoring keeps of inputs: references of releases and the windows that are counted over their bins."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import sqlalchemy as sa

from kaizenml.context import Context
from kaizenml.governance.forgetting.models import Telling, Words, tells, tombstones
from kaizenml.monitoring import profile, store
from kaizenml.monitoring.profile import Column
from kaizenml.monitoring.reference import Reference

_decode = msgspec.msgpack.Decoder(Reference).decode


def purge_references(ctx: Context, words: Words) -> int:
    """Take levels and edges that tell out of the references; return how many changed.

    A slot keeps its place, so that windows counted over it keep their meaning. An edge that only the subjects had becomes its neighbour.
    """
    changed = 0
    for path in sorted((ctx.state / "monitoring").glob("*.msgpack")):
        try:
            reference = _decode(path.read_bytes())
        except msgspec.DecodeError:
            path.unlink()  # derived: it is made again when it is asked for
            continue
        telling = words(reference.dataset.partition("@")[0] or None)
        columns = [_column(column, telling) for column in reference.bins.columns]
        if columns != reference.bins.columns:
            bins = msgspec.structs.replace(reference.bins, columns=columns)
            _write(path, msgspec.structs.replace(reference, bins=bins))
            changed += 1
    for left in (ctx.state / "monitoring").glob(".*"):  # of a process that was killed while it wrote
        left.unlink(missing_ok=True)
    return changed


def purge_windows(ctx: Context, requests: Mapping[str, list[str]]) -> int:
    """Take the marks of the subjects out of what windows remember of keys; return how many windows changed."""
    marks = {zlib.crc32(value.encode()) for values in requests.values() for value in values}
    changed = 0
    with ctx.catalog.write() as connection:
        for row in connection.execute(sa.select(store.windows)).all():
            counted = profile.decode(row.profile)
            keys = {view: frozenset(known - marks) for view, known in counted.keys.items()}
            if keys == counted.keys:
                continue
            w = store.windows.c
            where = (w.endpoint == row.endpoint) & (w.reference == row.reference) & (w.day == row.day)
            fresh = profile.Profile(
                counted.rows, counted.missing, counted.counts, counted.sums, counted.squares, counted.gapped, counted.states, keys
            )  # fmt: skip
            connection.execute(store.windows.update().where(where).values(profile=profile.encode(fresh)))
            changed += 1
    return changed


def _column(column: Column, telling: Telling) -> Column:
    of = telling.values.get(column.name)
    if not of:
        return column
    edges = list(column.edges)
    for place in [place for place, edge in enumerate(edges) if tells(edge, of)]:
        near = [edge for edge in (*reversed(edges[:place]), *edges[place + 1 :]) if not tells(edge, of)]
        edges[place] = near[0] if near else 0.0
    return msgspec.structs.replace(column, levels=tombstones(column.levels, of), edges=sorted(edges))


def _write(path: Path, reference: Reference) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.msgpack.encode(reference))
    os.replace(fresh, path)
