"""Profiles: counts of a table's rows over bins that were fixed on the reference. They merge by addition.

A reference decides the bins once (``learn``): up to 129 quantiles for a number, the 200 commonest levels for a category.
Every window is counted over the same bins (``count``), so that hours add up to days and days to weeks without loss, and
two windows compare exactly as they would on their rows, to within a bin.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.errors import Corrupt
from kaizenml.features.signature import Field

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

FORMAT = 1
EDGES = 129
LEVELS = 200
WIDTH = LEVELS + 1
SEEN = 2_000  # distinct states of a view that a window remembers


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One input and its bins.

    ``number``: slots are below the first edge, [edge, next edge) ..., exactly the last edge, above it. ``hour``: a
    timestamp as seconds of its day, binned like a number (its date would drift by itself). ``category``: one slot a
    level, and one for every other value.
    """

    name: str
    kind: Literal["number", "hour", "category"]
    view: str | None = None
    edges: list[float] = []
    levels: list[str] = []

    @property
    def slots(self) -> int:
        return len(self.levels) + 1 if self.kind == "category" else len(self.edges) + 2


class Bins(msgspec.Struct, frozen=True, kw_only=True):
    """The bins of all inputs. ``entities``: for each feature view the input that holds its key."""

    columns: list[Column]
    entities: dict[str, str] = {}


@dataclass(frozen=True)
class Profile:
    """Counts of one window over the reference's bins."""

    rows: int
    missing: Counts  # (columns,)
    counts: Counts  # (columns, 201), zero beyond a column's slots
    sums: Floats  # (columns,) of the present numbers
    squares: Floats
    gapped: int = 0  # rows with a hole in a column that hardly ever has one
    states: dict[str, frozenset[int]] = field(default_factory=dict)  # distinct (key, values) of each view, 2,000 at most
    keys: dict[str, frozenset[int]] = field(default_factory=dict)  # distinct keys among them

    def __add__(self, other: Profile) -> Profile:
        return Profile(
            self.rows + other.rows,
            self.missing + other.missing,
            self.counts + other.counts,
            self.sums + other.sums,
            self.squares + other.squares,
            self.gapped + other.gapped,
            _united(self.states, other.states),
            _united(self.keys, other.keys),
        )


def empty(bins: Bins) -> Profile:
    """Return the profile of no rows."""
    size = len(bins.columns)
    return Profile(0, np.zeros(size, np.int64), np.zeros((size, WIDTH), np.int64), np.zeros(size), np.zeros(size))


def total(bins: Bins, profiles: Sequence[Profile]) -> Profile:
    """Add profiles up."""
    result = empty(bins)
    for profile in profiles:
        result += profile
    return result


def learn(table: pa.Table, fields: Sequence[Field], *, entities: dict[str, str] | None = None) -> Bins:
    """Fix the bins of ``fields`` on the rows of ``table``.

    Parameters
    ----------
    table : the reference, one column for each field.
    fields : inputs to watch; one that the table does not have is left out.
    entities : for each feature view the input with its key.
    """
    columns = []
    for item in fields:
        if item.name not in table.column_names:
            continue
        if item.kind in ("category", "boolean"):
            columns.append(Column(name=item.name, kind="category", view=item.view, levels=_levels(table[item.name])))
        else:
            kind: Literal["number", "hour"] = "hour" if item.kind == "timestamp" else "number"
            columns.append(Column(name=item.name, kind=kind, view=item.view, edges=_edges(numbers(table[item.name], kind))))
    return Bins(columns=columns, entities=entities or {})


def count(bins: Bins, table: pa.Table, *, prefix: str = "", solid: npt.NDArray[np.bool_] | None = None) -> Profile:
    """Count the rows of ``table`` over the bins.

    Parameters
    ----------
    bins : of the reference.
    table : rows; a column that is absent counts as missing in every row.
    prefix : before the inputs' names in the table (``x_`` in the predictions).
    solid : which columns hardly ever miss a value; a row with a hole in one of them is ``gapped``.
    """
    return count_blocks(bins, table, np.array([0, table.num_rows]), prefix=prefix, solid=solid)[0]


