"""How rows become a version: held against the contract and the rows that are there, given their source, described."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from kaizenml import code
from kaizenml.context import Context
from kaizenml.data import addition, contract_file, provenance, store, tables
from kaizenml.data import contract as rules
from kaizenml.data.dataset import Column, Contract, Dataset, DatasetVersion, Trust
from kaizenml.data.found import Found
from kaizenml.data.hashing import version_hash
from kaizenml.data.keys import Keys
from kaizenml.data.kinds import SOURCE
from kaizenml.data.people import personal
from kaizenml.data.profile import merge, without_values
from kaizenml.errors import Conflict, ContractBroken


def promise_of(ctx: Context, name: str, dataset: Dataset | None, mode: str, *, key: str | None, time: str | None) -> Contract | None:
    """Return the contract that holds: the file's, else the catalog's; None when there is neither."""
    path = contract_file.path_of(ctx.root, name)
    written = contract_file.read(path)
    promise = written or (dataset.contract if dataset else None)
    promise = personal.as_stored(promise) if promise else None
    if promise is None:
        return None
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


def learn(ctx: Context, name: str, rows: pa.Table, *, key: str | None, time: str | None) -> Contract:
    """Learn the contract of a new dataset from its first rows."""
    task = ctx.settings.task
    if task is not None and task.dataset == name:
        key, time = key or task.key, time or task.time
    learnt = rules.infer(rows, key=_keys(key, rows.column_names), time=time)
    return personal.as_stored(personal.proposed(learnt, rows, used=personal.roles(ctx, name), actor=ctx.actor))


def _keys(key: str | None, columns: list[str]) -> str | list[str] | None:
    """Read a key as it is given: a column, or several with commas between them."""
    return key if key is None or key in columns or "," not in key else [name.strip() for name in key.split(",")]


def hold(
    ctx: Context,
    name: str,
    rows: pa.Table,
    promise: Contract,
    onto: DatasetVersion | None,
    *,
    before: addition.Before,
    partial: bool,
    so_far: rules.SoFar,
) -> rules.Checked:
    """Check rows against the contract, and against the rows that are there; propose what becomes of new columns that tell of persons."""
    if onto is not None:
        personal.check_same(promise, onto)
    try:
        checked = rules.check(rows, promise, partial=partial, before=before, so_far=so_far)
    except ContractBroken as error:
        raise _of_dataset(ctx, name, error) from None
    fresh = {column.name for column in checked.contract.columns} - {column.name for column in promise.columns}
    if not fresh:
        return checked
    contract = personal.proposed(checked.contract, checked.good, used=personal.roles(ctx, name), actor=ctx.actor, only=fresh)
    return checked._replace(contract=personal.as_stored(contract), changes=checked.changes + personal.told(contract, fresh))


def _of_dataset(ctx: Context, name: str, error: ContractBroken) -> ContractBroken:
    path = contract_file.path_of(ctx.root, name)
    remedy = f"mend the source; if it means to change, edit {path}, then add with mode replace; if rows may lack columns, add them as partial"
    return ContractBroken(f"dataset {name!r}: {error.what}", remedy=remedy, values=error.values | {"dataset": name})


def refuse_absent(ctx: Context, name: str, absent: list[Column], contract: Contract) -> None:
    """Raise ContractBroken where a source that may leave columns out of a row had some in none."""
    absent = [column for column in absent if column.name not in personal.dropped(contract)]
    if absent:
        raise _of_dataset(ctx, name, rules.broken(absent, {}, {"added": []}))


def refuse(ctx: Context, name: str, found: Found) -> None:
    """Raise ContractBroken where the contract refuses the whole addition, or nothing of it would be left."""
    path = contract_file.path_of(ctx.root, name)
    reasons = dict(found.reasons.most_common(50))
    if found.refusals:
        told = [rule if rule[0].isdigit() or not bad else f"{rule} ({bad:,} row{'s' if bad != 1 else ''})" for rule, bad in found.refusals.items()]
        raise ContractBroken(
            f"dataset {name!r}: the contract refuses the {found.rows:,} rows: {'; '.join(told)}",
            remedy=f"mend the source, or edit {path}",
            values={"dataset": name, "rows": found.rows, "refused": dict(found.refusals), "reasons": reasons},
        )
    if not found.good and found.first_bad is not None:
        row, first = found.first_bad
        raise ContractBroken(
            f"dataset {name!r}: none of the {found.rows:,} rows keeps the contract; row {row}: {first}",
            remedy=f"mend the source, or edit {path}",
            values={"dataset": name, "rows": found.rows, "reasons": reasons},
        )


def gather(ctx: Context, promise: Contract, onto: DatasetVersion | None, keys: Keys | None, *, rows: bool = True) -> addition.Before:
    """Gather what the contract compares an addition with; without ``rows``, not the rows that are there."""
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
        rows=tables.read(ctx, onto.ref, names) if names and rows else None,
        stored=lambda given: personal.protect(given, promise, keys),
        newest=datetime.fromisoformat(newest) if isinstance(newest, str) else None,
        last=last,
    )


def with_sources(checked: rules.Checked, names: pa.ChunkedArray, first: int = 0) -> rules.Checked:
    """Give good and bad rows alike the name of the source that each came from; ``first`` rows were given before these."""
    good = checked.good.append_column(SOURCE, names.take(checked.rows))
    bad = checked.bad
    if bad.num_rows:
        bad = bad.append_column(SOURCE, names.take(pc.subtract(bad["_row"], 1 + first)))
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
    ctx: Context, onto: DatasetVersion | None, found: Found, part: store.Part, *, name: str, parts: dict[int, store.Part], source: str
) -> DatasetVersion:
    """Return the version that the rows which were found make, on top of ``onto``."""
    decided = personal.decisions(found.contract)
    columns = {column.name: column.kind for column in found.contract.columns if column.name not in personal.dropped(found.contract)}
    before_undecided = onto.undecided if onto is not None else {}
    undecided = {column: said for column, said in before_undecided.items() if column in columns and column not in decided}
    decide = f"decide: kaizen data protect {name} --decision drop|pseudonym|keep --column"
    undecided |= {column: f"{why}; {decide} {column}" for column, why in found.undecided.items()}
    described = without_values(found.profile, undecided)  # shown nowhere, until somebody says that they may be
    if onto is not None:
        before_them = without_values({name: entry for name, entry in onto.profile.items() if name in columns}, [*decided, *undecided])
        described = merge(before_them, onto.rows, described, found.good)
    before = onto.parts if onto else []
    return DatasetVersion(
        dataset=name,
        number=part.number,
        parts=[*before, part.number],
        rows=(onto.rows if onto else 0) + found.good,
        hash=version_hash(columns, [*(parts[number].hash for number in before), part.hash]),
        columns=columns,
        source=source,
        quarantined=found.bad,
        code=code.commit(ctx.root),
        created_at=ctx.clock.timestamp(),
        profile=described,
        personal={column: each.decision for column, each in decided.items()},
        key_print=found.keys.fingerprint if found.keys else "",
        warnings=found.told,
        contract=found.contract,
        undecided=undecided,
    )


def count_reasons(bad: pa.Table) -> dict[str, int]:
    """Count bad rows by the rule that they break first, the most frequent first."""
    counts = Counter(bad["_rule"].to_pylist()) if bad.num_rows else Counter()
    return dict(counts.most_common(50))
