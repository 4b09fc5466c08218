"""The rows of datasets: Delta tables partitioned by part. A version is the parts it lists; what the catalog does not list does not exist."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from kaizenml.context import Context
from kaizenml.data import exclusions, forgotten, opened, storage, store
from kaizenml.data.dataset import DatasetVersion, Kind
from kaizenml.data.hashing import PartHash, content_hash, in_blocks
from kaizenml.data.keys import open_keys
from kaizenml.data.kinds import PART, SOURCE, STORED, VERSION, no_column
from kaizenml.data.opened import State
from kaizenml.data.parse import parse_as
from kaizenml.data.storage import Place
from kaizenml.errors import Conflict, Corrupt, NotFound, StorageFull, Unavailable, not_found
from kaizenml.refs import parse_ref

_LOCK_WAIT_S = 120.0
_BATCH_ROWS = 1 << 18


class Span(NamedTuple):
    """Rows by their time, in microseconds since 1970, both ends included; None: without end."""

    column: str
    first: int | None
    last: int | None

    def filter(self) -> Any:
        """Return it as Arrow's expression; a row without a time is in no span."""
        ends = [(self.first, pc.greater_equal), (self.last, pc.less_equal)]
        held = [compare(pc.field(self.column), pa.scalar(us, STORED["timestamp"])) for us, compare in ends if us is not None]
        return None if not held else held[0] if len(held) == 1 else held[0] & held[1]


def read(ctx: Context, ref: str | DatasetVersion, columns: list[str] | None = None) -> pa.Table:
    """Read the rows of a dataset version.

    Parameters
    ----------
    ref : ``name`` (the newest version) or ``name@number``; or a version itself, with only some of its parts where only these are wanted.
    columns : names in the order wanted, ``_source`` among them where it is wanted; None for all of the contract's.

    Returns
    -------
    Rows in the order in which they were added, in the storage types of the version's kinds (``kinds.STORED``).

    Raises
    ------
    NotFound : no such dataset or version.
    InvalidData : no such column; names the nearest.
    Corrupt : a part of the version is gone or damaged.
    """
    return rows_of(ctx, version(ctx, ref), columns)


def rows_of(ctx: Context, wanted: DatasetVersion, columns: list[str] | None = None) -> pa.Table:
    """Read the rows of the parts that ``wanted`` lists, as ``read`` does."""
    names = list(wanted.columns) if columns is None else columns
    for name in names:
        if name not in wanted.columns and name != SOURCE:
            raise no_column(name, wanted.columns, wanted.ref)
    return _with_first_source(ctx, wanted, read_parts(folder(ctx, wanted.dataset), wanted.parts, kinds_of(wanted, names)))


def _with_first_source(ctx: Context, wanted: DatasetVersion, rows: pa.Table) -> pa.Table:
    """Fill in the source of rows from before rows had one: the dataset's first."""
    if SOURCE not in rows.column_names or not rows[SOURCE].null_count:
        return rows
    with ctx.catalog.read() as connection:
        first = store.sources(connection, wanted.dataset)[0].name
    return rows.set_column(rows.column_names.index(SOURCE), SOURCE, pc.fill_null(rows[SOURCE], first))