def count_blocks(
    bins: Bins, table: pa.Table, bounds: npt.NDArray[np.int64], *, prefix: str = "", solid: npt.NDArray[np.bool_] | None = None
) -> list[Profile]:
    """Count consecutive blocks of rows (days, say) in one pass over each column: what ``count`` gives for each of them.

    Parameters
    ----------
    bounds : rows at which blocks begin, ascending, and at last the row at which the last one ends; (blocks + 1,).
    """
    bounds = np.asarray(bounds, np.int64)
    table = table.slice(int(bounds[0]), int(bounds[-1] - bounds[0]))
    sizes = np.diff(bounds)
    blocks = np.repeat(np.arange(len(sizes)), sizes)  # of each row
    rows, number, width = table.num_rows, len(sizes), len(bins.columns)
    missing, gapped = np.zeros((number, width), np.int64), np.zeros(rows, bool)
    counts = np.zeros((number, width, WIDTH), np.int64)
    sums, squares = np.zeros((number, width)), np.zeros((number, width))
    marks: dict[str, npt.NDArray[np.uint64]] = {}
    filled: dict[str, npt.NDArray[np.bool_]] = {}
    for index, column in enumerate(bins.columns):
        name = prefix + column.name
        if name not in table.column_names:
            missing[:, index] = sizes
            continue
        if column.kind == "category":
            absent, codes, words = _coded(table[name])
            known = {level: position for position, level in enumerate(column.levels)}
            places = np.array([known.get(word, len(known)) for word in words] or [0], np.int64)
            _count_places(counts[:, index], places[codes[~absent]], blocks[~absent])
            hashed = _marks(words)[codes]
        else:
            values = numbers(table[name], column.kind)
            absent, hashed = np.isnan(values), values.view(np.uint64)
            present, there = values[~absent], blocks[~absent]
            if number == 1:
                _count_numbers(counts[0, index], present, column.edges)
            else:
                _count_places(counts[:, index], _slots(present, column.edges), there)
            sums[:, index] = np.bincount(there, present, number)
            squares[:, index] = np.bincount(there, np.square(present), number)
        missing[:, index] = np.bincount(blocks[absent], minlength=number)
        if solid is not None and solid[index]:
            gapped |= absent
        if column.view:
            marks[column.view] = marks.get(column.view, np.zeros(rows, np.uint64)) * _MIX + np.where(absent, np.uint64(7), hashed)
            filled[column.view] = filled.get(column.view, np.zeros(rows, bool)) | ~absent
    holed = np.bincount(blocks[gapped], minlength=number)
    entities = {view: table[prefix + name] for view, name in bins.entities.items() if view in marks and prefix + name in table.column_names}
    seen = _states(entities, marks, filled, bounds - bounds[0])
    return [
        Profile(int(sizes[block]), missing[block], counts[block], sums[block], squares[block], int(holed[block]), *seen[block])
        for block in range(number)
    ]


def spreads(profile: Profile) -> Floats:
    """Return the standard deviation of each column's present numbers; 0 where there are none."""
    present = np.maximum(profile.counts.sum(axis=1), 1)
    return np.asarray(np.sqrt(np.maximum(profile.squares / present - np.square(profile.sums / present), 0.0)))


def holes(bins: Bins, table: pa.Table, solid: npt.NDArray[np.bool_], *, prefix: str = "") -> npt.NDArray[np.bool_]:
    """Return for each row whether one of the ``solid`` columns misses its value."""
    found = np.zeros(table.num_rows, bool)
    for index, column in enumerate(bins.columns):
        name = prefix + column.name
        if solid[index] and name in table.column_names:
            found |= np.asarray(pc.is_null(table[name], nan_is_null=True).to_numpy(zero_copy_only=False), bool)
    return found


def encode(profile: Profile) -> bytes:
    """Write a profile as bytes; some 2-8 kB for 20 columns."""
    body = [
        FORMAT, profile.rows, profile.missing.tobytes(), list(profile.counts.shape), profile.counts.tobytes(), profile.sums.tobytes(),
        profile.squares.tobytes(), profile.gapped, {k: sorted(v) for k, v in profile.states.items()}, {k: sorted(v) for k, v in profile.keys.items()},
    ]  # fmt: skip
    return zlib.compress(msgspec.msgpack.encode(body), 1)


@lru_cache(maxsize=512)  # most days do not change between two looks
def decode(raw: bytes) -> Profile:
    """Read what ``encode`` wrote."""
    try:
        body: list[Any] = msgspec.msgpack.decode(zlib.decompress(raw))
    except (zlib.error, msgspec.DecodeError) as error:
        raise Corrupt(f"a stored profile is damaged: {error}", remedy="restore the catalog from its backup") from None
    if body[0] != FORMAT:
        raise Corrupt(f"a stored profile has format {body[0]}; this kaizenml reads {FORMAT}", remedy="pip install --upgrade kaizenml")
    _, rows, missing, shape, counts, sums, squares, gapped, states, keys = body
    return Profile(
        rows,
        np.frombuffer(missing, np.int64),
        np.frombuffer(counts, np.int64).reshape(shape),
        np.frombuffer(sums, np.float64),
        np.frombuffer(squares, np.float64),
        gapped,
        {k: frozenset(v) for k, v in states.items()},
        {k: frozenset(v) for k, v in keys.items()},
    )


