"""Ports: what kaizenml asks of an engine. One adapter is one file under ``adapters/``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec


class OnlineRow(NamedTuple):
    """The newest values of one entity in one view. ``at`` is their event time, seconds UTC; 0.0 for timeless views."""

    at: float
    values: Mapping[str, Any]


Values = Mapping[str, Any] | msgspec.Struct
"""Values by their names, as msgspec writes them: a struct's fields, under the names that it gives them, are the same as a mapping's."""
Change = Callable[[str, OnlineRow | None], OnlineRow | None]
"""Makes of a key's row the one to keep; None: it goes. It may be called again for the same key, so it must not remember."""


class OnlineStore(Protocol):
    """Newest feature values by entity. ``view`` is ``name.version`` (the version is the definition's hash).

    A write with an older ``at`` than the stored one is ignored: late data never overwrites newer.
    An equal ``at`` overwrites (a correction). Reads return rows whatever their age: the reader applies the TTL.
    ``keep_s`` tells how long after its last write nobody can have a use for a row: an engine that can forget by itself may.
    """

    def write(self, view: str, rows: Iterable[tuple[str, float, Values]], *, keep_s: float | None = None, over: bool = False) -> int:
        """Take rows of (entity key, event time, values) in one transaction; return how many were kept.

        With ``over`` they take the place of whatever is there, newer rows too, each wholly or not at all, and those are counted that
        differ from it. A key must not come twice then.
        """
        ...

    def update(self, view: str, keys: Iterable[str], change: Change, *, keep_s: float | None = None) -> int:
        """Put what ``change`` makes of it in the place of each key's row, so that no other write gets lost in between.

        Each key for itself is changed wholly or not at all. Returns how many rows differ now. A key that is given twice is changed once.
        """
        ...

    def read(self, view: str, keys: Sequence[str]) -> list[OnlineRow | None]:
        """Return one row or None for each key, in order."""
        ...

    def read_many(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[OnlineRow | None]]:
        """Return for each view and its keys what ``read`` returns. An engine behind a network asks once for all of them."""
        ...

    def keys(self, view: str) -> Iterator[str]:
        """Go through the keys that a view holds, in no order. Rows that come or go meanwhile may be among them or not."""
        ...

    def delete(self, key: str) -> int:
        """Remove an entity from every view; return how many rows went."""
        ...

    def drop(self, view: str) -> None:
        """Remove a view with all its rows."""
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...


class Entry(NamedTuple):
    """One entry of a stream. ``row`` is JSON, or None where the entry holds none."""

    id: str
    row: bytes | None


class Stream(Protocol):
    """A stream that is read by a group: each entry goes to one of its readers, and again after a crash, until it is confirmed."""

    def read(self, most: int, wait_s: float) -> list[Entry]:
        """Return what this reader was given and has not confirmed, else new entries; [] when none came in time."""
        ...

    def confirm(self, entries: Sequence[str]) -> None:
        """Tell that entries are done with: nobody is given them again."""
        ...

    def refuse(self, entry: Entry, why: str) -> None:
        """Put an entry that cannot be taken aside, with the reason, and confirm it."""
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


class StoredFile(NamedTuple):
    """A Parquet file of a dataset's part."""

    part: int
    name: str  # in the folder of its part
    location: str
    added_us: int  # when its part was added


class Excluded(NamedTuple):
    """Rows that are left out: of ``source`` (None: any) whose ``time``, or else when they were added, is in [since, until); None: open."""

    source: str | None
    time: str | None
    since_us: int | None
    until_us: int | None


class Wanted(NamedTuple):
    """A feature: the newest value of a column where there is no function, else an aggregate; lengths in microseconds."""

    column: str | None
    function: str | None = None
    last_us: int | None = None
    every_us: int | None = None
    n: int | None = None


class Behind(NamedTuple):
    """The rows behind a view, as they are stored, and what is asked of them. Kinds are those of the contract."""

    root: str  # the table's folder
    files: Sequence[StoredFile]  # in the order of addition
    kinds: Mapping[str, str]  # of every column that is read
    entities: Sequence[str]
    at: str | None
    created: str | None
    once: Sequence[str] | None  # rows that agree in entity, times and these columns are one; None: nothing is looked at twice
    first_source: str  # of rows that tell none
    excluded: Sequence[Excluded]
    ttl_us: int | None
    newest: bool  # the newest values are asked for, whatever their time
    wanted: Sequence[Wanted]


class FrameEngine(Protocol):
    """Computes features for more rows than one process holds."""

    def reads(self, location: str) -> bool:
        """Tell whether it reads files at this location; what it does not read is brought to this machine for it."""
        ...

    def join(self, asked: Path, behind: Behind, out: Path) -> None:
        """Answer each row of the Parquet file ``asked``: ``row`` (a number), ``k0``, ``k1``... (the entity, as text), ``t`` (the moment).

        Writes a folder ``out`` of Parquet files that hold, in the order of their names and rows, ``row`` ascending and ``f0``, ``f1``...
        as ``wanted`` says. Every row comes back; without an entity or a moment with nulls.
        """
        ...

    def close(self) -> None:
        """Give back what runs elsewhere."""
        ...


class Notifier(Protocol):
    """Where alerts go."""

    def send(self, title: str, text: str, link: str | None = None) -> None:
        """Deliver one message, or raise Unavailable; the caller retries."""
        ...