def batches(ctx: Context, ref: str | DatasetVersion, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read the rows of a dataset version as ``read`` does, some at a time: memory is bounded whatever the version's size."""
    wanted = version(ctx, ref)
    names = list(wanted.columns) if columns is None else columns
    for name in names:
        if name not in wanted.columns and name != SOURCE:
            raise no_column(name, wanted.columns, wanted.ref)
    for rows in batches_of_parts(folder(ctx, wanted.dataset), wanted.parts, kinds_of(wanted, names)):
        yield _with_first_source(ctx, wanted, rows)


def kinds_of(version: DatasetVersion, columns: list[str]) -> dict[str, Kind]:
    """Return the kinds of some columns of a version; rows also have ``_source``, a text."""
    return {name: "text" if name == SOURCE else version.columns[name] for name in columns}


def read_allowed(ctx: Context, ref: str | DatasetVersion, columns: list[str] | None = None) -> pa.Table:
    """Read the rows of a dataset version that may be learnt from: as ``read``, without those that an exclusion covers now."""
    wanted = version(ctx, ref)
    with ctx.catalog.read() as connection:
        held = exclusions.active(connection, [wanted.dataset])
    rows = read(ctx, wanted, columns)
    return rows.filter(pa.array(~covered(ctx, wanted, held))) if held else rows


def allowed_batches(ctx: Context, ref: str | DatasetVersion, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read the rows that ``read_allowed`` gives, some at a time."""
    wanted = version(ctx, ref)
    return Scan(ctx, wanted, list(wanted.columns) if columns is None else columns).batches()


class Scan:
    """Rows of a dataset version that may be learnt from, to be read once or more often: the same rows each time, whatever is written meanwhile.

    Parameters
    ----------
    ref : as ``read`` has it.
    columns : all that will be read.
    span : rows outside of it may be left out, and what a file holds of them is not read.
    """

    def __init__(self, ctx: Context, ref: str | DatasetVersion, columns: list[str], *, span: Span | None = None) -> None:
        wanted = version(ctx, ref)
        with ctx.catalog.read() as connection:
            held = exclusions.active(connection, [wanted.dataset])
        self._allowed = ~covered(ctx, wanted, held) if held else None
        self._path, self._kinds = folder(ctx, wanted.dataset), kinds_of(wanted, columns)
        files, schema = _stored(self._path, wanted.parts, self._kinds, PART)
        with _sound(self._path), room():
            self._rows = _opened(self._path, files, schema, None if held else span)  # exclusions count rows by their places

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Read some of the columns, some rows at a time, in the order in which rows were added."""
        kinds = self._kinds if columns is None else {name: self._kinds[name] for name in columns}
        begin = 0
        for rows in _batches(self._path, self._rows, kinds):
            yield rows if self._allowed is None else rows.filter(pa.array(self._allowed[begin : begin + rows.num_rows]))
            begin += rows.num_rows


class Allowed:
    """The rows that ``read_allowed`` gives of a dataset's newest version, for whoever takes Arrow's C stream: some at a time, as often as asked."""

    def __init__(self, ctx: Context, name: str) -> None:
        self._ctx, self.version = ctx, version(ctx, name)
        self.schema = pa.schema([(name, STORED[kind]) for name, kind in self.version.columns.items()])
        self.failed: Exception | None = None
        """Why rows could not be read: through the stream only a text of it comes."""

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.RecordBatchReader.from_batches(self.schema, self._batches()).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for rows in allowed_batches(self._ctx, self.version):
                yield from rows.to_batches()
        except Exception as error:
            self.failed = error
            raise


def covered(ctx: Context, wanted: DatasetVersion, by: Sequence[exclusions.Exclusion]) -> npt.NDArray[np.bool_]:
    """Tell for each row of a version, in the order of ``rows_of``, whether one of these exclusions covers it."""
    sources = rows_of(ctx, wanted, [SOURCE])[SOURCE]
    rows = len(sources)  # fewer than the version says, where some were forgotten
    found = np.zeros(rows, bool)
    times: dict[str | None, npt.NDArray[np.int64]] = {}
    for each in by:
        if each.since is None and each.until is None:
            found |= exclusions.matches(each, sources, np.zeros(rows, np.int64))
            continue
        if each.time not in times:
            times[each.time] = _times_us(ctx, wanted, each.time, rows)
        found |= exclusions.matches(each, sources, times[each.time])
    return found


def _times_us(ctx: Context, wanted: DatasetVersion, column: str | None, rows: int) -> npt.NDArray[np.int64]:
    """Return each row's time in microseconds: what the column says, or else when it was added."""
    if column is not None and wanted.columns.get(column) == "timestamp":
        stored = rows_of(ctx, wanted, [column])[column].cast(pa.int64())
        times = np.array(pc.fill_null(stored, 0).to_numpy(), np.int64)
        untimed = np.asarray(stored.is_null().to_numpy(), bool)
    else:
        times, untimed = np.zeros(rows, np.int64), np.ones(rows, bool)
    if untimed.any():
        with ctx.catalog.read() as connection:
            added = {each.number: round(each.created_at * 1e6) for each in store.versions(connection, wanted.dataset)}
        first = dict([next(iter(wanted.columns.items()))])
        counts = [read_parts(folder(ctx, wanted.dataset), [number], first).num_rows for number in wanted.parts]
        now = round(ctx.clock.timestamp() * 1e6)  # a part that is being added is of no version yet
        times[untimed] = np.repeat([added.get(number, now) for number in wanted.parts], counts)[untimed]
    return times


def version(ctx: Context, ref: str | DatasetVersion) -> DatasetVersion:
    """Return a dataset version.

    Parameters
    ----------
    ref : ``name`` (the newest) or ``name@number``; a version is returned as it is.

    Raises
    ------
    NotFound : no such dataset (names the nearest) or no such number.
    """
    if isinstance(ref, DatasetVersion):
        return ref
    name, number = parse_ref(ref)
    with ctx.catalog.read() as connection:
        found = store.version(connection, name, number)
        if found:
            return as_stored(ctx, found)
        known = store.names(connection)
        newest = store.version(connection, name, None)
    if newest is None:
        raise not_found("dataset", name, known, remedy="kaizen data list, or kaizen data add NAME FILE")
    raise NotFound(
        f"dataset {name!r} has no version {number}; the newest is {newest.number}",
        remedy=f"kaizen data versions {name}",
        values={"newest": newest.number},
    )


def as_stored(ctx: Context, found: DatasetVersion) -> DatasetVersion:
    """Return a version with the kinds that its columns have now, where some are being hidden.

    The table changes in one commit and the catalog in a later one. A process killed in between leaves a table that holds text, such as
    pseudonyms, under versions that say numbers.
    """
    state = opened.look(folder(ctx, found.dataset)) if found.becoming else None
    if state is None:
        return found
    hidden = {name: kind for name, kind in found.becoming.items() if name in found.columns and _is_text(state.schema, name)}
    return msgspec.structs.replace(found, columns=found.columns | hidden)


def _is_text(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and schema.field(name).type in (pa.string(), pa.large_string(), pa.string_view())


def verify(ctx: Context, ref: str) -> DatasetVersion:
    """Compare the stored rows of a version with the hashes that were written with them; return the version.

    Raises
    ------
    Corrupt : a part's rows are not those that were added, or left without a signed record.
    """
    wanted = version(ctx, ref)
    if wanted.forgotten:
        forgotten.check(wanted.forgotten, open_keys(ctx.state), f"dataset {wanted.ref}", wanted.hash)
    with ctx.catalog.read() as connection:
        parts = store.parts(connection, wanted.dataset)
    for number in wanted.parts:
        part = parts[number]
        made = version(ctx, f"{wanted.dataset}@{number}")
        found = part_hash(folder(ctx, wanted.dataset), number, kinds_of(made, part.columns), blocks=in_blocks(part.hash))
        if found != part.hash:
            raise Corrupt(
                f"the rows that {made.ref} added differ from what was written",
                remedy=f"where one of these was interrupted: kaizen data forget, kaizen data protect {wanted.dataset}; else restore a backup",
                values={"part": number},
            )
    return wanted


def part_hash(path: Place, number: int, columns: Mapping[str, Kind], *, blocks: bool) -> str:
    """Return the content hash of a part as it is stored now; ``blocks``: by scheme 2, with one block of it in memory."""
    if not blocks:
        return content_hash(read_parts(path, [number], columns))
    found = PartHash()
    for rows in batches_of_parts(path, [number], columns):
        found.add(rows)
    return found.value()


def folder(ctx: Context, dataset: str) -> Place:
    """Return where a dataset's Delta table lies."""
    return storage.place(ctx.state / "data", ctx.settings.project.objects, dataset)


def quarantine_folder(ctx: Context, dataset: str) -> Place:
    """Return where the rows lie that a dataset's contract kept out."""
    return folder(ctx, f"{dataset}__quarantine")


@contextmanager
def locked(ctx: Context, dataset: str) -> Iterator[None]:
    """Hold the dataset for writing. The lock goes with the process that holds it, however that ends."""
    with ctx.hold(f"data/{dataset}", wait_s=_LOCK_WAIT_S) as held:
        if not held:
            what = f"dataset {dataset!r} has been written to by another process for {_LOCK_WAIT_S:.0f} s"
            raise Unavailable(what, remedy="wait for it, then repeat")
        yield


def part_files(path: Place, by: str = PART) -> dict[int, list[str]]:
    """Return the live files of each part, in the order of their rows."""
    with room():
        there = opened.look(path)
    return files_of(path, there, by)


def files_of(path: Place, there: State | None, by: str) -> dict[int, list[str]]:
    """Return the files of each part at one state of the table, as ``part_files`` does of the newest."""
    if there is None:
        return {}
    files: dict[int, list[str]] = {}
    for relative, number in zip(there.files["path"].to_pylist(), there.files[f"partition.{by}"].to_pylist(), strict=True):
        files.setdefault(int(number), []).append(storage.file_name(path, relative))
    # a part that fills several files numbers them in its rows' order
    return {number: sorted(found) for number, found in files.items()}


def stored_types(path: Place, columns: Iterable[str]) -> dict[str, pa.DataType]:
    """Return the types in which the table keeps those of the columns that it has."""
    with room():
        there = opened.look(path)
    wanted = set(columns)
    return {} if there is None else {field.name: field.type for field in there.schema if field.name in wanted}


def read_parts(path: Place, parts: list[int], columns: Mapping[str, Kind], *, by: str = PART) -> pa.Table:
    """Read rows of these parts as these kinds. Columns that a part does not have are null."""
    files, schema = _stored(path, parts, columns, by)
    with _sound(path):
        return _as_kinds(_parquet(path, files, schema), columns)


def batches_of_parts(path: Place, parts: list[int], columns: Mapping[str, Kind], *, by: str = PART) -> Iterator[pa.Table]:
    """Read rows of these parts as ``read_parts``, some at a time, so that memory is bounded."""
    files, schema = _stored(path, parts, columns, by)
    with _sound(path), room():
        found = _opened(path, files, schema, None)
    yield from _batches(path, found, columns)


def _opened(path: Place, files: list[str], schema: pa.Schema, span: Span | None) -> Any:
    """Open files as one of Arrow's datasets: all of their rows, or the groups of rows that reach into the span."""
    from pyarrow import dataset

    # the default fetches all that is wanted of a file at once, and keeps it while the file is read: that pays over a network only
    fetched = dataset.ParquetFragmentScanOptions(pre_buffer=isinstance(path, storage.Remote))
    form = dataset.ParquetFileFormat(default_fragment_scan_options=fetched)
    found = dataset.dataset(files, schema=schema, format=form, filesystem=storage.filesystem(path))
    within = None if span is None or schema.field(span.column).type != STORED["timestamp"] else span.filter()
    if within is None:
        return found
    some = [fragment.subset(filter=within, schema=schema) for fragment in found.get_fragments()]
    return dataset.FileSystemDataset([each for each in some if each.row_groups], schema, found.format, found.filesystem)


def _batches(path: Place, found: Any, columns: Mapping[str, Kind]) -> Iterator[pa.Table]:
    with _sound(path), room():
        for batch in _groups(found, list(columns)):
            if batch.num_rows:
                yield _as_kinds(pa.Table.from_batches([batch]), columns)


def _groups(found: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Read files group of rows by group, one ahead of who works on them: the scanner itself reads up to a gigabyte ahead of who is slow."""
    groups = (group for file in found.get_fragments() for group in file.split_by_row_group())
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
        before: Future[pa.Table] | None = None
        for group in groups:
            next_ = ahead.submit(group.to_table, schema=found.schema, columns=columns)
            if before is not None:
                yield from before.result().to_batches(_BATCH_ROWS)
            before = next_
        if before is not None:
            yield from before.result().to_batches(_BATCH_ROWS)


def _stored(path: Place, parts: list[int], columns: Mapping[str, Kind], by: str) -> tuple[list[str], pa.Schema]:
    """Return the files of these parts, in the order of their rows, and the types in which the columns are stored."""
    with room():
        there = opened.look(path)
    files = files_of(path, there, by)
    if gone := [number for number in parts if number not in files]:
        raise Corrupt(
            f"part {gone[0]} of {path.name!r} is gone from {path}",
            remedy="restore the state folder from a backup, or add the data again with mode replace",
            values={"parts": gone},
        )
    physical = {field.name: field.type for field in there.schema} if there is not None else {}
    schema = pa.schema([(name, physical.get(name, STORED[kind])) for name, kind in columns.items()])
    return [file for number in parts for file in files[number]], schema


@contextmanager
def _sound(path: Place) -> Iterator[None]:
    """Turn a lost or damaged file into Corrupt."""
    try:
        yield
    except FileNotFoundError as error:
        remedy = "repeat, as a forgetting may have rewritten it just now; if it stays gone, restore the state folder from a backup"
        raise Corrupt(f"a file of {path.name!r} is gone: {error}", remedy=remedy) from error
    except pa.ArrowInvalid as error:
        raise Corrupt(f"a file of {path.name!r} is damaged: {error}", remedy="restore the state folder from a backup") from error


def _as_kinds(table: pa.Table, columns: Mapping[str, Kind]) -> pa.Table:
    for place, (name, kind) in enumerate(columns.items()):
        if table.schema.field(name).type != STORED[kind]:
            # stored wider since a later version changed the column's kind
            column = table[name]
            cast = parse_as(column, kind) if pa.types.is_string(column.type) else column.cast(STORED[kind])
            table = table.set_column(place, name, cast)
    return table


def read_quarantine(path: Place, versions: Iterable[int]) -> pa.Table:
    """Read the rows that these versions' additions kept out: values as text, with ``_version``, ``_row``, ``_rule`` and ``_reason``."""
    with room():
        there = opened.look(path)
    files = files_of(path, there, VERSION)
    if there is None or not files:
        return pa.table({VERSION: pa.array([], pa.int64())})
    columns: dict[str, Kind] = {field.name: "integer" if field.name == "_row" else "text" for field in there.schema if field.name != VERSION}
    found = []
    for number in sorted(set(versions) & set(files)):
        rows = read_parts(path, [number], columns, by=VERSION)
        found.append(rows.append_column(VERSION, pa.array(np.full(rows.num_rows, number, dtype=np.int64))))
    return pa.concat_tables(found) if found else pa.table({VERSION: pa.array([], pa.int64())})


def append_part(path: Place, table: pa.Table, number: int, *, by: str = PART) -> None:
    """Write rows as part ``number``: all of them, durable, or none.

    The caller holds the dataset and has called ``clean``; the part exists for readers only once the catalog says so.

    Raises
    ------
    Conflict : another writer has written since, although the caller held the dataset (its hold was lost).
    """
    table = fitted(path, table)
    rows = table.append_column(by, pa.array(np.full(table.num_rows, number, dtype=np.int64)))
    try:
        with room():
            with opened.changing(path) as held:
                if held is not None and number in files_of(path, held.state, by):
                    raise Conflict(f"part {number} of {path.name!r} was written by another writer meanwhile", remedy="repeat")
                there = held.table if held else None
                storage.write(path, there, rows, by=by, number=number, mode="append", schema_mode="merge" if there else None)
            storage.sync(path, f"{by}={number}")
    except StorageFull:
        remove_leftovers(path, number, by)
        raise


def clean(path: Place, known: set[int], *, by: str = PART) -> list[int]:
    """Remove what a writer left that died between the table and the catalog; return the numbers of those parts.

    Parameters
    ----------
    path : where the Delta table lies.
    known : parts that the catalog knows; no other part may have a reader.
    """
    with room():
        strays = sorted(set(part_files(path, by)) - known)
        if strays:
            with opened.changing(path) as held:
                if held is not None:
                    held.table.delete(f"{by} IN ({', '.join(map(str, strays))})")
        for name in storage.folders(path):
            column, _, number = name.partition("=")
            if column == by and number.isdigit() and int(number) not in known:
                storage.remove(path, name)
    return strays


def fitted(path: Place, table: pa.Table) -> pa.Table:
    """Bring rows to the types that the table stores; where a kind changed, the table is rewritten wider. Old versions read as before."""
    there = opened.look(path)
    if there is None:
        return table
    stored = {field.name: field.type for field in there.schema}
    clash = [name for name in table.column_names if stored.get(name, table.schema.field(name).type) != table.schema.field(name).type]
    # a column stored as text takes everything, so only the others call for a look at the old rows
    old = _everything(path) if any(not pa.types.is_string(stored[name]) for name in clash) else None
    rewritten = old
    for name in clash:
        target = _wider(old[name], table[name]) if old is not None else pa.string()
        table = table.set_column(table.column_names.index(name), name, table[name].cast(target))
        if rewritten is not None:
            rewritten = rewritten.set_column(rewritten.column_names.index(name), name, rewritten[name].cast(target))
    if rewritten is not None and old is not None and rewritten.schema != old.schema:
        with room(), opened.changing(path) as held:
            if held is None or held.state.version != there.version:
                raise Conflict(f"{path.name!r} was written to by another writer meanwhile", remedy="repeat")
            storage.write(path, held.table, rewritten, by=PART, mode="overwrite", schema_mode="overwrite")
    return table


def _parquet(path: Place, files: list[str], schema: pa.Schema) -> pa.Table:
    from pyarrow import dataset  # loads pandas where that is installed: a second that only reading needs to spend

    with room():
        return dataset.dataset(files, schema=schema, format="parquet", filesystem=storage.filesystem(path)).to_table()


def _everything(path: Place) -> pa.Table:
    """Read all parts, rows in their order, as they are stored."""
    there = opened.look(path)
    assert there is not None  # the caller has looked
    schema = pa.schema([field for field in there.schema if field.name != PART])
    found = []
    for number, files in sorted(files_of(path, there, PART).items()):
        rows = _parquet(path, files, schema)
        found.append(rows.append_column(PART, pa.array(np.full(rows.num_rows, number, dtype=np.int64))))
    return pa.concat_tables(found)


def _wider(stored: pa.ChunkedArray, added: pa.ChunkedArray) -> pa.DataType:
    """Return the type that holds both: numbers when no digit is lost, else text."""
    if {stored.type, added.type} == {pa.int64(), pa.float64()}:
        try:
            stored.cast(pa.float64())  # refused beyond 2**53
            added.cast(pa.float64())
            return pa.float64()
        except pa.ArrowInvalid:
            pass
    return pa.string()


def remove_leftovers(path: Place, number: int, by: str) -> None:
    """Remove the files of a part that did not come into the table, and the table where nothing did."""
    if number not in part_files(path, by):
        storage.remove(path, f"{by}={number}")
    if opened.look(path) is None:
        storage.remove(path)


@contextmanager
def room() -> Iterator[None]:
    """Turn a full disk, as each layer words it, into StorageFull."""
    try:
        yield
    except (OSError, DeltaError) as error:
        text = str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if full or any(
            sign in text
            for sign in ("No space left", "File too large", "quota exceeded", "os error 28", "os error 27", "StorageFull", "FileTooLarge")
        ):
            raise StorageFull(
                "no room left on the disk for the rows; nothing was added", remedy="free some space and repeat", values={"reason": text[:300]}
            ) from error
        if "conflict" in text.lower() or "concurrent transaction" in text.lower():
            raise Conflict("the table was changed by another writer meanwhile", remedy="repeat", values={"reason": text[:300]}) from error
        if "Generic S3 error" in text:
            remedy = "check AWS_ENDPOINT_URL, AWS_REGION, the keys and [project] objects; repeat"
            raise Unavailable("the object store does not answer as it should", remedy=remedy, values={"reason": text[:300]}) from error
        raise
