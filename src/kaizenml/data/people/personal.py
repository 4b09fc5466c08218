"""What becomes of the columns that tell of persons: dropped, replaced by pseudonyms, encrypted, or kept for a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.data.dataset import Contract, DatasetVersion, Decision, Kind, Personal
from kaizenml.data.keys import Keys, open_keys, seal
from kaizenml.data.people.detect import Found, detect
from kaizenml.errors import Conflict, ContractBroken, InvalidData

_HIDING: tuple[Decision, ...] = ("pseudonym", "encrypt")


def decisions(contract: Contract) -> dict[str, Personal]:
    """Return the columns that tell of persons, with their decisions."""
    return {column.name: column.personal for column in contract.columns if column.personal is not None}


def dropped(contract: Contract) -> set[str]:
    """Return the columns of which nothing is stored."""
    return {name for name, personal in decisions(contract).items() if personal.decision == "drop"}


def roles(ctx: Context, dataset: str) -> dict[str, str]:
    """Return the columns of a dataset that the settings name, with what for: these cannot simply be left out."""
    found: dict[str, str] = {}
    task = ctx.settings.task
    if task is not None and task.dataset == dataset:
        asked = (task.unit, "the task's unit"), (task.key, "the task's key"), (task.time, "the task's time"), (task.target, "the task's target")
        found |= {column: role for column, role in asked if column is not None}
    for name, view in ctx.settings.features.items():
        here = view.dataset == dataset
        if here:
            found |= dict.fromkeys(view.columns, f"a feature of the view {name}")
            found |= {view.at: f"the time of the view {name}"} if view.at else {}
        if here or (task is not None and task.dataset == dataset):
            found[view.entity] = f"the entity of the view {name}"
    return found


def proposed(contract: Contract, rows: pa.Table, *, used: Mapping[str, str], actor: str, only: Iterable[str] | None = None) -> Contract:
    """Return the contract with a decision proposed for each column that is found to tell of persons and has none.

    Direct identifiers and free text are dropped: a model that answers for persons it has not seen learns nothing from them. What
    rows are joined, told apart or grouped by becomes a pseudonym, which does that as well. What is asked for or tells the time has
    to stay as it is; then whoever named the column for it answers for that.

    Parameters
    ----------
    contract : learnt from the rows, or one that grew by columns.
    rows : normalised, or checked.
    used : columns that are named for something, see ``roles``.
    actor : who acts.
    only : columns to look at; None for all.
    """
    wanted = None if only is None else set(only)
    found = detect(rows, [one.name for one in contract.columns if one.personal is None and (wanted is None or one.name in wanted)])
    named = dict(used) | dict.fromkeys(contract.keys, "the contract's key") | ({contract.time: "the contract's time"} if contract.time else {})
    columns = [
        msgspec.structs.replace(one, personal=_proposal(found[one.name], named.get(one.name), one.kind, actor)) if one.name in found else one
        for one in contract.columns
    ]
    return msgspec.structs.replace(contract, columns=columns)


def told(contract: Contract, only: Iterable[str]) -> list[str]:
    """Say for each of these columns that tells of persons what was found and decided."""
    found, wanted = decisions(contract), set(only)
    return [f"{name}: {one.kind}, {one.decision} ({one.reason})" for name, one in found.items() if name in wanted]


def undecided(contract: Contract, rows: pa.Table) -> dict[str, str]:
    """Return the columns without a decision that look as if they told of persons, and why."""
    open_ones = [column.name for column in contract.columns if column.personal is None]
    return {name: f"{found.kind} ({found.why})" for name, found in detect(rows, open_ones).items()}


def as_stored(contract: Contract) -> Contract:
    """Return the contract with the kinds in which hidden columns are stored: pseudonyms and encrypted values are text."""
    columns = [
        msgspec.structs.replace(column, kind="text", minimum=None, maximum=None, categories=None)
        if column.personal is not None
        and column.personal.decision in _HIDING
        and (column.kind not in ("text", "category") or (column.personal.decision == "encrypt" and column.kind != "text"))
        else column
        for column in contract.columns
    ]
    return msgspec.structs.replace(contract, columns=columns)


def check_decisions(contract: Contract) -> None:
    """Raise InvalidData where a decision cannot be carried out, or one to keep has no reason or no name."""
    found = decisions(contract)
    for name, personal in found.items():
        if personal.decision == "keep" and not (personal.reason.strip() and personal.by.strip()):
            lacks = "reason" if not personal.reason.strip() else "name"
            raise InvalidData(
                f"column {name!r} ({personal.kind}) is kept as it is without a {lacks}",
                remedy='write personal = {kind = "...", decision = "keep", reason = "why it is needed", by = "who answers for it"}',
                values={"column": name, "lacks": lacks},
            )
        if name == contract.time and personal.decision != "keep":
            raise _impossible(name, "the contract's time", personal, "keep, with a reason and a name; or name another time")
        if name in (*contract.keys, contract.subject) and personal.decision in ("drop", "encrypt"):
            role = "the contract's key" if name in contract.keys else "whom its rows are about"
            raise _impossible(name, role, personal, "pseudonym, or keep with a reason and a name")
        if personal.decision == "encrypt" and contract.subject is None:
            raise InvalidData(
                f"column {name!r} is to be encrypted, and nothing says under whose key",
                remedy='write subject = "COLUMN" at the head of the contract: the column that says whom a row is about, such as customer_id',
                values={"column": name},
            )


def shown(name: str, text: str, personal: Mapping[str, Personal]) -> str:
    """Return a value as messages may show it: of a personal column only what it is."""
    return f"a value that is not shown ({personal[name].kind})" if name in personal else text


def notes(said: Mapping[str, str], contract: Contract) -> dict[str, str]:
    """Return the sentences on how columns were read, without those that may quote a value of a personal column."""
    found = decisions(contract)
    return {name: note for name, note in said.items() if name not in found}


def keys_for(ctx: Context, contract: Contract, onto: DatasetVersion | None) -> Keys | None:
    """Open the project's keys if a decision asks for them.

    Raises
    ------
    Conflict : the rows that are there were stored with another key.
    """
    if not any(personal.decision in _HIDING for personal in decisions(contract).values()):
        return None
    keys = open_keys(ctx.state)
    if onto is not None and onto.key_print and onto.key_print != keys.fingerprint:
        raise Conflict(
            f"the pseudonyms of {onto.ref} were made with another key ({onto.key_print}) than this project's ({keys.fingerprint})",
            remedy="restore keys/project.key of the state folder, or set KAIZEN_PSEUDONYM_KEY as it was; to start over, add with mode replace",
            values={"before": onto.key_print, "now": keys.fingerprint},
        )
    return keys


def check_same(contract: Contract, onto: DatasetVersion) -> None:
    """Raise ContractBroken when a column is to be stored in another form than in the rows that these are added to."""
    for column in contract.columns:
        now = column.personal.decision if column.personal is not None and column.personal.decision in _HIDING else "keep"
        before = onto.personal.get(column.name, "keep")
        if column.name in onto.columns and column.name not in dropped(contract) and now != before:
            forms = {"keep": "as they are", "pseudonym": "as pseudonyms", "encrypt": "encrypted"}
            raise ContractBroken(
                f"column {column.name!r} is decided {now}, while {onto.ref} holds its values {forms[before]}: they would not match each other",
                remedy=f"kaizen data protect {onto.dataset} hides the rows that are there likewise; or set the decision back in the contract's file",
                values={"column": column.name, "before": before, "now": now},
            )


def protect(table: pa.Table, contract: Contract, keys: Keys | None) -> pa.Table:
    """Carry out the contract's decisions on rows. Doing it again changes nothing.

    Parameters
    ----------
    table : checked rows, good or bad ones.
    contract : with the decisions.
    keys : the project's, see ``keys_for``.

    Returns
    -------
    The rows without dropped columns, with pseudonyms and encrypted values as text. A value of an encrypted column whose row names
    no subject is not stored.
    """
    gone = dropped(contract) & set(table.column_names)
    subjects = None
    made = table
    for name, personal in decisions(contract).items():
        if personal.decision not in _HIDING or name not in table.column_names:
            continue
        assert keys is not None  # keys_for gave them
        values = texts(table[name])
        if personal.decision == "pseudonym":
            hidden = _by_value(values, keys.pseudonym)
        else:
            assert contract.subject is not None  # check_decisions
            subjects = _subjects(table, contract.subject) if subjects is None else subjects
            hidden = _sealed(values, subjects, contract.subject, keys)
        made = made.set_column(made.column_names.index(name), name, hidden)
    return made.drop_columns(sorted(gone)) if gone else made


def masked(rows: pa.Table, contract: Contract) -> pa.Table:
    """Return rows as samples may show them: of personal columns only that there is a value, and what it is."""
    for name, personal in decisions(contract).items():
        if name in rows.column_names:
            column = pc.if_else(pc.is_valid(rows[name]), f"<{personal.kind}>", pa.scalar(None, pa.string()))
            rows = rows.set_column(rows.column_names.index(name), name, column)
    return rows


def texts(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as text, numbers as requests write them: 42.0 is "42"."""
    if pa.types.is_string(values.type):
        return values
    if pa.types.is_floating(values.type):
        whole = pc.and_(pc.equal(values, pc.floor(values)), pc.less(pc.abs(values), 2.0**53))
        plain = pc.if_else(whole, values, None).cast(pa.int64()).cast(pa.string())
        return pc.coalesce(plain, values.cast(pa.string()))
    return values.cast(pa.string())


