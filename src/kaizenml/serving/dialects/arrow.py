"""Arrow IPC streams as bodies. pyarrow is loaded when the first one comes; nothing of a stream is unpacked before its size is known.

A stream may lie about sizes in three ways: a compressed buffer that says how long it gets, a short text that a dictionary or a view
repeats in every row, and buffers that several columns share. Each is added up before it is followed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from kaizenml.errors import InvalidInput, TooLarge
from kaizenml.features.encoding.columns import Column, Columns, time_texts
from kaizenml.serving.protocol import Limits, check_rows

_REMEDY = "send what pyarrow.ipc.new_stream(sink, table.schema) writes, of plain columns"
_WIDEST = 10_000  # columns
_METADATA = 4_000_000  # bytes of one message's description
_COMPRESSED = 4  # times max_body_bytes that compressed buffers may become


def read(body: bytes, limits: Limits) -> Columns:
    """Return the rows of an Arrow stream.

    Raises
    ------
    InvalidInput : not an Arrow stream, broken in itself, or of columns that are not plain.
    TooLarge : too many rows or columns, or too many bytes once unpacked.
    """
    import pyarrow as pa

    try:
        _check_unpacked(pa, body, limits.body_bytes * _COMPRESSED)
        with pa.ipc.open_stream(pa.py_buffer(body), options=pa.ipc.IpcReadOptions(use_threads=False)) as stream:
            _check_schema(pa, stream.schema)
            batches, rows = [], 0
            for batch in stream:
                rows += batch.num_rows
                check_rows(max(rows, 1), limits, "rows")
                _check_cells(rows * batch.num_columns, limits.body_bytes)
                batch.validate(full=True)
                batches.append(batch)
        check_rows(rows, limits, "rows")
        table = pa.Table.from_batches(batches)
        _check_size(pa, table, limits.body_bytes)
        return Columns({name: _column(pa, column) for name, column in zip(table.column_names, table.columns, strict=True)})
    except (pa.ArrowException, struct.error, OSError, ValueError, OverflowError, MemoryError) as error:
        text = str(error).partition("\n")[0][:200]
        raise InvalidInput(f"the Arrow stream cannot be read: {text}", remedy=_REMEDY, values={"problem": text}) from None


def write(columns: dict[str, Any], told: dict[str, str], absent: dict[str, list[int]]) -> bytes:
    """Return an Arrow stream.

    Parameters
    ----------
    columns : by name.
    told : becomes the schema's metadata.
    absent : by column, the places that are null whatever stands there.
    """
    import pyarrow as pa

    arrays = []
    for name, values in columns.items():
        if np.ndim(values) == 2:
            arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1]))
            continue
        missing = np.zeros(len(values), np.bool_)
        missing[absent.get(name, [])] = True
        arrays.append(pa.array(values, mask=missing))
    batch = pa.RecordBatch.from_arrays(arrays, names=list(columns)).replace_schema_metadata(told)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    raw: bytes = sink.getvalue().to_pybytes()
    return raw


def _check_schema(pa: Any, schema: Any) -> None:
    if len(schema) > _WIDEST:
        values = {"columns": len(schema), "limit": _WIDEST}
        raise TooLarge(f"the stream has {len(schema):,} columns; the limit is {_WIDEST:,}", remedy="send the model's inputs only", values=values)
    if not len(schema):
        raise InvalidInput("the stream has no columns", remedy="send the model's inputs", values={"columns": 0})
    seen: set[str] = set()
    for field in schema:
        if field.name in seen:
            raise InvalidInput(f"{field.name[:100]!r} comes twice", remedy="send each column once", values={"field": field.name[:100]})
        seen.add(field.name)
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not any(fits(kind) for fits in _plain_types(pa)):
            what = f"{field.name[:100]!r} holds {str(field.type)[:100]}, not plain values"
            raise InvalidInput(what, remedy="send numbers, truth values, texts, dates or times", values={"field": field.name[:100]})


def _plain_types(pa: Any) -> tuple[Any, ...]:
    kinds = pa.types
    return (
        kinds.is_integer, kinds.is_floating, kinds.is_boolean, kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_timestamp,
        kinds.is_date, kinds.is_null,
    )  # fmt: skip


def _check_size(pa: Any, table: Any, limit: int) -> None:
    """Refuse what becomes much more than it came as: columns may share bytes, and so may the rows of a column of texts."""
    import pyarrow.compute as pc

    size = 0
    for column in table.columns:
        for chunk in column.chunks:
            if pa.types.is_dictionary(chunk.type):
                if _is_text(pa, chunk.dictionary.type):
                    size += pc.sum(_lengths(pa, pc, chunk.dictionary).take(chunk.indices)).as_py() or 0
            elif _is_text(pa, chunk.type):
                size += pc.sum(_lengths(pa, pc, chunk)).as_py() or 0
    _check_cells(size, limit)


def _lengths(pa: Any, pc: Any, texts: Any) -> Any:
    if not pa.types.is_string_view(texts.type):
        return pc.binary_length(texts).cast(pa.int64())
    views = np.frombuffer(texts.buffers()[1] or b"", "<i4")[::4][texts.offset : texts.offset + len(texts)]  # a view begins with its length
    return pa.array(views, pa.int64(), mask=texts.is_null().to_numpy(zero_copy_only=False))


def _check_cells(size: int, limit: int) -> None:
    if size > limit:
        what = f"the stream unpacks to {size:,} bytes or more; the limit is {limit:,}"
        remedy = "send fewer rows at once, or raise max_body_bytes under [serve] in kaizen.toml"
        raise TooLarge(what, remedy=remedy, values={"bytes": size, "limit": limit})


def _is_text(pa: Any, kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _column(pa: Any, column: Any) -> Column:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_date(kind):
        return time_texts(column.cast(pa.timestamp("us")).to_numpy())
    if pa.types.is_timestamp(kind):  # by way of whole numbers, for a zone may have any name; what is kept is UTC
        times = column.cast(pa.int64()).cast(pa.timestamp(kind.unit)).cast(pa.timestamp("us"), safe=kind.unit != "ns")
        return time_texts(times.to_numpy())
    array = pa.types.is_floating(kind) or ((pa.types.is_integer(kind) or pa.types.is_boolean(kind)) and not column.null_count)
    values: Column = column.to_numpy() if array else column.to_pylist()
    return values


def _check_unpacked(pa: Any, body: bytes, limit: int) -> None:
    """Add up what the compressed buffers of all messages say that they become, without unpacking any."""
    unpacked = 0
    source = pa.BufferReader(pa.py_buffer(body))
    while True:
        try:
            message = pa.ipc.read_message(source)
        except EOFError:
            break
        described = message.metadata.to_pybytes()
        if len(described) > _METADATA:
            values = {"bytes": len(described), "limit": _METADATA}
            raise TooLarge(f"a message of the stream has a description of {len(described):,} bytes", remedy=_REMEDY, values=values)
        unpacked += sum(_claims(described, message.body))
        if unpacked > limit:
            what = f"compressed, the stream becomes {unpacked:,} bytes or more; the limit is {limit:,}"
            raise TooLarge(what, remedy="send fewer rows at once, or uncompressed", values={"bytes": unpacked, "limit": limit})


# a message's description is a flatbuffer: tables of offsets, little endian; its form was verified when the message was read
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # MessageHeader


def _claims(described: bytes, body: Any) -> Iterator[int]:
    """Yield how long each compressed buffer of a message says that it becomes."""
    root = struct.unpack_from("<I", described)[0]
    kind_at, table_at = _slot(described, root, 1), _slot(described, root, 2)
    if kind_at is None or table_at is None:
        return
    kind, table = described[kind_at], _follow(described, table_at)
    if kind == _DICTIONARY:
        data_at = _slot(described, table, 1)  # a dictionary's values are a record batch inside
        if data_at is None:
            return
        table = _follow(described, data_at)
    elif kind != _BATCH:
        return
    buffers_at = _slot(described, table, 2)
    if buffers_at is None or _slot(described, table, 3) is None:  # not compressed
        return
    vector = _follow(described, buffers_at)
    for place in range(struct.unpack_from("<I", described, vector)[0]):
        offset, length = struct.unpack_from("<qq", described, vector + 4 + 16 * place)
        if length >= 8:
            claimed = struct.unpack_from("<q", body, offset)[0]
            yield max(claimed, 0)  # -1: this one is not compressed


def _slot(described: bytes, table: int, field: int) -> int | None:
    """Return where a table keeps a field; None where it has none."""
    names = table - struct.unpack_from("<i", described, table)[0]
    size = struct.unpack_from("<H", described, names)[0]
    place = 4 + 2 * field
    offset = struct.unpack_from("<H", described, names + place)[0] if place + 2 <= size else 0
    return table + offset if offset else None


def _follow(described: bytes, place: int) -> int:
    found: int = place + struct.unpack_from("<I", described, place)[0]
    return found
