"""What differs between two versions of a dataset: rows, columns, promises. Memory is bounded: rows are compared as hashes, by buckets on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.data import opened, storage, tables
from kaizenml.data.dataset import Contract, DatasetVersion, Kind
from kaizenml.data.kinds import STORED
from kaizenml.data.parse import parse_as
from kaizenml.data.people import personal
from kaizenml.scratch import Scratch

_Side = tuple[DatasetVersion, list[int]]
Hashes = npt.NDArray[np.uint64]

SAMPLES = 5
BATCH = 131_072  # rows looked at at once
BUCKET = 2_000_000  # rows whose hashes are in memory at once

_MIX, _PRIME = np.uint64(0x9E3779B97F4A7C15), np.uint64(0x100000001B3)
_NULL = np.uint64(0x2545F4914F6CDD1D)


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows differ."""

    added: int
    gone: int
    changed: int | None  # None: without a key nobody can tell a changed row from one that went and one that came
    same: int
    key: list[str]
    samples: list[dict[str, Any]]  # a few of each, with `_change`; of changed rows the old and the new value of what changed


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """How the columns differ."""

    gone: dict[str, Kind]
    added: dict[str, Kind]
    changed: dict[str, list[Kind]]  # kind before, kind now


def columns(old: DatasetVersion, new: DatasetVersion) -> Columns:
    """Compare the columns of two versions."""
    return Columns(
        gone={name: kind for name, kind in old.columns.items() if name not in new.columns},
        added={name: kind for name, kind in new.columns.items() if name not in old.columns},
        changed={name: [old.columns[name], kind] for name, kind in new.columns.items() if old.columns.get(name, kind) != kind},
    )


def promises(old: Contract | None, new: Contract | None) -> dict[str, list[Any]]:
    """Return what two contracts say differently: by promise, what the old one says and what the new one does; None for nothing."""
    if old is None or new is None:
        return {}
    before, now = _flat(old), _flat(new)
    return {name: [before.get(name), now.get(name)] for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)}


def rows(ctx: Context, old: DatasetVersion, new: DatasetVersion, contract: Contract) -> Rows:
    """Compare the rows of two versions in the columns that both have.

    What both versions hold in common by their parts is not read. With a key a row that is in both and differs is changed; without
    one, rows are counted as they are, the same row as often as it occurs.
    """
    shared = set(old.parts) & set(new.parts)
    gone, came = [part for part in old.parts if part not in shared], [part for part in new.parts if part not in shared]
    kinds = {name: kind for name, kind in new.columns.items() if name in old.columns}
    sealed = {name for name, form in new.personal.items() if form == "encrypt"}  # stored differently each time
    key = contract.keys if contract.keys and set(contract.keys) <= kinds.keys() - sealed else []
    compared = {name: kind for name, kind in kinds.items() if name not in sealed}
    if not compared:
        return Rows(added=new.rows, gone=old.rows, changed=None, same=0, key=[], samples=[])
    with Scratch(None, "kaizen-diff-") as folder:
        buckets = max((old.rows if gone else 0) + (new.rows if came else 0), 1) // BUCKET + 1
        before, now = (_Spill(folder / name, buckets) for name in ("old", "new"))
        for spill, version, parts in ((before, old, gone), (now, new, came)):
            for batch in batches(ctx, version, parts, compared):
                hashed = _hash(batch, list(compared))
                spill.add(_hash(batch, key) if key else hashed, hashed)
        counts = np.zeros(4, np.int64)
        wanted: dict[str, set[int]] = {"added": set(), "gone": set(), "changed": set()}
        for bucket in range(buckets):
            found = _compare(before.read(bucket), now.read(bucket), keyed=bool(key))
            counts += [len(found["added"]), len(found["gone"]), len(found["changed"]), found["same"]]
            for name, chosen in wanted.items():
                chosen.update(found[name][: SAMPLES - len(chosen)].tolist())
    both = _rows_of(ctx, old, list(shared)) if shared else 0
    samples = _samples(ctx, ((old, gone), (new, came)), compared, key, wanted)
    added, left, changed, same = counts.tolist()
    return Rows(
        added=added, gone=left, changed=changed if key else None, same=same + both, key=key,
        samples=personal.masked(pa.Table.from_pylist(samples), contract).to_pylist() if samples else [],
    )  # fmt: skip


