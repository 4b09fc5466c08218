"""Features by an engine beside this process: what it is handed, and how its answer gets the types and the last bits of ours.

Only what identifies a question goes there and back: the row's number, its entity and its moment. Ratios are taken here, as
``windows/vectorised.py`` takes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.data import store as datasets
from kaizenml.data.dataset import Kind
from kaizenml.data.kinds import STORED
from kaizenml.data.storage import Remote, filesystem
from kaizenml.errors import InvalidSettings
from kaizenml.features import join
from kaizenml.features.view import FeatureView
from kaizenml.features.windows.aggregates import SECOND_US, kind_of
from kaizenml.ports import Behind, Excluded, FrameEngine, StoredFile, Wanted
from kaizenml.scratch import Scratch

_KEYS = ("integer", "boolean", "category", "text")


def columns(ctx: Context, rows: pa.Table, view: FeatureView, *, known_at: join.Int64 | None, engine: str) -> list[pa.ChunkedArray]:
    """Return the features of a view for each of ``rows``, as ``join.join`` and ``windows.aggregate`` give them.

    Sums of numbers, and what is made of them, are rounded at every step there and once here: they differ by less than 1e-12 of the
    values' magnitude. All else is the same.

    Parameters
    ----------
    known_at : as ``frame.with_features`` has it.
    engine : its name, as ``[project] engine`` has it.

    Raises
    ------
    InvalidSettings : the engine cannot compute this view.
    MissingExtra, Unavailable : it is not installed, or does not start.
    """
    behind = _behind(ctx, view, newest=known_at is None and view.at is not None)
    if not behind.files:
        return [pa.chunked_array([pa.nulls(rows.num_rows, kind)]) for kind in _types(view, behind.kinds).values()]
    assert ctx.open_frames is not None
    with Scratch(ctx.state / "frames", "join-") as scratch:
        opened: FrameEngine = ctx.open_frames(engine, scratch)
        place = tables.folder(ctx, view.dataset)
        if isinstance(place, Remote) and not opened.reads(behind.root):
            behind = _brought(place, behind, scratch / "stored")
        _write_asked(scratch / "asked.parquet", rows, view, known_at)
        opened.join(scratch / "asked.parquet", behind, scratch / "answer")
        answer = _answer(scratch / "answer")
    return _finished(view, answer, _types(view, behind.kinds))


def _brought(place: Remote, behind: Behind, folder: Path) -> Behind:
    """Bring the files behind a view here, as they are, for an engine that cannot read them where they lie."""
    from pyarrow import fs

    files = []
    for file in behind.files:
        name = file.location.removeprefix(f"{behind.root}/")
        here = folder / name
        here.parent.mkdir(parents=True, exist_ok=True)
        fs.copy_files(name, str(here), source_filesystem=filesystem(place), destination_filesystem=fs.LocalFileSystem())
        files.append(file._replace(location=str(here.resolve())))
    return behind._replace(root=str(folder.resolve()), files=files)


def _write_asked(path: Path, rows: pa.Table, view: FeatureView, known_at: join.Int64 | None) -> None:
    moments: Any = np.zeros(rows.num_rows, np.int64) if known_at is None or view.at is None else known_at
    keys = {f"k{place}": join.key_text(rows.column(name)) for place, name in enumerate(view.entities)}
    asked = {"row": pa.array(np.arange(rows.num_rows)), **keys, "t": pa.array(moments, mask=moments == join.MISSING)}
    pyarrow.parquet.write_table(pa.table(asked), path)


def _behind(ctx: Context, view: FeatureView, *, newest: bool) -> Behind:
    """Say which files hold the rows behind a view, which of them may be used, and what is asked of them."""
    if view.sql is not None:
        raise InvalidSettings(
            f"the rows of {view.name!r} are what a query gives; Spark does not run it",
            remedy="--engine local, or name other views: --views",
            values={"view": view.ref},
        )
    version = tables.version(ctx, view.dataset)
    place = tables.folder(ctx, view.dataset)
    with ctx.catalog.read() as connection:
        held = datasets.find(connection, view.dataset)
        added = {each.number: round(each.created_at * 1e6) for each in datasets.versions(connection, view.dataset)}
        out = [_excluded(each) for each in exclusions.active(connection, [view.dataset])]
        first = datasets.sources(connection, view.dataset)
    files = tables.part_files(place)
    read = [*view.entities, *(name for name in (view.at, view.created) if name), *view.reads]
    read += [each.time for each in out if each.time is not None and version.columns.get(each.time) == "timestamp"]
    kinds = {name: version.columns[name] for name in read}
    for name in view.entities:
        if kinds[name] not in _KEYS:
            raise InvalidSettings(
                f"the entity of the view {view.name!r} is {name!r}, which holds {kinds[name]}; on Spark it is whole numbers, text or truth values",
                remedy="--engine local, or keep the key as text",
                values={"view": view.name, "column": name, "found": kinds[name]},
            )
    stored = {name: STORED[kind] for name, kind in kinds.items()}
    for name, found in tables.stored_types(place, [*kinds]).items():
        if found != stored[name]:
            raise InvalidSettings(
                f"{view.dataset} keeps {name!r} as {found} since a version of before; Spark needs it as {kinds[name]}",
                remedy=f"--engine local, or kaizen data add {view.dataset} FILE --mode replace",
                values={"view": view.name, "column": name, "found": str(found)},
            )
    keyed = held is not None and bool(held.contract.keys)
    root = place.uri.replace("s3://", "s3a://", 1) if isinstance(place, Remote) else str(place.resolve())
    return Behind(
        root=root,
        files=[
            StoredFile(number, name.rpartition("/")[2], f"{root}/{name}" if isinstance(place, Remote) else str(Path(name).resolve()), added[number])
            for number in version.parts
            for name in files[number]
        ],
        kinds=kinds,
        entities=view.entities,
        at=view.at,
        created=view.created,
        once=None if keyed or not view.aggregates else view.reads,
        first_source=first[0].name if first else "",
        excluded=out,
        ttl_us=None if view.ttl_s is None else round(view.ttl_s * 1e6),
        newest=newest,
        wanted=_wanted(view),
    )  # fmt: skip


def _excluded(each: exclusions.Exclusion) -> Excluded:
    since, until = (None if moment is None else round(moment * 1e6) for moment in (each.since, each.until))
    return Excluded(each.source, each.time, since, until)


def _wanted(view: FeatureView) -> list[Wanted]:
    def micros(seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * SECOND_US)

    return [
        *(Wanted(column=name) for name in view.columns),
        *(
            Wanted(each.column, each.function, micros(each.last_s), micros(each.every_s), each.n)
            for each in view.aggregates
            if each.function != "ratio"
        ),
    ]


def _types(view: FeatureView, kinds: Any) -> dict[str, pa.DataType]:
    """Return the type of each column and aggregate, as it is here."""
    of: dict[str, pa.DataType] = {name: STORED[kinds[name]] for name in view.columns}
    for each in view.aggregates:
        kind: Kind | None = kinds.get(each.column or "")
        of[each.name] = STORED[kind] if each.function in ("first", "latest") and kind is not None else STORED[kind_of(each.function, kind)]
    return of


def _answer(folder: Path) -> pa.Table:
    from pyarrow import dataset  # loads pandas where that is installed: a second that only reading needs to spend

    files = sorted(str(path) for path in folder.glob("*.parquet"))
    return dataset.dataset(files, format="parquet").to_table()


def _finished(view: FeatureView, answer: pa.Table, types: dict[str, pa.DataType]) -> list[pa.ChunkedArray]:
    """Return the answer's columns in our types: no infinity, no negative zero in what was computed, and the ratios."""
    given = [name for name in answer.column_names if name != "row"]
    asked = [*view.columns, *(each.name for each in view.aggregates if each.function != "ratio")]
    found = {name: answer.column(column).cast(types[name]) for name, column in zip(asked, given, strict=True)}
    for each in view.aggregates:
        if each.function == "ratio":
            above, below = (found[name].cast(pa.float64()) for name in each.of)
            found[each.name] = pc.divide(above, pc.if_else(pc.equal(below, 0.0), None, below))
        if each.function not in ("first", "latest") and pa.types.is_floating(types[each.name]):
            values = found[each.name]
            found[each.name] = pc.add(pc.if_else(pc.is_finite(values), values, None), 0.0)
    return [found[name] for name in (*view.columns, *(each.name for each in view.aggregates))]
