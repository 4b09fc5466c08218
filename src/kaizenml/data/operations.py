"""What can be done with datasets."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any, get_args

import msgspec
import pyarrow as pa

from kaizenml.context import Context
from kaizenml.data import adding, contract_file, hashing, ingest, kept_out, making, provenance, store, tables
from kaizenml.data.dataset import Contract, Dataset, DatasetVersion, Decided, Intake, Trust
from kaizenml.data.found import Found
from kaizenml.data.ingest import Asked, Progress
from kaizenml.data.intake import locations, opening
from kaizenml.data.intake.incoming import Incoming, Piece
from kaizenml.data.kinds import SOURCE, VERSION
from kaizenml.data.people import held, left_out, personal
from kaizenml.errors import Conflict, NotFound, UsageError
from kaizenml.refs import check_name

__all__ = ["add", "check", "drop", "list", "quarantine", "refresh", "release", "show", "verify", "versions"]

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
    contract: Contract  # as it would be, with a decision for each column that tells of persons
    warnings: dict[str, int] = {}  # rules of severity `warn` that are broken, with how many rows
    undecided: dict[str, str] = {}  # columns without a decision that look as if they told of persons, and why
    held: dict[str, str] = {}  # personal columns that versions hold in another form than decided, and the command for it


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A version whose rows are those that its hash says."""

    version: str  # name@number
    rows: int
    hash: str
    forgotten: int  # rows that left it since it was made, each forgetting with a signed record
    said: str


class Refreshed(msgspec.Struct, frozen=True, kw_only=True):
    """What was new where a dataset's rows come from."""

    dataset: str
    version: str | None  # that was made; None: nothing was new
    rows: int  # of the newest version
    new: int
    quarantined: int = 0
    changed: builtins.list[str] = []  # files that were taken, are other ones now, and were left
    said: str


