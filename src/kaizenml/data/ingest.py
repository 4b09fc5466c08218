"""How an addition of any size becomes a version: piece by piece, in bounded memory, and all of it or nothing.

An addition that is one piece is checked as a whole. One of several pieces is read, checked, hashed and written piece by piece. What a
later piece teaches about earlier ones (a column is no whole number after all; a column is new; a key came twice) is gathered up to the end,
what was written is dropped, and the source is read once more with that knowledge.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml import scratch
from kaizenml.context import Context
from kaizenml.data import addition, making, provenance, tables, uniqueness
from kaizenml.data import contract as rules
from kaizenml.data.dataset import Column, Contract, Dataset, DatasetVersion
from kaizenml.data.found import Found
from kaizenml.data.hashing import PartHash
from kaizenml.data.intake.incoming import Incoming, Piece
from kaizenml.data.keys import Keys
from kaizenml.data.kinds import STORED, VERSION, kind_of, notes_of
from kaizenml.data.part_writer import PartWriter
from kaizenml.data.people import left_out, personal
from kaizenml.data.seen import Hashes, Seen, among, hash_of
from kaizenml.data.staged import Staged
from kaizenml.data.widening import Widening
from kaizenml.errors import Conflict

Progress = Callable[[str, float], None]

# one, one after what the first taught, one for keys that came twice, one for rows that checks in SQL name; more only if the source changes under us
_PASSES = 5
_KEYS_AT_ONCE = 2_000_000  # rows that are there: above, their keys are compared by hash, for they would fill the memory


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked of an addition; see ``operations.add``."""

    name: str
    mode: str = "append"
    key: str | None = None
    time: str | None = None
    partial: bool = False
    source_name: str | None = None
    source_column: str | None = None
    stored: bool = False
    """Whether the rows are those that are there, so that limits of additions say nothing of them."""


@dataclass(frozen=True, kw_only=True)
class Onto:
    """What an addition is made to: the dataset as it stands, held for writing."""

    dataset: Dataset | None
    newest: DatasetVersion | None  # None also where the addition starts over
    number: int  # of the version to be


class Writers(NamedTuple):
    """Where rows go."""

    good: PartWriter
    bad: PartWriter


def read_in(ctx: Context, asked: Asked, onto: Onto, incoming: Incoming, *, write: bool, progress: Progress | None = None) -> Found:
    """Read a source, check it, and write its rows as a part that has no reader yet.

    Parameters
    ----------
    onto : what is there; the caller holds the dataset when ``write``.
    write : False only checks.
    progress : told (what is done, share done), if the source has more than one piece.

    Returns
    -------
    What was found. Its rows are in the table, durable, for the catalog to take or for ``tables.clean`` to remove.

    Raises
    ------
    ContractBroken : the contract refuses the rows, or nothing of them would be left; nothing stays written.
    """
    learnt = _Learnt(contract=_promised(ctx, asked, onto), watch=None if asked.stored else left_out.watch(ctx))
    for _ in range(_PASSES):
        with ExitStack() as stack:
            writers = None
            if write:
                good = PartWriter(tables.folder(ctx, asked.name), onto.number)
                writers = Writers(good, PartWriter(tables.quarantine_folder(ctx, asked.name), onto.number, by=VERSION))
                stack.callback(writers.bad.drop)
                stack.callback(writers.good.drop)
            reading = _Reading(ctx, asked, onto, learnt, writers)
            stack.callback(reading.close)
            found = reading.through(incoming, progress)
            if found is None:
                continue
            making.refuse(ctx, asked.name, found)
            if writers is not None:
                writers.good.finish()
                writers.bad.finish()
                stack.pop_all()
                reading.close()
            return found
    raise Conflict(f"{incoming.location} changed while it was read", remedy="repeat when nobody writes to it", values={"source": incoming.location})


def _promised(ctx: Context, asked: Asked, onto: Onto) -> Contract | None:
    promise = making.promise_of(ctx, asked.name, onto.dataset, asked.mode, key=asked.key, time=asked.time)
    return msgspec.structs.replace(promise, rows=None) if promise is not None and asked.stored else promise


