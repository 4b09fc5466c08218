"""Where Delta tables lie: folders of this machine, or below ``s3://bucket/prefix``. The only file that tells them apart.

A place is a ``Path`` or a ``Remote``. On S3 the table's log is written by conditional puts, so a writer that lost a race, or its lock, is
refused; files that a killed writer left have no entry in the log, and so no reader.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deltalake import CommitProperties, DeltaTable, Field, Schema, Transaction, write_deltalake
from deltalake.exceptions import TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

WRITER = "kaizenml"
"""Names us in the table's log: of two commits that started from one state, the log refuses the second."""


@dataclass(frozen=True)
class Remote:
    """A table in an object store. The ``AWS_*`` variables name the server (``AWS_ENDPOINT_URL``), the region and the keys."""

    uri: str

    @property
    def name(self) -> str:
        return self.uri.rpartition("/")[2]

    @property
    def options(self) -> dict[str, str]:
        """Return what Delta is told beside the environment: to give up in time, and to ask a server without TLS where one is named."""
        plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
        patience = {"connect_timeout": "5s", "timeout": "60s", "max_retries": "4", "retry_timeout": "30s"}
        return patience | ({"allow_http": "true"} if plain else {})


Place = Path | Remote


def place(local: Path, objects: str | None, name: str) -> Place:
    """Return where a table lies: below ``objects`` (``s3://bucket/prefix``) when the project has named it, else in the folder ``local``."""
    return local / name if objects is None else Remote(f"{objects.rstrip('/')}/data/{name}")


def open_table(at: Place) -> DeltaTable | None:
    """Open a table's newest state; None where there is no table."""
    if isinstance(at, Path) and not (at / "_delta_log").exists():
        return None
    try:
        return DeltaTable(at) if isinstance(at, Path) else DeltaTable(at.uri, storage_options=at.options)
    except TableNotFoundError:
        return None


def write(at: Place, table: DeltaTable | None, rows: Any, *, by: str, number: int | None = None, **options: Any) -> None:
    """Write rows, partitioned by the column ``by``.

    Parameters
    ----------
    table : the state that the caller has looked at; a commit that another writer made since then refuses this one. None: there is no table.
    number : of the part that is added; None when the whole table is written anew.
    options : for ``write_deltalake``.
    """
    ours = None if number is None else CommitProperties(app_transactions=[Transaction(WRITER, number)])
    target: Any = table if table is not None else (at if isinstance(at, Path) else at.uri)
    storage = at.options if isinstance(at, Remote) and table is None else None
    # chunks are written side by side, and would come back in another order
    write_deltalake(target, rows.combine_chunks(), partition_by=[by], storage_options=storage, commit_properties=ours, **options)


def take(at: Place, table: DeltaTable | None, files: list[AddAction], schema: Any, *, by: str, number: int) -> None:
    """Take files that lie in the table's place into the table, as one part.

    Parameters
    ----------
    table : as for ``write``.
    files : in the order of their rows.
    schema : of the files (pyarrow's), without ``by``.
    """
    import pyarrow as pa

    ours = CommitProperties(app_transactions=[Transaction(WRITER, number)])
    whole = Schema.from_arrow(schema.append(pa.field(by, pa.int64())))
    if table is None:
        where = str(at.absolute()) if isinstance(at, Path) else at.uri
        options = at.options if isinstance(at, Remote) else None
        create_table_with_add_actions(where, whole, files, mode="error", partition_by=[by], storage_options=options, commit_properties=ours)
        return
    known = {field.name for field in table.schema().fields}
    fresh: list[Field] = [field for field in whole.fields if field.name not in known]
    if fresh:
        table.alter.add_columns(fresh)  # changes no row: harmless if nothing follows
    table.create_write_transaction(files, "append", table.schema(), partition_by=[by], commit_properties=ours)


def filesystem(at: Place) -> Any:
    """Return the file system for pyarrow in which the table's files are found by the names of ``part_files``."""
    if isinstance(at, Path):
        return None
    from deltalake.fs import DeltaStorageHandler
    from pyarrow import fs

    return fs.PyFileSystem(DeltaStorageHandler(at.uri, at.options))


def file_name(at: Place, relative: str) -> str:
    """Return a file of the table as ``filesystem`` knows it; ``relative`` is its name in the log."""
    return str(at / relative) if isinstance(at, Path) else relative


def size_of(at: Place, relative: str) -> int:
    """Return the bytes of a file of the table."""
    if isinstance(at, Path):
        return (at / relative).stat().st_size
    return int(filesystem(at).get_file_info(relative).size)


def folders(at: Place) -> list[str]:
    """Return the names of the folders that lie in the table's place, whatever the log says of them."""
    if isinstance(at, Path):
        return [entry.name for entry in at.iterdir() if entry.is_dir()] if at.exists() else []
    from pyarrow import fs

    found = filesystem(at).get_file_info(fs.FileSelector("", recursive=False, allow_not_found=True))
    return [info.path for info in found if info.type == fs.FileType.Directory]


def remove(at: Place, folder: str | None = None) -> None:
    """Remove one folder of the table, or all of it; nothing happens where there is none."""
    if isinstance(at, Path):
        shutil.rmtree(at if folder is None else at / folder, ignore_errors=True)
    else:
        for name in folders(at) if folder is None else [folder]:
            filesystem(at).delete_dir(name)


def sync(at: Place, folder: str) -> None:
    """Bring a part and the newest log entry to the disk itself; an object store has done so when it answers."""
    if isinstance(at, Remote):
        return
    log, part = at / "_delta_log", at / folder
    newest = max(log.glob("*.json"))
    for target in (*part.glob("*.parquet"), newest, part, log, at):
        handle = os.open(target, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def parquet_writer(where: Any, schema: Any, *, filesystem: Any = None) -> Any:
    """Return what writes rows to a Parquet file: text packed small, numbers so that they are read fast.

    Zstandard makes numbers hardly smaller than Snappy does, and takes four times as long to give them back.
    """
    import pyarrow as pa
    import pyarrow.parquet

    text = [field.name for field in schema if pa.types.is_string(field.type)]
    packed = {name: "zstd" if name in text else "snappy" for name in schema.names}
    return pyarrow.parquet.ParquetWriter(where, schema, filesystem=filesystem, compression=packed, compression_level=dict.fromkeys(text, 1))
