"""From the journal to the dataset of predictions, each record exactly once.

A drain reads whole records after what it has done, writes them to the endpoint's table, and in the same commit notes for each
segment how far it came (Delta's application transactions). A drain that is killed anywhere leaves either rows and note, or
neither. Finished segments are removed once everything in them is in the tables.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from kaizenml.context import Context
from kaizenml.errors import StorageFull
from kaizenml.serving.journaling import journal, predictions
from kaizenml.serving.journaling.backlog import DONE, Hint, read_hint
from kaizenml.serving.journaling.journal import Segment
from kaizenml.serving.journaling.records import Record
from kaizenml.serving.journaling.rows import InputKinds, tabulate

log = logging.getLogger("kaizenml.serving")
CHUNK_ROWS = 50_000  # rows held in memory, and in one commit
TIDY_EVERY = 50  # batches of a table
COMPACT_FILES = 8  # in a day that is over
_decode = msgspec.msgpack.Decoder(Record).decode


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """What a drain did."""

    records: int
    rows: int
    skipped: int  # records that an interrupted drain had already written
    damaged: int  # records whose checksum is wrong; their segment is kept as ``*.damaged``
    removed: int  # segments that were finished
    seconds: float


class _Located(NamedTuple):
    segment: str
    end: int
    record: Record


def drain(ctx: Context) -> Drained:
    """Bring everything that the journal holds into the datasets of predictions.

    Works while serving processes write, and when called from several processes at once (they take turns).

    Raises
    ------
    StorageFull : no room for the tables; nothing was half-written, the journal keeps it all.
    """
    begun = time.perf_counter()
    folder = ctx.state / journal.FOLDER
    if not folder.is_dir():
        return Drained(records=0, rows=0, skipped=0, damaged=0, removed=0, seconds=0.0)
    with alone(folder):
        work = _Drain(ctx.state, folder)
        try:
            work.run()
        except OSError as error:
            if "No space left" in str(error):
                raise StorageFull("no room for the drained predictions; the journal keeps them", remedy="free some space and repeat") from error
            raise
    return Drained(
        records=work.records,
        rows=work.rows,
        skipped=work.skipped,
        damaged=len(work.damaged),
        removed=work.removed,
        seconds=time.perf_counter() - begun,
    )


class _Drain:
    """One pass over the journal, under its lock."""

    def __init__(self, state: Path, folder: Path) -> None:
        self.state = state
        self.folder = folder
        self.kinds = InputKinds(state)
        self.hint = read_hint(folder)
        self.records = self.rows = self.skipped = self.removed = 0
        self.damaged: set[str] = set()
        self._waiting: dict[str, list[_Located]] = {}
        self._waiting_rows = 0
        self._reached: dict[str, int] = {}

    def run(self) -> None:
        found = journal.segments(self.folder)
        for segment in found:
            name = segment.name
            for end, payload in journal.read(segment.path, self.hint.segments.get(name, 0)):
                self._reached[name] = end
                if payload is None:
                    self.damaged.add(name)
                    log.error("segment %s: the record that ends at byte %d is damaged and left out", name, end)
                    continue
                record = _decode(payload)
                self._waiting.setdefault(record.endpoint, []).append(_Located(name, end, record))
                self._waiting_rows += len(record.answers)
                if self._waiting_rows >= CHUNK_ROWS:
                    self._commit()
        self._commit()
        self._remove([segment for segment in found if segment.finished])

    def _commit(self) -> None:
        for endpoint, located in self._waiting.items():
            self._commit_endpoint(endpoint, located)
        self._waiting, self._waiting_rows = {}, 0
        if self._reached:
            self.hint.segments |= self._reached
            self._reached = {}
            _write_hint(self.folder, self.hint)

    def _commit_endpoint(self, endpoint: str, located: list[_Located]) -> None:
        table = predictions.open_table(self.state, endpoint)
        newest = (table.transaction_version(predictions.BATCHES) or 0) if table is not None else 0
        fresh = located
        if table is not None and newest != self.hint.batches.get(endpoint, 0):
            fresh = _not_yet(table, located)
            self.skipped += len(located) - len(fresh)
        self.hint.batches[endpoint] = batch = newest + bool(fresh)
        if not fresh:
            return
        rows = tabulate([item.record for item in fresh], self.kinds, batch, _known_inputs(table))
        ends = {item.segment: item.end for item in fresh}  # records of a segment come in order: the last end stays
        notes = [Transaction(segment, end) for segment, end in ends.items()] + [Transaction(predictions.BATCHES, batch)]
        _append(table if table is not None else _create(self.state, endpoint), rows, notes)
        self.records += len(fresh)
        self.rows += rows.num_rows
        if batch % TIDY_EVERY == 0:
            tidy(self.state, endpoint)

    def _remove(self, finished: list[Segment]) -> None:
        for segment in finished:
            if segment.name in self.damaged:
                os.rename(segment.path, segment.path.with_suffix(".damaged"))
            else:
                segment.path.unlink()
                self.removed += 1
        left = {segment.name for segment in journal.segments(self.folder)}
        if self.hint.segments.keys() - left:
            self.hint.segments = {name: end for name, end in self.hint.segments.items() if name in left}
            _write_hint(self.folder, self.hint)


def tidy(state: Path, endpoint: str) -> None:
    """Join the small files of days that are over and checkpoint the log; readers go on undisturbed."""
    table = predictions.open_table(state, endpoint)
    if table is None:
        return
    days = [str(value) for value in pa.table(table.get_add_actions(flatten=True))["partition.day"].to_pylist()]
    newest = max(days, default="")
    for day in sorted(set(days)):
        if day != newest and days.count(day) >= COMPACT_FILES:
            table.optimize.compact(partition_filters=[("day", "=", day)])
    table.create_checkpoint()
    # what was joined is kept for a week, for readers that had already listed it
    table.vacuum(retention_hours=168, dry_run=False)


def _append(table: DeltaTable, rows: pa.Table, notes: list[Transaction]) -> None:
    # another release may have other inputs: more of them, or fewer
    other = set(predictions.names(table)) != set(rows.column_names)
    write_deltalake(
        table, rows, mode="append", partition_by=["day"], schema_mode="merge" if other else None,
        commit_properties=CommitProperties(app_transactions=notes),
    )  # fmt: skip


def _create(state: Path, endpoint: str) -> DeltaTable:
    path = predictions.folder(state, endpoint)
    path.mkdir(parents=True, exist_ok=True)
    DeltaTable.create(path, schema=predictions.BASE, mode="ignore", partition_by=["day"], name=f"predictions of {endpoint}")
    table = predictions.open_table(state, endpoint)
    assert table is not None
    return table


def _not_yet(table: DeltaTable, located: list[_Located]) -> list[_Located]:
    """Leave out what the table's notes say is in it."""
    noted = {segment: table.transaction_version(segment) or 0 for segment in {item.segment for item in located}}
    return [item for item in located if item.end > noted[item.segment]]


def _known_inputs(table: DeltaTable | None) -> dict[str, pa.DataType]:
    return {field.name: field.type for field in predictions.schema(table) if field.name.startswith("x_")} if table is not None else {}


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the tables of predictions for writing: a drain waits as long."""
    with (folder / "drain.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_hint(folder: Path, hint: Hint) -> None:
    fresh = folder / f".{DONE}.new"  # under the drain's lock: one writer
    fresh.write_bytes(msgspec.json.encode(hint))
    os.replace(fresh, folder / DONE)