@dataclass(kw_only=True)
class _Learnt:
    """What stays known from one reading of the source to the next."""

    contract: Contract | None
    watch: left_out.Watch | None = None
    typing: Widening = field(default_factory=Widening)
    changes: list[str] = field(default_factory=list)
    suspects: dict[int, Hashes] = field(default_factory=dict)  # by place in told_apart: hashes that came more than once
    columns: set[str] = field(default_factory=set)  # that the source has shown
    named: dict[str, addition.Numbers] | None = None  # by check in SQL, numbers of the rows that it keeps apart; None: not run yet
    warnings: dict[str, int] = field(default_factory=dict)  # that checks in SQL gave
    fixed: frozenset[str] = frozenset()  # columns that the contract had before
    as_text: frozenset[str] = frozenset()


class _Reading:
    """One reading of a source from its first row to its last."""

    def __init__(self, ctx: Context, asked: Asked, onto: Onto, learnt: _Learnt, writers: Writers | None) -> None:
        self._ctx, self._asked, self._onto, self._learnt, self._writers = ctx, asked, onto, learnt, writers
        self._pieces = 0
        self._again = False  # rows that were written would now be read otherwise
        self._so_far = rules.SoFar()
        self._given = 0  # rows, those that were left out too
        self._stays: npt.NDArray[np.int64] | None = None  # of the piece at hand, the places of the rows that were not left out
        self._hash = PartHash()
        self._seen: dict[int, Seen] = {}
        self._earlier: list[pa.Table] = []
        self._known = learnt.contract is not None
        self._before: addition.Before | None = None
        self._staged: Staged | None = None
        if self._known and not learnt.fixed and not learnt.columns:
            assert learnt.contract is not None
            learnt.fixed = frozenset(column.name for column in learnt.contract.columns)
            learnt.as_text = frozenset(column.name for column in learnt.contract.columns if column.kind in ("text", "category"))

    def close(self) -> None:
        """Remove what was kept aside."""
        for seen in self._seen.values():
            seen.close()
        if self._staged is not None:
            self._staged.close()

    def through(self, incoming: Incoming, progress: Progress | None) -> Found | None:
        """Read all pieces; None when the source has to be read again, for ``learnt`` knows better now."""
        pieces = incoming.pieces()
        piece, following = next(pieces, None), next(pieces, None)
        whole = following is None and self._fits()
        found: Found | None = None
        while piece is not None:
            if progress is not None and following is not None:
                progress(f"reading {incoming.location}", piece.done)
            given = piece.rows if whole else self._typed(piece)
            rows = self._without_forgotten(given)
            if rows.num_rows:
                checked = self._checked(rows, whole=whole, sparse=piece.sparse)
                found = found or Found(contract=checked.contract)
                self._take(found, rows, checked)
            self._given += given.num_rows
            piece, following = following, next(pieces, None)
        if found is None:  # a source has at least one row, so all were left out
            return Found(contract=self._learnt.contract or Contract(columns=[]), left_out=self._given)
        found.left_out = self._given - self._so_far.rows
        self._finish(found, whole=whole)
        return None if self._again else found

    def _without_forgotten(self, rows: pa.Table) -> pa.Table:
        """Leave out rows of subjects who were forgotten: nothing is learnt from them, and they are in no message and no sample."""
        watch = self._learnt.watch
        stays = watch.stays(rows, self._learnt.contract) if watch is not None else None
        self._stays = None if stays is None else np.flatnonzero(stays)
        return rows if stays is None else rows.filter(pa.array(stays))

    def _numbered(self, checked: rules.Checked) -> rules.Checked:
        """Give bad rows the numbers that they have in the source, where rows before them were left out."""
        first = self._so_far.rows
        if not checked.bad.num_rows or (self._stays is None and first == self._given):
            return checked
        places = checked.bad["_row"].to_numpy() - 1 - first
        numbers = pa.array((places if self._stays is None else self._stays[places]) + self._given + 1, pa.int64())
        return checked._replace(bad=checked.bad.set_column(checked.bad.column_names.index("_row"), "_row", numbers))

    def _fits(self) -> bool:
        """Whether keys of the rows that are there may be compared in memory."""
        contract, newest = self._learnt.contract, self._onto.newest
        return newest is None or contract is None or newest.rows <= _KEYS_AT_ONCE or not contract.told_apart

    def _typed(self, piece: Piece) -> pa.Table:
        learnt = self._learnt
        rows, widened = learnt.typing.read(piece, as_text=learnt.as_text)
        widened -= learnt.fixed  # the contract decides what those are, piece by piece
        learnt.columns |= set(rows.column_names)
        if widened and learnt.contract is not None:
            self._again = True
            learnt.contract = _rekinded(learnt.contract, rows, widened)
        return learnt.typing.with_notes(rows)

    def _checked(self, rows: pa.Table, *, whole: bool, sparse: bool) -> rules.Checked:
        """Check a piece; what it teaches goes into ``learnt``."""
        learnt, asked = self._learnt, self._asked
        if learnt.contract is None:
            learnt.contract = making.learn(self._ctx, asked.name, rows, key=asked.key, time=asked.time)
        promise = learnt.contract
        keys = personal.keys_for(self._ctx, promise, self._onto.newest)
        if not whole and (sparse or self._so_far.rows):
            rows = _padded(rows, promise)
        before = self._compared(promise, keys, whole=whole)
        limits: dict[str, Any] = {} if whole else {"rows": None, "freshness": None, "checks": []}  # these are of all pieces together
        checked = making.hold(
            self._ctx, asked.name, rows, msgspec.structs.replace(promise, **limits), self._onto.newest, before=before, partial=asked.partial,
            so_far=self._so_far,
        )  # fmt: skip
        contract = msgspec.structs.replace(checked.contract, rows=promise.rows, freshness=promise.freshness, checks=promise.checks)
        if contract != promise:
            self._again = self._again or self._so_far.rows > 0
            learnt.contract = contract
            learnt.changes += checked.changes
        if not whole and not self._again:
            self._note_keys(contract, checked.good, keys)
            checked = self._by_query(contract, rows, checked)
        keys = personal.keys_for(self._ctx, contract, self._onto.newest)  # new columns may ask for them
        good, bad = personal.protect(checked.good, contract, keys), personal.protect(checked.bad, contract, keys)
        names = provenance.names_of(rows, asked.source_name or provenance.main_of(self._onto.dataset), asked.source_column)
        return making.with_sources(checked._replace(good=good, bad=bad, contract=contract), names, self._so_far.rows)

    def _take(self, found: Found, rows: pa.Table, checked: rules.Checked) -> None:
        """Count what a piece had, describe it, and write it."""
        self._look_for_persons(found, checked.contract, rows)
        checked = self._numbered(checked)
        self._so_far.rows += rows.num_rows
        found.count(checked, rows.num_rows)
        if self._again:
            return
        found.describe(checked, notes_of(rows))
        if self._writers is not None:
            self._hash.add(checked.good)
            self._writers.good.add(checked.good)
            self._writers.bad.add(checked.bad)

    def _look_for_persons(self, found: Found, contract: Contract, rows: pa.Table) -> None:
        """Look at columns without a decision: those of the contract are told; for those that are learnt with these rows one is proposed.

        Of many pieces the first, second, fourth, eighth ... are looked at, so that what it costs stays small beside the reading.
        """
        self._pieces += 1
        if self._asked.stored or self._pieces & (self._pieces - 1):
            return
        seen = personal.undecided(contract, rows)
        found.undecided |= {name: why for name, why in seen.items() if name in self._learnt.fixed}
        fresh = seen.keys() - self._learnt.fixed
        if fresh and self._learnt.contract is not None:
            used = personal.roles(self._ctx, self._asked.name)
            contract = personal.proposed(self._learnt.contract, rows, used=used, actor=self._ctx.actor, only=fresh)
            self._learnt.contract = personal.as_stored(contract)
            self._learnt.changes += personal.told(contract, fresh)
            self._again = True

    def _finish(self, found: Found, *, whole: bool) -> None:
        learnt = self._learnt
        found.changes = learnt.changes
        found.keys = personal.keys_for(self._ctx, found.contract, self._onto.newest)
        if not whole:
            absent = [column for column in found.contract.columns if column.name not in learnt.columns]
            making.refuse_absent(self._ctx, self._asked.name, [] if self._asked.partial else absent, found.contract)
            for place, seen in self._seen.items():
                repeated = seen.repeated()
                if len(repeated):
                    self._again = True
                    known = learnt.suspects.get(place)
                    learnt.suspects[place] = repeated if known is None else pc.unique(pa.array([*known, *repeated])).sort().to_numpy()
            self._ask_queries(found)
            assert self._before is not None  # at least one piece was compared
            addition.check_whole(found.rows, found.newest, found.contract, self._before, found)
        if self._writers is not None and not self._again and found.good:
            found.hash = self._hash.value()

    def _by_query(self, contract: Contract, rows: pa.Table, checked: rules.Checked) -> rules.Checked:
        """Keep the good rows aside for the checks in SQL; when these were run, move those that they named to the bad ones."""
        learnt, first = self._learnt, self._so_far.rows
        if learnt.named is not None:
            return rules.without(checked, rows, learnt.named, first)
        if contract.checks:
            self._staged = self._staged or Staged(self._ctx.state / scratch.FOLDER, contract.checks)
            self._staged.add(checked.good, pc.add(checked.rows.cast(pa.int64()), first + 1))
        return checked

    def _ask_queries(self, found: Found) -> None:
        """Run the checks in SQL over all rows. Where rows are to be kept apart, the source is read again without them."""
        learnt = self._learnt
        if self._staged is not None and not self._again:
            told = Found(contract=found.contract)
            learnt.named = addition.check_staged(self._staged, found.contract, told)
            learnt.warnings = dict(told.warnings)
            found.refusals.update(told.refusals)
            self._again = bool(learnt.named) and not told.refusals  # what is refused need not be told apart
        found.warnings.update(learnt.warnings)

    def _compared(self, promise: Contract, keys: Keys | None, *, whole: bool) -> addition.Before:
        if whole:
            return making.gather(self._ctx, promise, self._onto.newest, keys)
        if self._before is None:
            self._before = making.gather(self._ctx, promise, self._onto.newest, keys, rows=False)
            self._before = self._before._replace(rows=self._there(promise))
        return self._before._replace(earlier=pa.concat_tables(self._earlier) if self._earlier else None)

    def _there(self, promise: Contract) -> pa.Table | None:
        """Note the keys of the rows that are there, and return those rows that may be alike to some that come."""
        newest = self._onto.newest
        if newest is None:
            return None
        sealed = {name for name, form in newest.personal.items() if form == "encrypt"}  # equal values are stored differently
        comparable = set(newest.columns) - sealed
        apart = {place: one.columns for place, one in enumerate(promise.told_apart) if set(one.columns) <= comparable}
        names = sorted({name for columns in apart.values() for name in columns})
        alike: list[pa.Table] = []
        for batch in tables.batches(self._ctx, newest.ref, names) if names else ():
            mask = None
            for place, columns in apart.items():
                hashes, valid = _hashes(batch, columns)
                suspects = self._learnt.suspects.get(place)
                if suspects is None:
                    self._seen_of(place).add(hashes[valid])
                else:
                    mask = (among(hashes, suspects) & valid) | (False if mask is None else mask)
            if mask is not None and mask.any():
                alike.append(batch.filter(pa.array(mask)))
        return pa.concat_tables(alike) if alike else None

    def _note_keys(self, contract: Contract, good: pa.Table, keys: Keys | None) -> None:
        """Note what tells the rows apart, and keep those that may be alike to later ones."""
        keep = None
        for place, one in enumerate(contract.told_apart):
            if not set(one.columns) <= set(good.column_names):
                continue
            hashes, valid = _hashes(personal.protect(good.select(one.columns), contract, keys), one.columns)
            suspects = self._learnt.suspects.get(place)
            if suspects is None:
                self._seen_of(place).add(hashes[valid])
            else:
                keep = (among(hashes, suspects) & valid) | (False if keep is None else keep)
        if keep is not None and keep.any():
            names = sorted({name for one in contract.told_apart for name in one.columns if name in good.column_names})
            self._earlier.append(good.select(names).filter(pa.array(keep)))

    def _seen_of(self, place: int) -> Seen:
        if place not in self._seen:
            self._seen[place] = Seen(self._ctx.state / scratch.FOLDER)
        return self._seen[place]


def _hashes(rows: pa.Table, columns: list[str]) -> tuple[Hashes, Any]:
    joined = uniqueness.joined(rows, columns)
    return hash_of(joined), pc.is_valid(joined).to_numpy()


def _rekinded(contract: Contract, rows: pa.Table, names: set[str]) -> Contract:
    """Give columns that were learnt too narrow the kind that they have turned out to be."""
    columns: list[Column] = []
    for column in contract.columns:
        kind = kind_of(rows[column.name]) if column.name in names else None
        if kind == "category" and column.name in contract.keys:
            kind = "text"
        columns.append(msgspec.structs.replace(column, kind=kind) if kind else column)
    return msgspec.structs.replace(contract, columns=columns)


def _padded(rows: pa.Table, contract: Contract) -> pa.Table:
    """Give a piece the columns that it does not have: they are missing in its rows."""
    for column in contract.columns:
        if column.name not in rows.column_names:
            rows = rows.append_column(column.name, pa.nulls(rows.num_rows, STORED[column.kind]))
    return rows