def batches(ctx: Context, version: DatasetVersion, parts: list[int], kinds: dict[str, Kind]) -> Iterator[pa.Table]:
    """Read rows of some parts of a version by batches, in these kinds. Columns that a part does not have are null."""
    from pyarrow import dataset  # loads pandas where that is installed

    path = tables.folder(ctx, version.dataset)
    files = tables.part_files(path)
    chosen = [file for part in parts for file in files.get(part, [])]
    if not chosen:
        return
    there = opened.look(path)
    assert there is not None  # it has files
    physical = {field.name: field.type for field in there.schema}
    schema = pa.schema([(name, physical.get(name, STORED[kind])) for name, kind in kinds.items()])
    for batch in dataset.dataset(chosen, schema=schema, format="parquet", filesystem=storage.filesystem(path)).to_batches(
        batch_size=BATCH, batch_readahead=2, fragment_readahead=1
    ):
        table = pa.Table.from_batches([batch])
        yield pa.table({name: _as_kind(table[name], kind) for name, kind in kinds.items()})


def _as_kind(column: pa.ChunkedArray, kind: Kind) -> pa.ChunkedArray:
    if column.type == STORED[kind]:
        return column
    return parse_as(column, kind) if pa.types.is_string(column.type) else column.cast(STORED[kind], safe=False)


def _rows_of(ctx: Context, version: DatasetVersion, parts: list[int]) -> int:
    name = next(iter(version.columns))
    return sum(batch.num_rows for batch in batches(ctx, version, parts, {name: version.columns[name]}))


class _Spill:
    """Pairs of hashes in buckets on disk: by the first of the pair, so that equal ones meet."""

    def __init__(self, folder: Path, buckets: int) -> None:
        self._folder, self._buckets = folder, buckets
        folder.mkdir()

    def add(self, keys: Hashes, values: Hashes) -> None:
        places = keys % np.uint64(self._buckets)
        for bucket in range(self._buckets):
            chosen = places == bucket if self._buckets > 1 else slice(None)
            with (self._folder / str(bucket)).open("ab") as file:
                np.stack([keys[chosen], values[chosen]], axis=1).tofile(file)

    def read(self, bucket: int) -> Hashes:
        path = self._folder / str(bucket)
        return np.fromfile(path, np.uint64).reshape(-1, 2) if path.exists() else np.zeros((0, 2), np.uint64)


def _compare(before: Hashes, now: Hashes, *, keyed: bool) -> dict[str, Any]:
    if not keyed:
        values, which = np.unique(np.concatenate([before[:, 0], now[:, 0]]), return_inverse=True)
        more = np.bincount(which[len(before) :], minlength=len(values)) - np.bincount(which[: len(before)], minlength=len(values))
        same = len(now) - int(np.maximum(more, 0).sum())
        none = np.zeros(0, np.uint64)
        return {
            "added": np.repeat(values, np.maximum(more, 0)), "gone": np.repeat(values, np.maximum(-more, 0)), "changed": none, "same": same,
        }  # fmt: skip
    before = before[np.argsort(before[:, 0], kind="stable")]
    place = np.minimum(np.searchsorted(before[:, 0], now[:, 0]), max(len(before) - 1, 0))
    there = before[place, 0] == now[:, 0] if len(before) else np.zeros(len(now), bool)
    alike = there & (before[place, 1] == now[:, 1]) if len(before) else there
    return {
        "added": now[~there, 0], "gone": before[~np.isin(before[:, 0], now[:, 0]), 0], "changed": now[there & ~alike, 0], "same": int(alike.sum()),
    }  # fmt: skip


