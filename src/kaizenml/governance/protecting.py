"""A decision on a personal column carried out on the rows that are there: every version, and the quarantine.

The decision goes into the contract's file first. Files are rewritten, what is not needed any more is deleted, and the versions get the
hash that their rows have now, with a signed link from the old one, as after a forgetting. Before the table changes the versions are told
which columns become text, so at any moment they read as they were or as they will be. Killed anywhere, it is ended by calling it again:
the file then says what was decided, and hiding what is hidden changes nothing.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from kaizenml.context import Context
from kaizenml.data import contract as rules
from kaizenml.data import contract_file, storage, store, tables
from kaizenml.data.dataset import Contract, Dataset, DatasetVersion, Decision, Personal
from kaizenml.data.keys import Keys, open_keys
from kaizenml.data.kinds import PART, VERSION
from kaizenml.data.people import detect, held, personal
from kaizenml.errors import Conflict, NotFound, UsageError, nearest
from kaizenml.features import store as views
from kaizenml.governance import lineage
from kaizenml.governance.forgetting import datasets, rewriting, sqlite
from kaizenml.registry import store as models
from kaizenml.training import model_file


class Protected(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision on personal columns changed of what was there."""

    dataset: str
    columns: dict[str, Decision]  # that were changed, and to what
    versions: builtins.list[str]  # that have another hash now
    rows: int  # rewritten, of all parts
    quarantined: int  # rows of the quarantine that were rewritten
    left: builtins.list[str] = []  # what holds the values besides, and what to do about it
    said: str = ""


def protect(ctx: Context, dataset: Dataset, column: str | None, decision: Decision | None, why: str) -> Protected:
    """Decide, where a column is given, and carry out what is decided; see ``operations.protect``."""
    name = dataset.name
    path = contract_file.path_of(ctx.root, name)
    with tables.locked(ctx, name):
        contract = contract_file.read(path) or dataset.contract
        if column is not None and decision is not None:
            contract = _decided(ctx, contract, dataset, column, decision=decision, why=why)
        contract = personal.as_stored(contract)
        rules.check_contract(contract)
        with ctx.catalog.read() as connection:
            versions = store.versions(connection, name)
            parts = store.parts(connection, name)
        changes = held.held(contract, versions)
        _check_possible(contract, changes)
        contract_file.write(path, contract, name)
        decided = personal.decisions(contract)
        of = {column: made.decision for column, made in decided.items() if column in changes}
        keys = open_keys(ctx.state)
        narrow = msgspec.structs.replace(contract, columns=[each for each in contract.columns if each.name in of or each.name == contract.subject])
        touched = {number for number, part in parts.items() if set(part.columns) & of.keys()}
        _announce(ctx, name, versions, contract, of)
        rows = _rewrite(ctx, name, narrow, set(of), keys, aside=False) if of else 0
        aside = _rewrite(ctx, name, narrow, set(of), keys, aside=True) if of else 0

        def edited(version: DatasetVersion) -> DatasetVersion:
            return _edited(version, contract, of, keys)

        renewed = datasets.renew(ctx, name, touched, keys, link=(_number(versions), ctx.clock.timestamp()), edited=edited) if of else []
        with ctx.catalog.write() as connection:
            store.save(connection, msgspec.structs.replace(dataset, contract=contract))
            _settle(ctx, connection, store.versions(connection, name))
            told = of or {each: decided[each].decision for version in versions for each in version.becoming if each in decided}
            told = told or ({column: decision} if column is not None and decision is not None else {})
            if told:
                ctx.record(connection, "data.protected", name, why, columns=told, versions=renewed, rows=rows, quarantined=aside)
        for place in (tables.folder(ctx, name), tables.quarantine_folder(ctx, name)):
            rewriting.scrub(place)
    # profiles of versions held extremes; a call that was killed may have left them, so also where nothing was rewritten now
    for database in sorted(ctx.state.glob("*.db")):
        sqlite.scrub(database)
    said = f"{len(renewed)} versions rewritten" if renewed else "every version holds its personal columns as decided"
    return Protected(dataset=name, columns=of, versions=renewed, rows=rows, quarantined=aside, left=_left(ctx, name, of, versions), said=said)


def _decided(ctx: Context, contract: Contract, dataset: Dataset, column: str, *, decision: Decision, why: str) -> Contract:
    """Return the contract with a decision on a column."""
    names = [each.name for each in contract.columns]
    if column not in names:
        close = nearest(column, names)
        what = f"the contract of {dataset.name!r} has no column {column!r}{f'; did you mean {close!r}?' if close else ''}"
        raise NotFound(what, remedy=f"kaizen data show {dataset.name}", values={"column": column, "nearest": close})
    old = next(each.personal for each in contract.columns if each.name == column)
    if decision == "keep" and not why.strip():
        raise UsageError(f"column {column!r} is kept for a reason, and there is none", remedy='--why "..."', values={"column": column})
    kind = old.kind if old is not None else _kind_of(ctx, dataset.name, column)
    made = Personal(kind=kind, decision=decision, reason=why or (old.reason if old else ""), by=ctx.actor)
    columns = [msgspec.structs.replace(each, personal=made) if each.name == column else each for each in contract.columns]
    return msgspec.structs.replace(contract, columns=columns)


def _kind_of(ctx: Context, name: str, column: str) -> str:
    """Return what a column holds of persons, by the first rows that have it; ``personal`` where that does not show."""
    newest = tables.version(ctx, name)
    for rows in tables.batches(ctx, newest.ref, [column]) if column in newest.columns else ():
        found = detect.column(column, rows[column])
        return found.kind if found is not None else "personal"
    return "personal"


