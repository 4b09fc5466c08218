"""Datasets, their quarantine and their versions without a subject's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.data import forgotten, hashing, storage, store, tables
from kaizenml.data.dataset import Column, Contract, Dataset, DatasetVersion
from kaizenml.data.keys import Keys
from kaizenml.data.kinds import PART, SOURCE, VERSION
from kaizenml.data.profile import merge, profile, without_values
from kaizenml.data.storage import Place
from kaizenml.features.view import entity_key
from kaizenml.governance.forgetting import rewriting, subject
from kaizenml.governance.forgetting.rewriting import File
from kaizenml.governance.forgetting.wish import Wish

_BIG = 2_000_000  # rows of a part that is described piece by piece, so that memory stays bounded
Forms = Mapping[str, list[str]]


def holding(ctx: Context, forms: Forms) -> list[Dataset]:
    """Return the datasets that have a column in which a subject could stand."""
    with ctx.catalog.read() as connection:
        return [each for each in store.every(connection) if subject.values_by_column(whole(connection, each), forms)]


def look(ctx: Context, dataset: Dataset, forms: Forms) -> list[File]:
    """Return the files of a dataset that hold rows of the subjects."""
    return rewriting.look(tables.folder(ctx, dataset.name), PART, lambda types: expression(ctx, dataset, forms, types))


def look_aside(ctx: Context, dataset: Dataset, forms: Forms) -> list[File]:
    """Return the files of a dataset's quarantine that hold rows of the subjects."""
    return rewriting.look(tables.quarantine_folder(ctx, dataset.name), VERSION, lambda types: expression(ctx, dataset, forms, types))


def expression(ctx: Context, dataset: Dataset, forms: Forms, types: Mapping[str, pa.DataType]) -> Any | None:
    """Return the filter for the subjects' rows in a table of the dataset; None where it has no such column."""
    with ctx.catalog.read() as connection:
        return subject.expression(types, subject.values_by_column(whole(connection, dataset), forms))


def read(ctx: Context, dataset: Dataset, files: list[File], forms: Forms, columns: list[str]) -> pa.Table:
    """Return these columns of the subjects' rows."""
    at = tables.folder(ctx, dataset.name)
    there = storage.open_table(at)
    assert there is not None  # files were found in it
    types = rewriting.types_of(there)
    have = [name for name in columns if name in types]
    found = list(rewriting.rows(at, [file.path for file in files], expression(ctx, dataset, forms, types), have))
    return pa.concat_tables(found) if found else pa.table({name: pa.array([], types[name]) for name in have})


def only_theirs(
    ctx: Context, dataset: Dataset, files: list[File], forms: Forms, columns: Iterable[str]
) -> tuple[dict[str, list[Any]], dict[str, list[float]]]:
    """Return what tells who it was: by column the values that stand in rows of the subjects and in no other.

    Returns
    -------
    These values, and of columns of numbers the smallest and the largest that are left.
    """
    at = tables.folder(ctx, dataset.name)
    there = storage.open_table(at)
    if there is None or not files:
        return {}, {}
    types = rewriting.types_of(there)
    theirs: Any = expression(ctx, dataset, forms, types)
    wanted = [name for name in columns if name in types]
    rows = read(ctx, dataset, files, forms, wanted)
    names = [name for name, _ in rewriting.live(there, PART)]
    found: dict[str, list[Any]] = {}
    ends: dict[str, list[float]] = {}
    for name in wanted:
        values = pc.unique(rows[name].drop_null())
        for other in rewriting.rows(at, names, ~theirs & pc.is_in(pc.field(name), value_set=values), [name]):
            if not len(values):
                break
            values = values.filter(pc.invert(pc.is_in(values, value_set=pc.unique(other[name]))))
        if len(values):
            found[name] = [_plain(value) for value in values.to_pylist()]
            if pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
                pairs = [pc.min_max(other[name]).as_py() for other in rewriting.rows(at, names, ~theirs, [name])]
                known = [pair for pair in pairs if pair["min"] is not None]
                ends[name] = [float(min(p["min"] for p in known)), float(max(p["max"] for p in known))] if known else []
    return found, {name: pair for name, pair in ends.items() if pair}


def purge(ctx: Context, dataset: Dataset, wish: Wish, keys: Keys, save: Callable[[], None]) -> None:
    """Take the subjects' rows out of a dataset and its quarantine, and renew the versions that held them. Writers of the dataset wait.

    The parts to renew stand in the wish before a row goes, so that a killed purge is finished by the next one; ``save`` keeps it.
    """
    with tables.locked(ctx, dataset.name):
        forms = wish.forms(keys)
        place, aside = tables.folder(ctx, dataset.name), tables.quarantine_folder(ctx, dataset.name)
        theirs_now = look(ctx, dataset, forms)
        known = set(wish.parts.get(dataset.name, []))
        if late := {int(file.partition) for file in theirs_now} - known:  # added after the look
            wish.parts[dataset.name] = sorted(known | late)
            save()
        for at, by, files in ((place, PART, theirs_now), (aside, VERSION, look_aside(ctx, dataset, forms))):
            there = storage.open_table(at)
            if there is not None and files:
                theirs = expression(ctx, dataset, forms, rewriting.types_of(there))
                rewriting.take_out(at, by, files, theirs, keep_empty=by == PART)
        if wish.parts.get(dataset.name):
            renew(ctx, dataset.name, set(wish.parts[dataset.name]), keys, link=(wish.number, wish.asked_at))
        rewriting.scrub(place)
        rewriting.scrub(aside)


