"""How rows become a version: held against the contract and the rows that are there, given their source, described."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from kaizenml import code
from kaizenml.context import Context
from kaizenml.data import addition, contract_file, personal, provenance, store, tables
from kaizenml.data import contract as rules
from kaizenml.data.dataset import Contract, Dataset, DatasetVersion, Trust
from kaizenml.data.keys import Keys
from kaizenml.data.kinds import SOURCE
from kaizenml.data.profile import merge, profile, without_values
from kaizenml.errors import Conflict, ContractBroken


def promise_of(ctx: Context, name: str, dataset: Dataset | None, rows: pa.Table, mode: str, *, key: str | None, time: str | None) -> Contract:
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


def _keys(key: str | None, columns: list[str]) -> str | list[str] | None:
    """Read a key as it is given: a column, or several with commas between them."""
    return key if key is None or key in columns or "," not in key else [name.strip() for name in key.split(",")]


def hold(
    ctx: Context, name: str, rows: pa.Table, promise: Contract, onto: DatasetVersion | None, *, keys: Keys | None, partial: bool
) -> rules.Checked:
    """Check rows against the contract, and against the rows that are there."""
    if onto is not None:
        personal.check_same(promise, onto)
    try:
        checked = rules.check(rows, promise, partial=partial, before=gather(ctx, promise, onto, keys))
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
            values={"dataset": name, "rows": rows.num_rows, "refused": checked.refusals, "reasons": count_reasons(checked.bad)},
        )
    if not checked.good.num_rows:
        first = checked.bad["_reason"][0].as_py()
        raise ContractBroken(
            f"dataset {name!r}: none of the {rows.num_rows:,} rows keeps the contract; row {checked.bad['_row'][0].as_py()}: {first}",
            remedy=f"mend the source, or edit {path}",
            values={"dataset": name, "rows": rows.num_rows, "reasons": count_reasons(checked.bad)},
        )


def gather(ctx: Context, promise: Contract, onto: DatasetVersion | None, keys: Keys | None) -> addition.Before:
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


def hold_and_protect(
    ctx: Context, name: str, rows: pa.Table, promise: Contract, onto: DatasetVersion | None, *, keys: Keys | None, partial: bool
) -> rules.Checked:
    """Check rows and carry out the decisions on personal columns, of good rows and of bad ones."""
    checked = hold(ctx, name, rows, promise, onto, keys=keys, partial=partial)
    return checked._replace(good=personal.protect(checked.good, promise, keys), bad=personal.protect(checked.bad, promise, keys))


def with_sources(checked: rules.Checked, names: pa.ChunkedArray) -> rules.Checked:
    """Give good and bad rows alike the name of the source that each came from."""
    good = checked.good.append_column(SOURCE, names.take(checked.rows))
    bad = checked.bad
    if bad.num_rows:
        bad = bad.append_column(SOURCE, names.take(pc.subtract(bad["_row"], 1)))
    return checked._replace(good=good, bad=bad)


def grown(dataset: Dataset | None, version: DatasetVersion, contract: Contract, *, given: list[str], trust: Trust | None) -> Dataset:
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


def next_version(
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


def count_reasons(bad: pa.Table) -> dict[str, int]:
    """Count bad rows by the rule that they break first, the most frequent first."""
    counts = Counter(bad["_rule"].to_pylist()) if bad.num_rows else Counter()
    return dict(counts.most_common(50))