def _check_possible(contract: Contract, changes: dict[str, list[DatasetVersion]]) -> None:
    """Raise Conflict where a form is asked for that cannot be made of what is there."""
    decided = personal.decisions(contract)
    for column, versions in changes.items():
        for version in versions:
            if decided[column].decision == "encrypt" and contract.subject is not None and held.form_in(version, contract.subject) != "keep":
                raise Conflict(
                    f"column {column!r} is decided encrypt, and {version.ref} holds {contract.subject!r}, whose keys it would take, hidden",
                    remedy="decide pseudonym or drop, or add all rows again with mode replace",
                    values={"column": column, "version": version.ref, "subject": contract.subject},
                )
            form, wanted = held.form_in(version, column), decided[column].decision
            if form != "keep" and wanted != "drop":
                raise Conflict(
                    f"column {column!r} is decided {wanted}, and {version.ref} holds it as {form}: its values cannot be brought back",
                    remedy=f"add all rows again with mode replace, and decide {form} or drop until then",
                    values={"column": column, "version": version.ref, "form": form, "decision": wanted},
                )


def _announce(ctx: Context, dataset: str, versions: Iterable[DatasetVersion], contract: Contract, of: dict[str, Decision]) -> None:
    """Write into the versions which columns are about to become text, so that they can be read at any moment until it is done."""
    kinds = {each.name: each.kind for each in contract.columns if each.name in of and each.kind in ("text", "category")}
    with ctx.catalog.write() as connection:
        parts = store.parts(connection, dataset)
        for version in versions:
            becoming = version.becoming | {name: kind for name, kind in kinds.items() if version.columns.get(name, kind) != kind}
            if becoming != version.becoming:
                store.renew(connection, msgspec.structs.replace(version, becoming=becoming), parts[version.number])


def _settle(ctx: Context, connection: sa.Connection, versions: Iterable[DatasetVersion]) -> None:
    """Take the announcement back from versions that say by now what their table holds."""
    for version in versions:
        if version.becoming and tables.as_stored(ctx, version) == version:
            part = store.parts(connection, version.dataset)[version.number]
            store.renew(connection, msgspec.structs.replace(version, becoming={}), part)


def _rewrite(ctx: Context, name: str, contract: Contract, columns: set[str], keys: Keys, *, aside: bool) -> int:
    """Rewrite the files that hold one of the columns; return how many rows they have."""
    at = tables.quarantine_folder(ctx, name) if aside else tables.folder(ctx, name)
    decided = personal.decisions(contract)
    text = pa.string()

    def change(rows: pa.Table) -> pa.Table:
        here = columns & set(rows.column_names)
        # a column without a value is null where its rows lack it, and text where it was hidden before: both are left as they are
        wanted = msgspec.structs.replace(contract, columns=[each for each in contract.columns if each.name in here])
        made = personal.protect(rows, msgspec.structs.replace(wanted, subject=contract.subject), keys)
        for each in here:
            if each in made.column_names and decided[each].decision in ("pseudonym", "encrypt"):
                made = made.set_column(made.column_names.index(each), each, made[each].cast(text))
            if "_reason" in made.column_names:  # before the decision, what is wrong with a row was told with the value
                quoting = pc.match_substring(made["_reason"], f"{each}: ")
                made = made.set_column(made.column_names.index("_reason"), "_reason", pc.if_else(quoting, made["_rule"], made["_reason"]))
        return made

    return rewriting.change(at, VERSION if aside else PART, columns, change)


def _edited(version: DatasetVersion, contract: Contract, of: dict[str, Decision], keys: Keys) -> DatasetVersion:
    """Return a version as it says what its rows are now; rows, hash and profile are the caller's."""
    kinds = {each.name: each.kind for each in contract.columns}
    gone = {column for column, decision in of.items() if decision == "drop"}
    here = set(version.columns) & of.keys()
    columns = {name: kinds[name] if name in here else kind for name, kind in version.columns.items() if name not in gone}
    stored = version.contract
    if stored is not None:
        by_name = {each.name: each for each in contract.columns}
        stored = msgspec.structs.replace(stored, columns=[by_name[each.name] if each.name in here else each for each in stored.columns])
    hides = any(of[column] in ("pseudonym", "encrypt") for column in here)
    return msgspec.structs.replace(
        version, columns=columns, personal={**version.personal, **{column: of[column] for column in here}}, contract=stored,
        key_print=keys.fingerprint if hides else version.key_print,
        undecided={column: said for column, said in version.undecided.items() if column not in personal.decisions(contract)},
    )  # fmt: skip


def _number(versions: Iterable[DatasetVersion]) -> int:
    """Return a number for the links of this change. Forgettings count from 1 up, these from -1 down."""
    return min([0, *(link.number for each in versions for link in each.forgotten)]) - 1


def _left(ctx: Context, name: str, of: dict[str, Decision], versions: Iterable[DatasetVersion]) -> list[str]:
    """Say what holds values of the columns besides the dataset."""
    if not of:
        return []
    with ctx.catalog.read() as connection:
        defined = views.definitions(connection)
        made = {model.ref: model for model in models.every(connection)}
    said = []
    for ref, view in sorted(defined.items()):
        if view.dataset == name and of.keys() & {*view.entities, *view.reads}:
            said.append(f"features of {ref} were made from them; try: kaizen features materialize {view.name}")
    used = {model: None for version in versions for model in lineage.of_version(ctx, version).models}
    for ref in used:
        signature = model_file.read(ctx.state / made[ref].folder).signature
        if read := sorted(of.keys() & {field.name for field in signature.fields}):
            said.append(f"model {ref} has learnt from {', '.join(read)}, and so have predictions that it made; try: kaizen improve")
    at = tables.folder(ctx, name)
    if storage.open_table(at) is not None:
        said.append("the source of the rows, backups and copies made before")
    return said
