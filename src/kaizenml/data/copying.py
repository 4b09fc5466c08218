"""Copy a Delta table's parts to another place, file by file, whatever their size."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from deltalake.transaction import AddAction

from kaizenml.data import storage, tables
from kaizenml.data.storage import Place
from kaizenml.errors import Corrupt

_CHUNK = 1 << 20
_BUFFER = 4 * _CHUNK  # larger than a chunk: what goes round the buffer reaches Delta's file system in a form that it does not take


def copy_parts(source: Place, target: Place, numbers: set[int], *, by: str) -> int:
    """Copy parts that the target lacks, each as one commit; return how many there are now of ``numbers``.

    Every file is read back and compared by its SHA-256. A copy that is killed leaves files without an entry in the log; the next one
    writes them again.

    Raises
    ------
    Corrupt : a file did not arrive as it was sent.
    """
    with tables.room():
        table = storage.open_table(source)
        if table is None:
            return 0
        actions = pa.table(table.get_add_actions(flatten=True)).select(["path", "size_bytes", "num_records", f"partition.{by}"]).to_pylist()
        schema = pa.schema([field for field in pa.schema(table.schema().to_arrow()) if field.name != by])
        there = set(tables.part_files(target, by))
        found: dict[int, list[dict[str, Any]]] = {}
        for action in sorted(actions, key=lambda action: str(action["path"])):
            found.setdefault(int(action[f"partition.{by}"]), []).append(action)
        for number in sorted((numbers & set(found)) - there):
            files = [_copied(source, target, action, number, by) for action in found[number]]
            storage.take(target, storage.open_table(target), files, schema, by=by, number=number)
            storage.sync(target, f"{by}={number}")
    return len(numbers & set(found))


def _copied(source: Place, target: Place, action: dict[str, Any], number: int, by: str) -> AddAction:
    name = str(action["path"])
    digest = hashlib.sha256()
    if isinstance(target, Path):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    place = storage.file_name(target, name)
    with (
        _open(source).open_input_stream(storage.file_name(source, name)) as reader,
        _open(target).open_output_stream(place, buffer_size=_BUFFER) as writer,
    ):
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    back = hashlib.sha256()
    with _open(target).open_input_stream(place) as reader:
        while chunk := reader.read(_CHUNK):
            back.update(chunk)
    if back.digest() != digest.digest():
        raise Corrupt(f"{name} of {source.name!r} did not arrive as it was sent", remedy="repeat", values={"file": name})
    stats = msgspec.json.encode({"numRecords": action["num_records"]}).decode()
    return AddAction(name, int(action["size_bytes"]), {by: str(number)}, 0, True, stats)


def _open(at: Place) -> Any:
    from pyarrow import fs

    return storage.filesystem(at) or fs.LocalFileSystem()