def _samples(
    ctx: Context, sides: tuple[_Side, _Side], kinds: dict[str, Kind], key: list[str], wanted: dict[str, set[int]]
) -> list[dict[str, Any]]:
    """Look the chosen rows up again, for people to see."""
    seen: dict[str, dict[int, dict[str, Any]]] = {}
    for side, (version, parts), either in zip(("old", "new"), sides, ("gone", "added"), strict=True):
        hashes, seen[side] = wanted[either] | wanted["changed"], {}
        for batch in batches(ctx, version, parts, kinds) if hashes else ():
            hashed = _hash(batch, key or list(kinds))
            for place in np.flatnonzero(np.isin(hashed, np.array(sorted(hashes), np.uint64)))[: 4 * SAMPLES].tolist():
                seen[side].setdefault(int(hashed[place]), batch.slice(place, 1).to_pylist()[0])
            if len(seen[side]) == len(hashes):
                break
    found: list[dict[str, str | None]] = []
    for change, side in (("added", "new"), ("gone", "old")):
        there = [seen[side][one] for one in wanted[change] if one in seen[side]]
        for row in there:
            texts = {name: _text(value) for name, value in row.items()}
            found.append({"_change": change, **texts})
    for one in wanted["changed"]:
        before, now = seen["old"][one], seen["new"][one]
        moved: dict[str, str | None] = {name: f"{_text(before[name])} → {_text(now[name])}" for name in kinds if before[name] != now[name]}
        found.append({"_change": "changed", **{name: _text(now[name]) for name in key}, **moved})
    names = dict.fromkeys(name for row in found for name in row)
    return [{name: row.get(name) for name in names} for row in found]


def _text(value: Any) -> str | None:
    return None if value is None else (f"{value:.10g}" if isinstance(value, float) else str(value))[:80]


def _hash(table: pa.Table, names: list[str]) -> Hashes:
    """Return 64 bits for each row that are equal where all values are."""
    with np.errstate(over="ignore"):
        found = np.zeros(table.num_rows, np.uint64)
        for name in names:
            found = _mixed(found * _PRIME + _hashed(table[name]))
        return found


def _hashed(column: pa.ChunkedArray) -> Hashes:
    kind = column.type
    absent = column.is_null().to_numpy()
    if pa.types.is_string(kind):
        coded = pa.concat_arrays([*column.chunks, pa.array([], pa.string())]).dictionary_encode()
        hashes = _text_hashes(coded.dictionary) if len(coded.dictionary) else np.zeros(1, np.uint64)
        found = hashes[pc.fill_null(coded.indices, 0).to_numpy()]
    elif pa.types.is_floating(kind):
        found = (pc.fill_null(column, 0.0).to_numpy() + 0.0).view(np.uint64)  # -0.0 and 0.0 are the same number
    else:
        whole = column.cast(pa.int64())
        found = pc.fill_null(whole, 0).to_numpy().view(np.uint64)
    return np.where(absent, _NULL, _mixed(found))


def _text_hashes(texts: pa.StringArray) -> Hashes:
    """Return a polynomial hash of the bytes of each text, all texts at once."""
    texts = texts.cast(pa.large_string())
    _, ends, data = texts.buffers()
    bounds = np.frombuffer(ends, "<i8")[texts.offset : texts.offset + len(texts) + 1]
    raw = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]] if data is not None else np.zeros(0, np.uint8)
    bounds = bounds - bounds[0]
    lengths = np.diff(bounds)
    if not len(raw):
        return _mixed(lengths.astype(np.uint64))
    powers = np.cumprod(np.full(int(lengths.max()) + 1, _PRIME, np.uint64))
    within = np.arange(len(raw)) - np.repeat(bounds[:-1], lengths)
    summed = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(raw.astype(np.uint64) + np.uint64(1)) * powers[within], dtype=np.uint64)])
    return _mixed(summed[bounds[1:]] - summed[bounds[:-1]] + lengths.astype(np.uint64))


def _mixed(values: Hashes) -> Hashes:
    """Spread 64 bits over 64 bits (SplitMix64's finaliser)."""
    with np.errstate(over="ignore"):
        values = values + _MIX
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def _flat(contract: Contract) -> dict[str, Any]:
    """Return every promise of a contract by a name that people read: ``price: maximum``."""
    found: dict[str, Any] = {}
    for word, value in msgspec.to_builtins(contract).items():
        if word == "columns":
            for column in value:
                found |= {f"{column['name']}: {name}": said for name, said in column.items() if name != "name"}
        elif word == "checks":
            found |= {f"check {query['name']}": query["sql"] for query in value}
        elif isinstance(value, dict):
            found |= {f"{word}: {name}": said for name, said in value.items()}
        else:
            found[word] = value
    return found