def numbers(array: pa.ChunkedArray, kind: str) -> Floats:
    """Return a column as float64 with NaN for what is missing or infinite; a timestamp as seconds of its day, UTC."""
    if kind == "hour":
        if not pa.types.is_timestamp(array.type):
            array = pc.cast(array, pa.timestamp("us"), safe=False)
        micros = pc.cast(pc.cast(array, pa.timestamp("us", tz=getattr(array.type, "tz", None))), pa.int64())
        values = pc.cast(micros, pa.float64()).to_numpy() / 1e6 % 86400.0
    else:
        values = pc.cast(array, pa.float64(), safe=False).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def texts(array: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a category or boolean as text."""
    return array if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) else pc.cast(array, pa.string())


_MIX = np.uint64(0x9E3779B97F4A7C15)


def _edges(values: Floats) -> list[float]:
    present = values[~np.isnan(values)]
    if not len(present):
        return []
    distinct = np.unique(present)
    if len(distinct) <= EDGES:
        return [float(value) for value in distinct]
    chosen = np.quantile(present, np.linspace(0, 1, EDGES), method="nearest")
    return [float(value) for value in np.unique(chosen)]


def _levels(array: pa.ChunkedArray) -> list[str]:
    counted = texts(array).drop_null().value_counts()
    order = sorted(zip(counted.field("counts").to_pylist(), counted.field("values").to_pylist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
    return [str(value) for _, value in order[:LEVELS]]


def _count_numbers(slots: Counts, present: Floats, edges: list[float]) -> None:
    """Sort, then look the edges up among the values: an eighth of the cost of looking each value up among the edges."""
    if not edges:
        slots[0] += len(present)  # the reference never had a value here
        return
    ordered = np.sort(present)
    at = np.searchsorted(ordered, np.asarray(edges), side="left")
    last = int(np.searchsorted(ordered, edges[-1], side="right"))
    slots[: len(edges) + 2] += np.diff(np.concatenate([[0], at, [last, len(ordered)]]))


def _slots(present: Floats, edges: list[float]) -> Counts:
    """Return the slot of each value; for many blocks at once, where sorting within each would cost more."""
    if not edges:
        return np.zeros(len(present), np.int64)
    return np.searchsorted(np.asarray(edges), present, side="right") + (present > edges[-1])


def _count_places(slots: Counts, places: Counts, blocks: Counts) -> None:
    slots += np.bincount(blocks * slots.shape[1] + places, minlength=slots.size).reshape(slots.shape)


def _coded(array: pa.ChunkedArray) -> tuple[npt.NDArray[np.bool_], Counts, list[str]]:
    """Return which values are absent, each value's place among the distinct ones (0 where absent), and the distinct ones."""
    coded = pc.dictionary_encode(texts(array)).combine_chunks()
    if isinstance(coded, pa.ChunkedArray):  # of no chunk at all
        coded = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), pa.array([], pa.string()))
    codes = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes < 0, np.maximum(codes, 0), coded.dictionary.to_pylist()


def _marks(words: list[str]) -> npt.NDArray[np.uint64]:
    return np.array([zlib.crc32(word.encode()) for word in words] or [0], np.uint64)


def _states(
    entities: dict[str, pa.ChunkedArray],
    marks: dict[str, npt.NDArray[np.uint64]],
    filled: dict[str, npt.NDArray[np.bool_]],
    bounds: npt.NDArray[np.int64],
) -> list[tuple[dict[str, frozenset[int]], dict[str, frozenset[int]]]]:
    """Return for each block the distinct states of each view, and the distinct keys among them."""
    found: list[tuple[dict[str, frozenset[int]], dict[str, frozenset[int]]]] = [({}, {}) for _ in bounds[1:]]
    for view, keyed in entities.items():
        _, codes, words = _coded(keyed)
        entity, there = _marks(words)[codes], filled[view]
        mixed = marks[view] * _MIX + entity
        for (states, keys), start, end in zip(found, bounds, bounds[1:], strict=False):
            inside = there[start:end]
            states[view] = frozenset(np.unique(mixed[start:end][inside])[:SEEN].tolist())
            keys[view] = frozenset(np.unique(entity[start:end][inside])[:SEEN].tolist())
    return found


def _united(one: dict[str, frozenset[int]], other: dict[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Unite sets of marks; the smallest 2,000 are kept, whatever the order of merging."""
    result = {}
    for key in one.keys() | other.keys():
        both = one.get(key, frozenset()) | other.get(key, frozenset())
        result[key] = both if len(both) <= SEEN else frozenset(sorted(both)[:SEEN])
    return result