def _proposal(found: Found, role: str | None, kind: Kind, actor: str) -> Personal:
    if role is None:
        return Personal(kind=found.kind, decision="pseudonym" if found.kind == "postcode" else "drop", reason=found.why)
    if role.endswith(("target", "'s time")) or role.startswith("the time") or (role.startswith("a feature") and kind not in ("category", "text")):
        return Personal(kind=found.kind, decision="keep", reason=f"{role}; {found.why}", by=actor)
    return Personal(kind=found.kind, decision="pseudonym", reason=f"{role}; {found.why}")


def _by_value(values: pa.ChunkedArray, change: Callable[[str], str]) -> pa.ChunkedArray:
    """Change each distinct value once."""
    packed = pa.concat_arrays(values.chunks).dictionary_encode() if values.num_chunks else pa.array([], pa.string()).dictionary_encode()
    changed = pa.array([change(text) for text in packed.dictionary.to_pylist()], pa.string())
    return pa.chunked_array([changed.take(packed.indices)])


def _subjects(table: pa.Table, name: str) -> list[Any]:
    return texts(table[name]).to_pylist() if name in table.column_names else [None] * table.num_rows


def _sealed(values: pa.ChunkedArray, subjects: list[Any], column: str, keys: Keys) -> pa.ChunkedArray:
    found = keys.of_subjects(column, {subject for subject in subjects if subject is not None})
    pairs = zip(values.to_pylist(), subjects, strict=True)
    sealed = [None if text is None or subject is None else seal(found[subject], text) for text, subject in pairs]
    return pa.chunked_array([pa.array(sealed, pa.string())])


def _impossible(name: str, role: str, personal: Personal, choices: str) -> InvalidData:
    return InvalidData(
        f"column {name!r} is {role} and cannot be decided {personal.decision}",
        remedy=f"decide {choices}",
        values={"column": name, "decision": personal.decision},
    )
