"""How rows are added to a dataset: opened, read in, and made a version in one transaction with what was taken."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from kaizenml import scratch
from kaizenml.context import Context
from kaizenml.data import contract_file, ingest, making, provenance, store, tables
from kaizenml.data.dataset import Dataset, DatasetVersion, Intake, Trust
from kaizenml.data.found import Found
from kaizenml.data.ingest import Asked, Progress
from kaizenml.data.intake import opening
from kaizenml.data.intake.incoming import Incoming
from kaizenml.data.kinds import VERSION
from kaizenml.data.people import left_out
from kaizenml.data.trust import screening
from kaizenml.errors import Conflict


class There(NamedTuple):
    """What is there when the dataset is held."""

    dataset: Dataset | None
    newest: DatasetVersion | None
    intakes: list[Intake]


class Opened(NamedTuple):
    """What is to be added."""

    incoming: Incoming
    mode: str
    intake: Intake | None = None
    unless_same: bool = False
    """Whether rows that are those of the newest version, one for one, make no version."""


def add(
    ctx: Context,
    asked: Asked,
    opened: Callable[[There], Opened | None],
    *,
    trust: Trust | None,
    once: str | None,
    why: str,
    progress: Progress | None,
) -> DatasetVersion | None:
    """Add rows as the next version; None when nothing is new, or all is of subjects who were forgotten.

    ``opened`` is asked while the dataset is held.
    """
    name = asked.name
    with tables.locked(ctx, name):
        with ctx.catalog.read() as connection:
            if once is not None and (made := store.added_once(connection, name, once)):
                return made
            there = There(store.find(connection, name), store.version(connection, name, None), store.intakes(connection, name))
            parts = store.parts(connection, name)
        what = opened(there)
        if what is None:
            return None
        with closing(what.incoming):
            scratch.clean(ctx.state / scratch.FOLDER)
            tables.clean(tables.folder(ctx, name), set(parts))
            tables.clean(tables.quarantine_folder(ctx, name), set(parts), by=VERSION)
            base = there.newest if what.mode == "append" else None
            onto = ingest.Onto(dataset=there.dataset, newest=base, number=there.newest.number + 1 if there.newest else 1)
            found = ingest.read_in(ctx, asked, onto, what.incoming, write=True, progress=progress)
            if what.unless_same and there.newest is not None and [parts[number].hash for number in there.newest.parts] == [found.hash]:
                tables.clean(tables.folder(ctx, name), set(parts))
                tables.clean(tables.quarantine_folder(ctx, name), set(parts), by=VERSION)
                return None
            if found.left_out and not found.rows:
                _left_out_whole(ctx, name, what, found)
                return None
            part = store.Part(onto.number, found.hash, found.columns)
            version = making.next_version(ctx, base, found, part, name=name, parts=parts, source=what.incoming.location)
            version = msgspec.structs.replace(version, sources=provenance.rows_by_source(there.dataset, base, found.sources))
            dataset = making.grown(there.dataset, version, found.contract, given=[*found.sources], trust=trust)
            version = msgspec.structs.replace(version, suspicions=screening.suspicions(ctx, version, dataset, found.sources))
            # the file goes last: if it lags behind after a crash, the next addition extends it again
            with contract_file.written(contract_file.path_of(ctx.root, name), found.contract, name), ctx.catalog.write() as connection:
                store.save(connection, dataset)
                store.add_version(connection, version, part, once)
                store.save_intake(connection, name, _after(what), alone=what.mode == "replace")
                ctx.record(
                    connection, "data.added", version.ref, why,
                    mode=what.mode, source=what.incoming.location, sources=found.sources, rows=found.good, total=version.rows,
                    quarantined=version.quarantined, hash=version.hash, changes=found.changes, warnings=version.warnings, undecided=found.undecided,
                )  # fmt: skip
                _record_left_out(ctx, connection, version.ref, what, found)
                screening.record(ctx, connection, version)
    return version


def from_intake(ctx: Context, intake: Intake, there: There) -> Opened | None:
    """Open what is new where rows were taken from before; None when nothing is."""
    known = next((one for one in there.intakes if (one.location, one.query) == (intake.location, intake.query)), intake)
    incoming = opening.open_source(
        ctx, known.location, query=known.query, cursor=known.cursor, after=known.position, taken=known.taken, only_new=True
    )
    if incoming is None:
        return None
    first = there.newest is None or known not in there.intakes
    if first or incoming.grows:
        return Opened(incoming, "append", known)
    assert there.newest is not None  # it is not the first
    own = set(there.newest.sources) if known.source_column else {known.source_name or provenance.main_of(there.dataset)}
    others = sorted((set(there.newest.sources) - own) | ({one.location for one in there.intakes} - {known.location}))
    if others:
        incoming.close()
        raise Conflict(
            f"{known.location} is another one than before, and {asked_name(there)} has rows of {', '.join(others[:5])} too, which would go if it "
            "were replaced",
            remedy="put new rows into files of their own in a folder, or replace all: kaizen data add NAME SOURCE --mode replace",
            values={"source": known.location, "others": others[:50]},
        )
    return Opened(incoming, "replace", known, unless_same=True)


def asked_name(there: There) -> str:
    """Return the dataset's name as messages have it."""
    return repr(there.dataset.name) if there.dataset else "the dataset"


def _left_out_whole(ctx: Context, name: str, what: Opened, found: Found) -> None:
    """Note that all rows of a source were left out. It counts as taken, so that nobody reads it again and again."""
    with ctx.catalog.write() as connection:
        if store.find(connection, name) is not None:
            store.save_intake(connection, name, _after(what), alone=False)
        _record_left_out(ctx, connection, name, what, found)


def _record_left_out(ctx: Context, connection: sa.Connection, subject: str, what: Opened, found: Found) -> None:
    if found.left_out:
        ctx.record(connection, "data.left_out", subject, left_out.SAID, rows=found.left_out, source=what.incoming.location)


def _after(what: Opened) -> Intake | None:
    """Return where the rows were taken from, with what is taken now."""
    if what.intake is None:
        return None
    position = what.incoming.position()
    return msgspec.structs.replace(what.intake, taken=what.intake.taken | what.incoming.taken, position=position or what.intake.position)
