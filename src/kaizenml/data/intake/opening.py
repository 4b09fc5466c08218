"""From what a caller names (files, folders, globs, object stores, queries, Delta tables, frames) to rows on their way in."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from kaizenml import scratch
from kaizenml.context import Context
from kaizenml.data.intake import databases, files, locations, sources
from kaizenml.data.intake.incoming import Incoming, Piece, Spool
from kaizenml.data.intake.streams import Located, reachable
from kaizenml.data.kinds import normalise
from kaizenml.errors import InvalidData, UsageError


def open_frame(ctx: Context, table: Any, location: str) -> Incoming:
    """Take a table or frame, or a stream of record batches, which may be larger than memory."""
    if isinstance(table, pa.RecordBatchReader):
        pieces = (Piece(normalise(pa.Table.from_batches(group)), 0.5) for group in files.grouped(iter(table)))
        spool = Spool(files.with_rows(pieces, "the stream"), _spools(ctx))
        return Incoming(location=location, pieces=spool.pieces, close=spool.close)
    rows = normalise(table)
    if not rows.num_rows:
        raise InvalidData("the table has no rows", remedy="give at least one row", values={"columns": rows.column_names[:50]})
    return Incoming(location=location, pieces=lambda: iter([Piece(rows)]))


def open_source(
    ctx: Context,
    source: str,
    *,
    query: str | None = None,
    cursor: str | None = None,
    after: str | None = None,
    taken: Mapping[str, str] | None = None,
    only_new: bool = False,
) -> Incoming | None:
    """Open what a location names.

    Parameters
    ----------
    source : a file, folder, glob or Delta table, here or in an object store; with ``query`` a database.
    query, cursor : see ``databases.read_query``; of workbooks, ``query`` names the sheet.
    after : position up to which the rows of a cursor were taken.
    taken : what was taken of it before, with marks.
    only_new : open only what was not taken; of many files, not those that were changed since.

    Returns
    -------
    Rows on their way in; None when there is nothing new, as far as can be told without reading.
    """
    locations.check_no_secret(source)
    scheme = locations.scheme_of(source)
    if query is not None and scheme not in (None, "file", *locations.SCHEMES):
        return _database(ctx, source, query, cursor, after)
    if cursor is not None:
        raise UsageError("--cursor says which rows of a query are new, and there is no --query", remedy="give --query, or leave --cursor out")
    if is_delta(ctx, source):
        return _delta(ctx, source, taken or {})
    many = locations.is_many(ctx, source)
    known = taken or {}
    found = [one for one in locations.files_at(ctx, source) if not only_new or (one.shown not in known if many else known.get(one.shown) != one.mark)]
    if not found:
        return None
    location = _recorded(ctx, source) if many else found[0].shown
    return Incoming(
        location=location,
        pieces=lambda: files.with_rows(_of_files(found, query), source) if many else files.pieces_of(found[0], query),
        taken={one.shown: one.mark for one in found},
        grows=many,
        reopened=location,
    )


def changed_files(ctx: Context, source: str, taken: Mapping[str, str]) -> list[str]:
    """Return the files of a folder or glob that were taken and are other ones now."""
    if locations.scheme_of(source) not in (None, "file", *locations.SCHEMES) or is_delta(ctx, source) or not locations.is_many(ctx, source):
        return []
    return [one.shown for one in locations.files_at(ctx, source) if taken.get(one.shown, one.mark) != one.mark]


def is_delta(ctx: Context, source: str) -> bool:
    """Whether a location is a Delta table."""
    scheme = locations.scheme_of(source)
    if scheme in locations.SCHEMES:
        filesystem, path = locations.store_of(locations.filled_in(source), source)
        from pyarrow import fs

        with reachable(source):
            return bool(filesystem.get_file_info(f"{path}/_delta_log").type == fs.FileType.Directory)
    return scheme in (None, "file") and (_local(ctx, source) / "_delta_log").is_dir()


def _of_files(found: list[Located], sheet: str | None) -> Iterator[Piece]:
    total, before = sum(one.size for one in found), 0
    for one in found:
        for piece in files.pieces_of(one, sheet):
            # a file is read by itself, and its columns may be others than those of the next
            yield piece._replace(done=(before + piece.done * one.size) / max(total, 1), sparse=piece.sparse or len(found) > 1)
        before += one.size


def _database(ctx: Context, url: str, query: str, cursor: str | None, after: str | None) -> Incoming | None:
    last: list[Any] = []

    def noted(pieces: Iterator[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if cursor is not None:
                if cursor not in piece.rows.column_names:
                    raise InvalidData(f"the query gives no column {cursor!r}", remedy="name one of its columns as --cursor",
                                      values={"known": piece.rows.column_names[:50]})  # fmt: skip
                last[:] = [piece.rows[cursor][-1].as_py()]
            yield piece

    value = databases.cursor_value(after) if after is not None else None
    opened, url = _file_of_sqlite(ctx, url)
    rows = noted(databases.read_query(opened, query, cursor, value))
    first = next(rows, None)
    if first is None:
        if after is not None:
            return None
        raise InvalidData("the query gives no rows", remedy="mend the query", values={"query": query[:300]})
    # a database may answer otherwise the next time: what it said is kept until all of it is in
    spool = Spool(itertools.chain([first], rows), _spools(ctx))
    return Incoming(
        location=locations.masked(url), pieces=spool.pieces, close=spool.close,
        position=lambda: databases.cursor_text(last[0]) if last else after, grows=cursor is not None, reopened=url,
    )  # fmt: skip


def _delta(ctx: Context, source: str, taken: Mapping[str, str]) -> Incoming | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    from kaizenml.data.storage import Remote

    scheme = locations.scheme_of(source)
    where = locations.filled_in(source) if scheme in locations.SCHEMES else str(_local(ctx, source).resolve())
    location = source if scheme in locations.SCHEMES else _recorded(ctx, source)
    try:
        table = DeltaTable(where, storage_options=Remote(where).options if scheme == "s3" else None)
        version = table.version()
    except DeltaError as error:
        raise InvalidData(f"{source} is no sound Delta table: {str(error)[:200]}", remedy="check it with the program that wrote it") from None
    if taken.get(location) == str(version):
        return None

    def pieces() -> Iterator[Piece]:
        batches = iter(table.to_pyarrow_dataset().to_batches(batch_readahead=1, fragment_readahead=1))
        return files.with_rows((Piece(normalise(pa.Table.from_batches(group)), 0.5) for group in files.grouped(batches)), source)

    return Incoming(location=location, pieces=pieces, taken={location: str(version)}, reopened=location)


def _local(ctx: Context, source: str) -> Path:
    path = Path(locations.filled_in(source).removeprefix("file://")).expanduser()
    return ctx.root / path if not path.is_absolute() and not path.exists() and (ctx.root / path).exists() else path


def _recorded(ctx: Context, source: str) -> str:
    """Return a location as it is found again from anywhere: relative to the project, or absolute."""
    if locations.scheme_of(source) is not None:
        return source
    if re.search(r"\$\{", source):
        return source
    path = Path(source).expanduser()
    if not path.is_absolute():
        folder = locations.folder_of(str(path))
        path = ctx.root / path if not Path(folder).exists() and (ctx.root / folder).exists() else path.absolute()
    return str(path.relative_to(ctx.root) if path.is_relative_to(ctx.root) else path)


def _file_of_sqlite(ctx: Context, url: str) -> tuple[str, str]:
    """Return a database's address as it is opened now, and as it is found again from anywhere; those of others as they are.

    Raises
    ------
    NotFound : it is a file of SQLite that is not there; SQLite would make it.
    """
    match = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^?]+)(.*)", url, re.DOTALL)
    if match is None or "${" in match[2] or match[2].startswith((":memory:", "file:")):
        return url, url
    path = _local(ctx, match[2])
    sources.check_is_file(path)
    opened = f"{match[1]}{path.absolute()}{match[3]}"
    return opened, url if (ctx.root / match[2]).exists() and path.samefile(ctx.root / match[2]) else opened


def _spools(ctx: Context) -> Path:
    return ctx.state / scratch.FOLDER
