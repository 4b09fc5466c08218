"""Delta tables as this process has them open: to ask for a table's state costs two looks at files of its log, and not the reading of it.

Opening a table reads its whole log, about 0.3 ms an entry. So a table of this machine stays open, and is brought up to date by what is new.
The log's entry at its version tells whether it still is the table that lies there. A table in an object store is opened anew.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from kaizenml.data import storage
from kaizenml.data.storage import Place

Mark = tuple[int, int, int, int]
_ENTRY = re.compile(r"\d{20}\.json")


class State(NamedTuple):
    """What a table's log says at one version. It does not change, so threads may share it."""

    version: int
    files: pa.Table
    """The live files, one a row: ``path``, and columns such as ``partition.NAME`` and ``min.NAME``."""
    schema: pa.Schema


class Held(NamedTuple):
    """A table in one hand, and its state when it was taken."""

    table: DeltaTable
    state: State


class _Kept(NamedTuple):
    table: DeltaTable  # nobody else has it in hand
    version: int
    mark: Mark | None  # of the log's entry at that version
    state: State | None


_MOST_KEPT = 64
_ATTEMPTS = 3
_kept: dict[Path, _Kept] = {}
_lock = threading.Lock()


def look(at: Place) -> State | None:
    """Return a table's newest state, whoever has written it; None where there is no table."""
    kept = _kept.get(_log(at)) if isinstance(at, Path) else None
    if kept is not None and kept.state is not None and _stands(at, kept) and not _grown(at, kept):
        return kept.state
    kept = _take(at)
    if kept is None:
        return None
    state = kept.state or _state_of(kept.table)
    _keep(at, kept._replace(state=state))
    return state


@contextmanager
def changing(at: Place) -> Iterator[Held | None]:
    """Open a table's newest state for one who may commit to it and gives it to nobody; None where there is no table.

    A commit that another writer has made meanwhile refuses the caller's.
    """
    kept = _take(at)
    if kept is None:
        yield None
        return
    held = Held(kept.table, kept.state or _state_of(kept.table))
    yield held  # where this raises, nobody knows what became of it: it is opened anew
    version = kept.table.version()
    _keep(at, _Kept(kept.table, version, kept.mark, held.state) if version == kept.version else _Kept(kept.table, version, _mark(at, version), None))


def _state_of(table: DeltaTable) -> State:
    return State(table.version(), pa.table(table.get_add_actions(flatten=True)), pa.schema(table.schema().to_arrow()))


def _take(at: Place) -> _Kept | None:
    """Return a table at its newest version, for the caller alone."""
    with _lock:
        kept = _kept.pop(_log(at), None) if isinstance(at, Path) else None
    if kept is not None and _stands(at, kept):
        if not _grown(at, kept):
            return kept
        try:
            kept.table.update_incremental()
        except (DeltaError, OSError):  # somebody makes it anew just now
            return _open(at)
        version = kept.table.version()
        fresh = _Kept(kept.table, version, _mark(at, version), None)
        if _stands(at, kept):  # still: what was read is of the same table
            return fresh
    return _open(at)


def _open(at: Place) -> _Kept | None:
    for _ in range(_ATTEMPTS):
        newest = _newest(at)
        before = None if newest is None else _mark(at, newest)
        table = storage.open_table(at)
        if table is None:
            return None
        version = table.version()
        kept = _Kept(table, version, _mark(at, version), None)
        if newest is None or before == _mark(at, newest):
            return kept
    return kept._replace(mark=None)


def _keep(at: Place, kept: _Kept) -> None:
    if kept.mark is None or not isinstance(at, Path):
        return
    with _lock:
        _kept.pop(_log(at), None)
        _kept[_log(at)] = kept
        if len(_kept) > _MOST_KEPT:
            del _kept[next(iter(_kept))]


def _stands(at: Place, kept: _Kept) -> bool:
    """Tell whether the table is the one that lies there: in another's log, the entry of the same number is another file."""
    return kept.mark is not None and _mark(at, kept.version) == kept.mark


def _grown(at: Place, kept: _Kept) -> bool:
    return _mark(at, kept.version + 1) is not None


def _newest(at: Place) -> int | None:
    try:
        names = os.listdir(_log(at)) if isinstance(at, Path) else []
    except OSError:
        return None
    return max((int(name[:20]) for name in names if _ENTRY.fullmatch(name)), default=None)


def _mark(at: Place, version: int) -> Mark | None:
    """Return what tells an entry of a table's log from another of its name; None where there is none."""
    try:
        found = os.stat(_log(at) / f"{version:020d}.json") if isinstance(at, Path) else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if found is None else (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def _log(at: Path) -> Path:
    return at.absolute() / "_delta_log"