class Quarantine(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that were kept out of a dataset."""

    dataset: str
    rows: int
    reasons: dict[str, int]
    samples: builtins.list[dict[str, Any]]  # newest first; with `_version`, `_row` (of that addition, from 1) and `_reason`


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of rows in quarantine on which a person decided."""

    dataset: str
    decision: str  # released, dropped
    rows: int
    version: str | None = None  # the version that the released rows made
    stayed: int = 0  # rows that could not be released
    reasons: dict[str, int] = {}  # why they stay, with how many rows
    samples: builtins.list[dict[str, Any]] = []  # a few of them


def add(
    ctx: Context,
    name: str,
    source: str | None = None,
    *,
    table: pa.Table | None = None,
    query: str | None = None,
    cursor: str | None = None,
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
    progress: Progress | None = None,
) -> DatasetVersion:
    """Add rows to a dataset as its next version.

    The first addition makes the dataset and learns its contract, which is written to ``contracts/NAME.toml``; later ones are held
    against that file. Bad rows go to quarantine with the reason; new columns are taken and the file is extended.

    Parameters
    ----------
    name : the dataset.
    source : a file, a folder, a glob, or a Delta table; relative to the working directory, or to the project; or in an object store
        (``s3://``, ``gs://``, ``az://``). With ``query``, the address of a database as SQLAlchemy writes it. Secrets stay in the
        environment: write ``${NAME}`` in their place.
    table : rows instead: an Arrow table or stream of record batches, a pandas or Polars frame.
    query : a SELECT, or the name of a table; of a workbook with several sheets, the sheet.
    cursor : column of the query by which rows are new, such as a number that counts up or a time of change.
    mode : ``append`` keeps the rows of the newest version, ``replace`` starts over with these. Older versions stay readable in both.
    trust : of the source: ``internal``, ``partner`` or ``public``; default ``internal`` for a new source, else unchanged.
    key : for a new dataset, the column that identifies a row, or several, ``origin,day``; default the task's key when the dataset is the task's.
    time : for a new dataset, the column that says when a row happened; default the task's time likewise.
    partial : columns may be absent; those become null.
    origin : where the rows come from, in words, when it is not the file.
    source_name : the source that these rows come from; default the dataset's first, which is called ``main``. Each row keeps it.
    source_column : column that says which source a row came from, where one table holds rows of several; where it is empty, the other name.
    once : a token; a second call with the same token adds nothing and returns the version that the first one made.
    why : the reason, for the record.
    progress : told (what is done, share done 0..1) while much is read.

    Returns
    -------
    The new version; ``quarantined`` says how many of the rows given were kept out, ``suspicions`` which source that is not internal
    teaches what the others do not, and what to do about it. Such rows are taken all the same: a person decides. Rows of subjects who
    were forgotten are left out, and ``warnings`` says how many.

    Raises
    ------
    NotFound, InvalidData : no such file, or it cannot be read; with line and value.
    Conflict : all rows are of subjects who were forgotten. With ``once``, the newest version is returned instead, if there is one.
    ContractBroken : a column is gone or its kind changed, or every row is bad. Nothing is written.
    StorageFull : no room; nothing is half-written.

    Examples
    --------
    kaizen data add orders orders.csv --key id --time ordered_at
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
    asked = Asked(name=name, mode=mode, key=key, time=time, partial=partial, source_name=source_name, source_column=source_column)
    incoming = _incoming(ctx, source, table, origin, query=query, cursor=cursor)
    intake = None
    if incoming.reopened:
        intake = Intake(
            location=incoming.reopened, query=query, cursor=cursor, source_name=source_name, source_column=source_column, partial=partial
        )
    try:
        made = adding.add(ctx, asked, _beside(incoming, mode, intake), trust=_trust(trust), once=once, why=why, progress=progress)
    finally:
        incoming.close()
    if made is not None:
        return made
    newest = _newest(ctx, name)
    if once is None or newest is None:
        raise Conflict(
            f"all rows of {incoming.location} are of subjects who were forgotten: none was added",
            remedy="take them out of the source; if somebody has come back: kaizen data readmit --subject COLUMN=VALUE",
            values={"dataset": name, "source": incoming.location},
        )
    return newest  # whoever asks by a token cannot do anything about it


def refresh(ctx: Context, name: str, *, once: str | None = None, why: str = "", progress: Progress | None = None) -> Refreshed:
    """Take what is new where a dataset's rows came from.

    Files that came into a folder or glob, and rows of a query behind its cursor, are appended. A single file, a query without a
    cursor and a Delta table are taken anew when they are other ones. For the task's dataset, ``[task] source`` counts too.

    Parameters
    ----------
    name : the dataset.
    once : a token; a second call with the same token takes nothing and returns the version that the first one made.
    why : the reason, for the record.
    progress : told (what is done, share done 0..1) while much is read.

    Returns
    -------
    What was taken. Where nothing is new, no version is made.

    Raises
    ------
    NotFound : no such dataset, or nothing says where its rows come from.
    Conflict : a file is another one, and the dataset has rows of other sources too.

    Examples
    --------
    kaizen data refresh orders
    """
    with ctx.catalog.read() as connection:
        if once is not None and (made := store.added_once(connection, check_name(name), once)):
            return Refreshed(dataset=name, version=made.ref, rows=made.rows, new=0, said=f"taken before as {made.ref}")
        intakes = store.intakes(connection, name)
    task = ctx.settings.task
    if task is not None and task.dataset == name and task.source is not None and task.source not in {one.location for one in intakes}:
        intakes.append(Intake(location=task.source))
    if not intakes:
        tables.version(ctx, name)  # names the nearest when there is none
        raise NotFound(f"nothing says where new rows of {name!r} come from", remedy=f"kaizen data add {name} FILE, FOLDER or DATABASE --query ...")
    before, made = _newest(ctx, name), None
    for place, intake in enumerate(intakes):
        asked = Asked(name=name, partial=intake.partial, source_name=intake.source_name, source_column=intake.source_column)
        token = once if once is None or not place else f"{once}:{place}"
        taken = adding.add(ctx, asked, _new_of(ctx, intake), trust=None, once=token, why=why, progress=progress)
        made = taken or made
    changed = [file for one in intakes for file in opening.changed_files(ctx, one.location, one.taken)]
    if made is None:
        said = "nothing is new" + (f"; {len(changed)} files that were taken have changed, and were left" if changed else "")
        return Refreshed(dataset=name, version=None, rows=before.rows if before else 0, new=0, changed=changed, said=said)
    new = made.rows - (before.rows if before else 0)
    gone = made.warnings.get(left_out.SAID, 0)
    said = f"made {made.ref}" + (f"; {gone:,} {left_out.SAID}" if gone else "")
    return Refreshed(dataset=name, version=made.ref, rows=made.rows, new=new, quarantined=made.quarantined, changed=changed, said=said)


def take(ctx: Context, name: str, source: str, *, once: str, why: str) -> DatasetVersion | None:
    """Bring the file that a project names as its data into the dataset, if it is new or was changed.

    A changed file replaces the rows, as long as it is all that rows were taken from. What ``add`` has taken is not taken again.

    Raises
    ------
    Conflict : the file is another one, and the dataset has rows of other sources too.
    """
    with ctx.catalog.read() as connection:
        intakes = store.intakes(connection, name)
    known = next((one for one in intakes if one.location == source and one.query is None), None)
    if known is not None and all(known.taken.get(file.shown) == file.mark for file in locations.files_at(ctx, source)):
        return None
    if any(one.location != source for one in intakes):
        opened = _new_of(ctx, known or Intake(location=source))
        return adding.add(ctx, Asked(name=name), opened, trust=None, once=once, why=why, progress=None)
    return add(ctx, name, str(ctx.root / source), mode="replace", once=once, why=why)


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
        left = kept_out.left_after(store.decided(connection, version.dataset))
        waiting = sum(left(one) for one in store.versions(connection, version.dataset))
    assert found is not None  # versions refer to their dataset
    return Detail(dataset=found, version=version, quarantined=waiting)


def verify(ctx: Context, dataset: str) -> Verified:
    """Hash the rows of a version again and compare with what was written, also where persons were forgotten since.

    Parameters
    ----------
    dataset : ``name`` (the newest version) or ``name@number``.

    Returns
    -------
    The version's rows and hash, and how many rows were forgotten since it was made.

    Raises
    ------
    NotFound : no such dataset or version.
    Corrupt : rows differ, or left without a signed record.

    Examples
    --------
    kaizen data verify orders@3
    """
    found = tables.verify(ctx, dataset)
    gone = sum(link.rows for link in found.forgotten)
    said = f"{found.ref} is whole"
    if any(link.number > 0 for link in found.forgotten):
        said += f"; {gone:,} {'row' if gone == 1 else 'rows'} forgotten since"
    if any(link.number < 0 for link in found.forgotten):
        said += "; personal columns hidden since"
    return Verified(version=found.ref, rows=found.rows, hash=found.hash, forgotten=gone, said=said)


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
        ref = newest.ref
        incoming = Incoming(location=ref, pieces=lambda: (Piece(rows) for rows in tables.batches(ctx, ref)))
        newest = None
    else:
        incoming = _incoming(ctx, source, table, None)
    asked = Asked(name=name, partial=partial, stored=stored)
    with closing(incoming):
        found = ingest.read_in(ctx, asked, ingest.Onto(dataset=dataset, newest=newest, number=0), incoming, write=False)
    return Check(
        dataset=name,
        source=incoming.location,
        rows=found.rows,
        good=found.good,
        bad=found.bad,
        reasons=dict(found.reasons.most_common(50)),
        samples=found.samples,
        changes=found.changes,
        contract=found.contract,
        warnings=found.told,
        undecided=found.undecided,
        held=held_otherwise(ctx, dataset) if dataset is not None else {},
    )


def held_otherwise(ctx: Context, dataset: Dataset) -> dict[str, str]:
    """Say which versions hold personal columns in another form than the contract's file asks for."""
    promise = contract_file.read(contract_file.path_of(ctx.root, dataset.name)) or dataset.contract
    with ctx.catalog.read() as connection:
        return held.told(promise, store.versions(connection, dataset.name))


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
        decided = store.decided(connection, version.dataset)
    assert found is not None  # versions refer to their dataset
    rows = kept_out.waiting(ctx, version.dataset, {version.number} if "@" in dataset else known, decided)
    samples = rows.sort_by([("_version", "descending"), ("_row", "ascending")]).slice(0, limit) if rows.num_rows else rows
    shown = personal.masked(samples, found.contract).to_pylist()
    return Quarantine(dataset=version.dataset, rows=rows.num_rows, reasons=making.count_reasons(rows), samples=shown)


def release(
    ctx: Context, name: str, *, rule: str | None = None, rows: builtins.list[int] | None = None, version: int | None = None, why: str
) -> Settled:
    """Let rows out of quarantine: they become the next version, whatever the contract says of their values.

    Kinds, key and time are not waived: a row that has no value of its kind, or a key that is there already, stays and is told why.
    Without ``rule``, ``rows`` or ``version`` all rows of the dataset that wait are meant.

    Parameters
    ----------
    name : the dataset.
    rule : rows that broke this rule first, as ``kaizen data quarantine`` names it.
    rows : row numbers of one addition.
    version : rows of the addition that made this version.
    why : the reason, for the record.

    Raises
    ------
    NotFound : no such rows wait.
    UsageError : no reason, or rows that may be of several additions.

    Examples
    --------
    kaizen data release orders --rule "price is above 500" --why "a real price, the shop confirmed it"
    """
    _check_why(why)
    found = tables.version(ctx, check_name(name))
    with tables.locked(ctx, name):
        dataset, newest, parts, decided, chosen = _waiting(ctx, found.dataset, rule=rule, rows=rows, version=version)
        promise = contract_file.read(contract_file.path_of(ctx.root, name)) or dataset.contract
        keys = personal.keys_for(ctx, promise, newest)
        checked = kept_out.typed(chosen, promise, making.gather(ctx, promise, newest, keys), keys)
        settled = Settled(
            dataset=name, decision="released", rows=checked.good.num_rows, stayed=checked.bad.num_rows, reasons=making.count_reasons(checked.bad),
            samples=personal.masked(checked.bad.slice(0, 10), promise).to_pylist(),
        )  # fmt: skip
        if not settled.rows:
            return settled
        released = chosen.take(checked.rows)
        if SOURCE not in checked.good.column_names:
            checked = making.with_sources(checked, provenance.names_of(chosen, provenance.main_of(dataset), None))
        part = store.Part(newest.number + 1, hashing.content_hash(checked.good), checked.good.column_names)
        came_from = f"quarantine of {', '.join(f'{name}@{number}' for number in kept_out.numbered(released))}"
        checked = checked._replace(bad=checked.bad.slice(0, 0), contract=promise)  # they were counted when they came
        summed = Found(contract=promise, keys=keys)
        summed.describe(checked, {})
        made = making.next_version(ctx, newest, summed, part, name=name, parts=parts, source=came_from)
        made = msgspec.structs.replace(made, sources=provenance.rows_by_source(dataset, newest, provenance.counted(checked.good[SOURCE])))
        tables.append_part(tables.folder(ctx, name), checked.good, part.number)
        done = _decided(ctx, decided, released, dataset=name, version=made.ref, why=why)
        with ctx.catalog.write() as connection:
            store.add_version(connection, made, part, None)
            store.add_decided(connection, done)
            ctx.record(connection, "data.released", made.ref, why, rows=settled.rows, total=made.rows, of=_counts(done), hash=made.hash)
        kept_out.sweep(ctx, name, [*decided, done])
    return msgspec.structs.replace(settled, version=made.ref)


def drop(
    ctx: Context, name: str, *, rule: str | None = None, rows: builtins.list[int] | None = None, version: int | None = None, why: str
) -> Settled:
    """Drop rows from quarantine for good. Who, why and how many stays on record; the rows do not.

    Parameters
    ----------
    name : the dataset.
    rule : rows that broke this rule first, as ``kaizen data quarantine`` names it.
    rows : row numbers of one addition.
    version : rows of the addition that made this version.
    why : the reason, for the record.

    Raises
    ------
    NotFound : no such rows wait.
    UsageError : no reason, or rows that may be of several additions.

    Examples
    --------
    kaizen data drop orders --version 2 --rows 3,7 --why "test orders"
    """
    _check_why(why)
    found = tables.version(ctx, check_name(name))
    with tables.locked(ctx, name):
        *_, decided, chosen = _waiting(ctx, found.dataset, rule=rule, rows=rows, version=version)
        done = _decided(ctx, decided, chosen, dataset=name, version=None, why=why)
        with ctx.catalog.write() as connection:
            store.add_decided(connection, done)
            ctx.record(connection, "data.dropped", name, why, rows=chosen.num_rows, of=_counts(done))
        kept_out.sweep(ctx, name, [*decided, done])
    return Settled(dataset=name, decision="dropped", rows=chosen.num_rows)


def _waiting(
    ctx: Context, name: str, *, rule: str | None, rows: builtins.list[int] | None, version: int | None
) -> tuple[Dataset, DatasetVersion, dict[int, store.Part], builtins.list[Decided], pa.Table]:
    """Return a dataset that is held, what was decided before, and the rows in quarantine that are meant now."""
    with ctx.catalog.read() as connection:
        dataset, newest = store.find(connection, name), store.version(connection, name, None)
        parts, decided = store.parts(connection, name), store.decided(connection, name)
    assert dataset is not None
    assert newest is not None  # a dataset has a version from the beginning
    tables.clean(tables.folder(ctx, name), set(parts))
    tables.clean(tables.quarantine_folder(ctx, name), set(parts), by=VERSION)
    kept_out.sweep(ctx, name, decided)  # what a killed decision left
    chosen = kept_out.choose(kept_out.waiting(ctx, name, set(parts), decided), name, rule=rule, numbers=rows, version=version)
    return dataset, newest, parts, decided, chosen


def _decided(ctx: Context, before: builtins.list[Decided], rows: pa.Table, *, dataset: str, version: str | None, why: str) -> Decided:
    return Decided(
        dataset=dataset, number=before[-1].number + 1 if before else 1, decision="released" if version else "dropped",
        rows=kept_out.numbered(rows), version=version, why=why, by=ctx.actor, at=ctx.clock.timestamp(),
    )  # fmt: skip


def _counts(decided: Decided) -> dict[str, int]:
    return {str(number): len(rows) for number, rows in decided.rows.items()}


def _check_why(why: str) -> None:
    if not why.strip():
        raise UsageError("a decision on rows in quarantine needs a reason", remedy='--why "..."', values={"argument": "why"})


def _beside(incoming: Incoming, mode: str, intake: Intake | None) -> Callable[[adding.There], adding.Opened]:
    def opened(there: adding.There) -> adding.Opened:
        known = next((one for one in there.intakes if intake and (one.location, one.query) == (intake.location, intake.query)), None)
        merged = msgspec.structs.replace(intake, taken=known.taken) if intake and known and mode == "append" else intake
        return adding.Opened(incoming, mode, merged)

    return opened


def _new_of(ctx: Context, intake: Intake) -> Callable[[adding.There], adding.Opened | None]:
    return lambda there: adding.from_intake(ctx, intake, there)


def _newest(ctx: Context, name: str) -> DatasetVersion | None:
    with ctx.catalog.read() as connection:
        return store.version(connection, name, None)


def _trust(trust: str | None) -> Trust | None:
    return msgspec.convert(trust, Trust) if trust else None


def _incoming(ctx: Context, source: str | None, table: Any, origin: str | None, *, query: str | None = None, cursor: str | None = None) -> Incoming:
    if (source is None) == (table is None):
        raise UsageError("give a source or a table, one of them", remedy="kaizen data add NAME FILE", values={"source": source})
    opened = opening.open_frame(ctx, table, "python") if source is None else opening.open_source(ctx, source, query=query, cursor=cursor)
    assert opened is not None  # nothing was taken before
    return opened if origin is None else replace(opened, location=origin)


def _check_choice(what: str, found: str, choices: tuple[str, ...]) -> None:
    if found not in choices:
        raise UsageError(
            f"{what} {found!r} is none of {', '.join(choices)}", remedy=f"--{what} {choices[0]}", values={what: found, "known": [*choices]}
        )
