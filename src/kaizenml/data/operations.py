"""What can be done with datasets."""

from __future__ import annotations

import builtins
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml import code
from kaizenml.context import Context
from kaizenml.data import addition, contract_file, personal, provenance, sources, store, tables
from kaizenml.data import contract as rules
from kaizenml.data.dataset import Contract, Dataset, DatasetVersion, Trust
from kaizenml.data.keys import Keys
from kaizenml.data.kinds import SOURCE, VERSION, normalise, notes_of
from kaizenml.data.profile import merge, profile, without_values
from kaizenml.errors import Conflict, ContractBroken, InvalidData, UsageError
from kaizenml.refs import check_name

__all__ = ["add", "check", "list", "quarantine", "show", "versions"]

_MODES = ("append", "replace")


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset with one of its versions."""

    dataset: Dataset
    version: DatasetVersion
    quarantined: int  # rows in quarantine over all versions


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """How a file or table stands to a dataset's contract, without adding it."""

    dataset: str
    source: str
    rows: int
    good: int
    bad: int
    reasons: dict[str, int]  # rule broken first, with how many rows
    samples: builtins.list[dict[str, Any]]  # a few bad rows, with `_row` (from 1) and `_reason`
    changes: builtins.list[str]  # how the contract would grow
    contract: Contract  # as it would be
    warnings: dict[str, int] = {}  # rules of severity `warn` that are broken, with how many rows


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that were kept out of a dataset."""

    dataset: str
    rows: int
    reasons: dict[str, int]
    samples: builtins.list[dict[str, Any]]  # newest first; with `_version`, `_row` (of that addition, from 1) and `_reason`


def add(
    ctx: Context,
    name: str,
    source: str | None = None,
    *,
    table: pa.Table | None = None,
    mode: str = "append",
    trust: str | None = None,
    key: str | None = None,
    time: str | None = None,
    partial: bool = False,
    origin: str | None = None,
    source_name: str | None = None,
    source_column: str | None = None,
    once: str | None = None,
    why: str = "",
) -> DatasetVersion:
    """Add rows to a dataset as its next version.

    The first addition makes the dataset and learns its contract, which is written to ``contracts/NAME.toml``; later ones are held
    against that file. Bad rows go to quarantine with the reason; new columns are taken and the file is extended.

    Parameters
    ----------
    name : the dataset.
    source : a file; relative to the working directory, or to the project.
    table : rows instead of a file: an Arrow table, or a pandas or Polars frame.
    mode : ``append`` keeps the rows of the newest version, ``replace`` starts over with these. Older versions stay readable in both.
    trust : of the source: ``internal``, ``partner`` or ``public``; default ``internal`` for a new source, else unchanged.
    key : for a new dataset, the column that identifies a row, or several, ``origin,day``; default the task's key when the dataset is the task's.
    time : for a new dataset, the column that says when a row happened; default the task's time likewise.
    partial : columns may be absent; those become null.
    origin : where the rows come from, in words, when it is not the file.
    source_name : the source that these rows come from; default the dataset's first, which is called ``main``. Each row keeps it.
    source_column : column that says which source a row came from, where one table holds rows of several.
    once : a token; a second call with the same token adds nothing and returns the version that the first one made.
    why : the reason, for the record.

    Returns
    -------
    The new version; ``quarantined`` says how many of the rows given were kept out.

    Raises
    ------
    NotFound, InvalidData : no such file, or it cannot be read; with line and value.
    ContractBroken : a column is gone or its kind changed, or every row is bad. Nothing is written.
    StorageFull : no room; nothing is half-written.

    Examples
    --------
    >>> add(ctx, "orders", "orders.csv", key="id", time="ordered_at")  # doctest: +SKIP
    """
    check_name(name)
    _check_choice("mode", mode, _MODES)
    if trust is not None:
        _check_choice("trust", trust, get_args(Trust))
    if once is not None:
        with ctx.catalog.read() as connection:
            if made := store.added_once(connection, name, once):
                return made
    if source_name is not None:
        provenance.check_source_name(source_name)
    rows, came_from = _incoming(ctx, source, table, origin)
    with tables.locked(ctx, name):
        with ctx.catalog.read() as connection:
            if once is not None and (made := store.added_once(connection, name, once)):
                return made
            dataset, newest = store.find(connection, name), store.version(connection, name, None)
            parts = store.parts(connection, name)
        tables.clean(tables.folder(ctx, name), set(parts))
        tables.clean(tables.quarantine_folder(ctx, name), set(parts), by=VERSION)
        promise = _promise(ctx, name, dataset, rows, mode, key=key, time=time)
        onto = newest if mode == "append" else None
        keys = personal.keys_for(ctx, promise, onto)
        checked = _checked(ctx, name, rows, promise, onto, keys=keys, partial=partial)
        number = newest.number + 1 if newest else 1
        checked = _with_sources(checked, provenance.names_of(rows, source_name or provenance.main_of(dataset), source_column))
        part = store.Part(number, tables.content_hash(checked.good), checked.good.column_names)
        version = _next_version(ctx, name, onto, checked, part, parts=parts, source=came_from, notes=notes_of(rows), keys=keys)
        given = provenance.counted(checked.good[SOURCE])
        version = msgspec.structs.replace(version, sources=provenance.rows_by_source(dataset, onto, given))
        tables.append_part(tables.folder(ctx, name), checked.good, number)
        if checked.bad.num_rows:
            tables.append_part(tables.quarantine_folder(ctx, name), checked.bad, number, by=VERSION)
        dataset = _grown(dataset, version, checked.contract, given=[*given], trust=msgspec.convert(trust, Trust) if trust else None)
        # the file goes last: if it lags behind after a crash, the next addition extends it again
        with contract_file.written(contract_file.path_of(ctx.root, name), checked.contract, name), ctx.catalog.write() as connection:
            store.save(connection, dataset)
            store.add_version(connection, version, part, once)
            ctx.record(
                connection, "data.added", version.ref, why,
                mode=mode, source=came_from, sources=given, rows=checked.good.num_rows, total=version.rows, quarantined=version.quarantined,
                hash=version.hash, changes=checked.changes, warnings=checked.warnings,
            )  # fmt: skip
    return version


def list(ctx: Context) -> builtins.list[Dataset]:
    """List the datasets.

    Returns
    -------
    Every dataset with its contract, by name.
    """
    with ctx.catalog.read() as connection:
        return store.every(connection)


def show(ctx: Context, dataset: str) -> Detail:
    """Show a dataset with one version, its profile included.

    Parameters
    ----------
    dataset : ``name`` (the newest version) or ``name@number``.

    Raises
    ------
    NotFound : no such dataset or version.
    """
    version = tables.version(ctx, dataset)
    with ctx.catalog.read() as connection:
        found = store.find(connection, version.dataset)
        kept_out = sum(one.quarantined for one in store.versions(connection, version.dataset))
    assert found is not None  # versions refer to their dataset
    return Detail(dataset=found, version=version, quarantined=kept_out)


def versions(ctx: Context, dataset: str) -> builtins.list[DatasetVersion]:
    """List a dataset's versions, newest first.

    Parameters
    ----------
    dataset : its name.

    Raises
    ------
    NotFound : no such dataset.
    """
    tables.version(ctx, dataset)
    with ctx.catalog.read() as connection:
        return store.versions(connection, dataset.partition("@")[0])[::-1]


def check(ctx: Context, name: str, source: str | None = None, *, table: pa.Table | None = None, partial: bool = False) -> Check:
    """Hold a file, or the rows that are there, against a dataset's contract, without adding anything.

    Parameters
    ----------
    name : the dataset; for a new one, the contract that would be learnt is shown.
    source : a file; relative to the working directory, or to the project. Without one the dataset's newest version is held against the
        contract as its file is now.
    table : rows instead of a file.
    partial : columns may be absent.

    Returns
    -------
    How many rows would be kept out and why. Exit code 3 when the contract refuses the rows as a whole.

    Raises
    ------
    ContractBroken : a column is gone or its kind changed, the contract refuses the rows, or every row is bad.

    Examples
    --------
    kaizen data check orders new.csv
    """
    check_name(name)
    stored = source is None and table is None
    with ctx.catalog.read() as connection:
        dataset, newest = store.find(connection, name), store.version(connection, name, None)
    if stored:
        newest = tables.version(ctx, name)  # names the nearest when there is none
        rows, came_from = tables.read(ctx, newest.ref), newest.ref
    else:
        rows, came_from = _incoming(ctx, source, table, None)
    promise = _promise(ctx, name, dataset, rows, "append", key=None, time=None)
    if stored:
        # limits are of additions; what is stored of persons has the form that was decided
        promise, newest = personal.as_stored(msgspec.structs.replace(promise, rows=None)), None
    checked = _held(ctx, name, rows, promise, newest, keys=personal.keys_for(ctx, promise, newest), partial=partial)
    return Check(
        dataset=name,
        source=came_from,
        rows=rows.num_rows,
        good=checked.good.num_rows,
        bad=checked.bad.num_rows,
        reasons=_reasons(checked.bad),
        samples=personal.masked(checked.bad.slice(0, 10), promise).to_pylist(),
        changes=checked.changes,
        contract=checked.contract,
        warnings=checked.warnings,
    )


def quarantine(ctx: Context, dataset: str, *, limit: int = 20) -> Quarantine:
    """Show the rows that a dataset's contract kept out, and why.

    Parameters
    ----------
    dataset : ``name`` for all versions, or ``name@number`` for one addition.
    limit : sample rows to show, 0 to 10000.

    Raises
    ------
    NotFound : no such dataset or version.
    """
    if not 0 <= limit <= 10_000:
        raise UsageError(f"limit {limit} is not between 0 and 10000", remedy="--limit 20", values={"limit": limit})
    version = tables.version(ctx, dataset)
    with ctx.catalog.read() as connection:
        known = set(store.parts(connection, version.dataset))
        found = store.find(connection, version.dataset)
    assert found is not None  # versions refer to their dataset
    rows = tables.read_quarantine(tables.quarantine_folder(ctx, version.dataset), {version.number} if "@" in dataset else known)
    samples = rows.sort_by([("_version", "descending"), ("_row", "ascending")]).slice(0, limit) if rows.num_rows else rows
    shown = personal.masked(samples, found.contract).to_pylist()
    return Quarantine(dataset=version.dataset, rows=rows.num_rows, reasons=_reasons(rows), samples=shown)


def _incoming(ctx: Context, source: str | None, table: Any, origin: str | None) -> tuple[pa.Table, str]:
    if (source is None) == (table is None):
        raise UsageError("give a file or a table, one of them", remedy="kaizen data add NAME FILE", values={"source": source})
    if source is None:
        rows = normalise(table)
        if not rows.num_rows:
            raise InvalidData("the table has no rows", remedy="give at least one row", values={"columns": rows.column_names[:50]})
        return rows, origin or "python"
    path = Path(source).expanduser()
    if not path.is_absolute() and not path.exists() and (ctx.root / path).exists():
        path = ctx.root / path
    rows = sources.load(path)
    absolute = path.resolve()
    return rows, origin or str(absolute.relative_to(ctx.root) if absolute.is_relative_to(ctx.root) else absolute)


def _promise(ctx: Context, name: str, dataset: Dataset | None, rows: pa.Table, mode: str, *, key: str | None, time: str | None) -> Contract:
    """Return the contract that holds: the file's, else the catalog's, else one learnt from the rows."""
    path = contract_file.path_of(ctx.root, name)
    written = contract_file.read(path)
    promise = written or (dataset.contract if dataset else None)
    promise = personal.as_stored(promise) if promise else None
    if promise is None:
        task = ctx.settings.task
        if task is not None and task.dataset == name:
            key, time = key or task.key, time or task.time
        return rules.infer(rows, key=_keys(key, rows.column_names), time=time)
    for role, asked, holds in (("key", key, ",".join(promise.keys) or None), ("time", time, promise.time)):
        if asked is not None and asked != holds:
            raise Conflict(
                f"the contract of {name!r} has {f'{role} {holds!r}' if holds else f'no {role}'}, not {asked!r}",
                remedy=f'write {role} = "{asked}" into {path}, or leave --{role} out',
                values={"asked": asked, "holds": holds},
            )
    if dataset is not None and mode == "append" and (narrow := rules.narrowed(dataset.contract, promise)):
        raise ContractBroken(
            f"{path} gives {', '.join(map(repr, narrow))} a kind that older rows may not have",
            remedy=f"add with mode replace, or set the kind back in {path}",
            values={"columns": narrow},
        )
    return promise


def _keys(key: str | None, columns: builtins.list[str]) -> str | builtins.list[str] | None:
    """Read a key as it is given: a column, or several with commas between them."""
    return key if key is None or key in columns or "," not in key else [name.strip() for name in key.split(",")]


def _held(
    ctx: Context, name: str, rows: pa.Table, promise: Contract, onto: DatasetVersion | None, *, keys: Keys | None, partial: bool
) -> rules.Checked:
    """Check rows against the contract, and against the rows that are there."""
    if onto is not None:
        personal.check_same(promise, onto)
    try:
        checked = rules.check(rows, promise, partial=partial, before=_before(ctx, promise, onto, keys))
    except ContractBroken as error:
        path = contract_file.path_of(ctx.root, name)
        remedy = f"mend the source; if it means to change, edit {path}, then add with mode replace; if rows may lack columns, add them as partial"
        raise ContractBroken(f"dataset {name!r}: {error.what}", remedy=remedy, values=error.values | {"dataset": name}) from None
    _refuse(ctx, name, rows, checked)
    return checked


def _refuse(ctx: Context, name: str, rows: pa.Table, checked: rules.Checked) -> None:
    """Raise ContractBroken where the contract refuses the whole addition, or nothing of it would be left."""
    path = contract_file.path_of(ctx.root, name)
    if checked.refusals:
        told = [rule if rule[0].isdigit() or not bad else f"{rule} ({bad:,} row{'s' if bad != 1 else ''})" for rule, bad in checked.refusals.items()]
        raise ContractBroken(
            f"dataset {name!r}: the contract refuses the {rows.num_rows:,} rows: {'; '.join(told)}",
            remedy=f"mend the source, or edit {path}",
            values={"dataset": name, "rows": rows.num_rows, "refused": checked.refusals, "reasons": _reasons(checked.bad)},
        )
    if not checked.good.num_rows:
        first = checked.bad["_reason"][0].as_py()
        raise ContractBroken(
            f"dataset {name!r}: none of the {rows.num_rows:,} rows keeps the contract; row {checked.bad['_row'][0].as_py()}: {first}",
            remedy=f"mend the source, or edit {path}",
            values={"dataset": name, "rows": rows.num_rows, "reasons": _reasons(checked.bad)},
        )


def _before(ctx: Context, promise: Contract, onto: DatasetVersion | None, keys: Keys | None) -> addition.Before:
    """Gather what the contract compares an addition with."""
    if onto is None:
        return addition.Before(ctx.clock.now())
    sealed = {name for name, form in onto.personal.items() if form == "encrypt"}  # equal values are stored differently
    names = sorted({name for one in promise.told_apart for name in one.columns if name in onto.columns and name not in sealed})
    newest = onto.profile.get(promise.time or "", {}).get("max")
    last = None
    if promise.rows is not None:
        with ctx.catalog.read() as connection:
            known = {len(one.parts): one for one in store.versions(connection, onto.dataset) if one.parts == onto.parts[: len(one.parts)]}
        older = known.get(len(onto.parts) - 1)
        last = onto.rows - (older.rows if older else 0) + onto.quarantined
    return addition.Before(
        now=ctx.clock.now(),
        ref=onto.ref,
        rows=tables.read(ctx, onto.ref, names) if names else None,
        stored=lambda given: personal.protect(given, promise, keys),
        newest=datetime.fromisoformat(newest) if isinstance(newest, str) else None,
        last=last,
    )


def _checked(
    ctx: Context, name: str, rows: pa.Table, promise: Contract, onto: DatasetVersion | None, *, keys: Keys | None, partial: bool
) -> rules.Checked:
    """Check rows and carry out the decisions on personal columns, of good rows and of bad ones."""
    checked = _held(ctx, name, rows, promise, onto, keys=keys, partial=partial)
    return checked._replace(good=personal.protect(checked.good, promise, keys), bad=personal.protect(checked.bad, promise, keys))


def _with_sources(checked: rules.Checked, names: pa.ChunkedArray) -> rules.Checked:
    """Give good and bad rows alike the name of the source that each came from."""
    good = checked.good.append_column(SOURCE, names.take(checked.rows))
    bad = checked.bad
    if bad.num_rows:
        bad = bad.append_column(SOURCE, names.take(pc.subtract(bad["_row"], 1)))
    return checked._replace(good=good, bad=bad)


def _grown(dataset: Dataset | None, version: DatasetVersion, contract: Contract, *, given: builtins.list[str], trust: Trust | None) -> Dataset:
    """Return the dataset as it is with this version, to which the sources ``given`` gave rows."""
    feeds = provenance.grown(dataset, given, location=version.source, trust=trust, at=version.created_at)
    return Dataset(
        name=version.dataset,
        contract=contract,
        source=dataset.source if dataset else version.source,
        trust=provenance.least_trust(feeds),
        created_at=dataset.created_at if dataset else version.created_at,
        sources=feeds,
    )


def _next_version(
    ctx: Context,
    name: str,
    onto: DatasetVersion | None,
    checked: rules.Checked,
    part: store.Part,
    *,
    parts: dict[int, store.Part],
    source: str,
    notes: dict[str, str],
    keys: Keys | None,
) -> DatasetVersion:
    decided = personal.decisions(checked.contract)
    columns = {column.name: column.kind for column in checked.contract.columns if column.name not in personal.dropped(checked.contract)}
    described = profile(checked.good, columns, {column: note for column, note in notes.items() if column not in decided}, hidden=decided)
    if onto is not None:
        before_them = without_values({name: entry for name, entry in onto.profile.items() if name in columns}, decided)
        described = merge(before_them, onto.rows, described, checked.good.num_rows)
    before = onto.parts if onto else []
    return DatasetVersion(
        dataset=name,
        number=part.number,
        parts=[*before, part.number],
        rows=(onto.rows if onto else 0) + checked.good.num_rows,
        hash=tables.version_hash(columns, [*(parts[number].hash for number in before), part.hash]),
        columns=columns,
        source=source,
        quarantined=checked.bad.num_rows,
        code=code.commit(ctx.root),
        created_at=ctx.clock.timestamp(),
        profile=described,
        personal={column: each.decision for column, each in decided.items()},
        key_print=keys.fingerprint if keys else "",
        warnings=checked.warnings,
    )


def _reasons(bad: pa.Table) -> dict[str, int]:
    """Count bad rows by the rule that they break first, the most frequent first."""
    counts = Counter(bad["_rule"].to_pylist()) if bad.num_rows else Counter()
    return dict(counts.most_common(50))


def _check_choice(what: str, found: str, choices: tuple[str, ...]) -> None:
    if found not in choices:
        raise UsageError(
            f"{what} {found!r} is none of {', '.join(choices)}", remedy=f"--{what} {choices[0]}", values={what: found, "known": [*choices]}
        )