def renew(
    ctx: Context, name: str, touched: set[int], keys: Keys, *, link: tuple[int, float],
    edited: Callable[[DatasetVersion], DatasetVersion] = lambda version: version,
) -> list[str]:  # fmt: skip
    """Write rows, hash and profile of every version whose parts were rewritten as they are now, each linked to its old hash.

    Parameters
    ----------
    touched : the parts.
    link : the number and the time of what was done, for the links.
    edited : returns a version with what else is different now; columns that it leaves out are in no part any more.

    Returns
    -------
    The versions that have another hash now.
    """
    at = tables.folder(ctx, name)
    with ctx.catalog.read() as connection:
        before = {each.number: each for each in store.versions(connection, name)}
        parts = store.parts(connection, name)
    versions = {number: edited(tables.as_stored(ctx, version)) for number, version in before.items()}
    there = storage.open_table(at)
    assert there is not None  # it has parts
    rows = _rows_of(there)
    for number in touched & parts.keys():
        columns = [column for column in parts[number].columns if column == SOURCE or column in versions[number].columns]
        kinds = tables.kinds_of(versions[number], columns)
        found = tables.part_hash(at, number, kinds, blocks=hashing.in_blocks(parts[number].hash))
        parts[number] = store.Part(number, found, columns)
    first = _first_source(ctx, name)
    renewed: dict[int, DatasetVersion] = {}
    for number, version in sorted(versions.items()):
        if touched.isdisjoint(version.parts):
            continue
        onto = version.parts[-2] if len(version.parts) > 1 else None
        base = None if onto is None else renewed.get(onto, versions[onto])
        now = msgspec.structs.replace(
            version,
            rows=sum(rows.get(part, 0) for part in version.parts),
            hash=hashing.version_hash(version.columns, [parts[part].hash for part in version.parts]),
            profile=_described(at, version, base, rows.get(number, 0)),
            sources=_sources(at, version, base, first) if version.sources else {},
        )
        if now.hash != version.hash:
            links = forgotten.extended(
                version.forgotten, keys, f"dataset {version.ref}", number=link[0], at=link[1], rows=version.rows - now.rows,
                before=version.hash, after=now.hash,
            )  # fmt: skip
            now = msgspec.structs.replace(now, forgotten=links)
        renewed[number] = now
    with ctx.catalog.write() as connection:
        for number, version in renewed.items():
            store.renew(connection, version, parts[number])
    return [version.ref for number, version in renewed.items() if version.hash != before[number].hash]


def _described(at: Place, version: DatasetVersion, base: DatasetVersion | None, rows: int) -> dict[str, Any]:
    """Return the profile of a version: of the version that it was added to, merged with that of its own part."""
    hidden = [*version.personal, *version.undecided]
    parts, kinds = [version.number], version.columns
    own: dict[str, Any] = {}
    seen = 0
    for some in tables.batches_of_parts(at, parts, kinds) if rows > _BIG else [tables.read_parts(at, parts, kinds)]:
        now = profile(some, kinds, hidden=hidden)
        own, seen = merge(own, seen, now, some.num_rows) if seen else now, seen + some.num_rows
    if base is None:
        return own
    before = without_values({name: entry for name, entry in base.profile.items() if name in version.columns}, hidden)
    return merge(before, base.rows, own, rows)


def _sources(at: Place, version: DatasetVersion, base: DatasetVersion | None, first: str) -> dict[str, int]:
    column = tables.read_parts(at, [version.number], {SOURCE: "text"})[SOURCE]
    own = {entry["values"]: entry["counts"] for entry in pc.value_counts(pc.fill_null(column, first)).to_pylist()}
    before = base.sources or {first: base.rows} if base is not None else {}
    return {name: count for name in {**before, **own} if (count := before.get(name, 0) + own.get(name, 0))}


def _first_source(ctx: Context, name: str) -> str:
    with ctx.catalog.read() as connection:
        known = store.sources(connection, name)
    return known[0].name if known else "main"


def _rows_of(table: Any) -> dict[int, int]:
    """Return how many rows each part holds, by the table's log."""
    actions = pa.table(table.get_add_actions(flatten=True))
    counts: dict[int, int] = {}
    for number, rows in zip(actions[f"partition.{PART}"].to_pylist(), actions["num_records"].to_pylist(), strict=True):
        counts[int(number)] = counts.get(int(number), 0) + rows
    return counts


def key_values(rows: pa.Table, column: str) -> list[str]:
    """Return a column's values as requests write them."""
    return [text for value in pc.unique(rows[column]).to_pylist() if (text := entity_key(value)) is not None]


def whole(connection: Any, dataset: Dataset) -> Contract:
    """Return the contract with the columns that only older versions have: their rows are still there."""
    known = {column.name for column in dataset.contract.columns}
    older: dict[str, Any] = {}
    for version in store.versions(connection, dataset.name):
        older |= {name: kind for name, kind in version.columns.items() if name not in known}
    columns = [*dataset.contract.columns, *(Column(name=name, kind=kind) for name, kind in older.items())]
    return msgspec.structs.replace(dataset.contract, columns=columns)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value
