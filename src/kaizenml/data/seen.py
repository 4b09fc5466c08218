"""Values that were there before, among more rows than fit into memory: 64-bit hashes find who may be alike, values decide who is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.scratch import Scratch

Hashes = npt.NDArray[np.uint64]

_IN_MEMORY = 8_000_000  # hashes, 64 MB; more go to files, cut by their first byte
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_ROWS = 1 << 16  # of text at a time: the work takes 24 bytes for each byte of it


class Seen:
    """Collects hashes and tells which came more than once. Holds 64 MB at most, then files below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._scratch = Scratch(folder, "seen-")
        self._held: list[Hashes] = []
        self._count = 0

    def add(self, hashes: Hashes) -> None:
        """Take hashes."""
        self._held.append(hashes)
        self._count += len(hashes)
        if self._count > _IN_MEMORY:
            self._spill()

    def repeated(self) -> Hashes:
        """Return, sorted, the hashes that were taken more than once."""
        if not self._scratch.made:
            return _twice(np.concatenate([*self._held, np.empty(0, np.uint64)]))
        self._spill()
        found = [_twice(np.fromfile(path, np.uint64)) for path in sorted(self._scratch.path.iterdir())]
        return np.concatenate([*found, np.empty(0, np.uint64)])

    def close(self) -> None:
        """Remove the files."""
        self._scratch.close()

    def _spill(self) -> None:
        hashes = np.sort(np.concatenate([*self._held, np.empty(0, np.uint64)]))
        bounds = np.searchsorted(hashes >> np.uint64(56), np.arange(257))
        for first in range(256):
            if bounds[first] < bounds[first + 1]:
                with (self._scratch.path / f"{first:02x}").open("ab") as file:
                    file.write(hashes[bounds[first] : bounds[first + 1]].tobytes())
        self._held, self._count = [], 0


def hash_of(values: pa.ChunkedArray) -> Hashes:
    """Return a 64-bit hash of each value: equal values have equal hashes, different ones hardly ever. Missing values hash alike."""
    found = [np.empty(0, np.uint64)]
    for chunk in values.chunks:
        if pa.types.is_string(chunk.type):
            found += [_text(chunk.slice(at, _ROWS)) for at in range(0, len(chunk), _ROWS)]
            continue
        if pa.types.is_floating(chunk.type):
            numbers = pc.fill_null(chunk.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False) + 0.0  # -0.0 is 0.0
            found.append(_mixed(numbers.view(np.uint64)))
        else:
            whole = chunk.cast(pa.int64()) if not pa.types.is_null(chunk.type) else pa.nulls(len(chunk), pa.int64())
            found.append(_mixed(pc.fill_null(whole, 0).to_numpy(zero_copy_only=False).view(np.uint64)))
    return np.concatenate(found)


def among(hashes: Hashes, known: Hashes) -> npt.NDArray[np.bool_]:
    """Tell which hashes are among the sorted ones that are ``known``."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
    return np.asarray(known[places] == hashes)


def _twice(hashes: Hashes) -> Hashes:
    hashes = np.sort(hashes)
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def _text(chunk: pa.Array) -> Hashes:
    packed = pc.fill_null(chunk, "")
    _, offsets, data = packed.buffers()
    bounds = np.frombuffer(offsets, "<i4")[packed.offset : packed.offset + len(packed) + 1].astype(np.int64)
    lengths = np.diff(bounds)
    sums = np.zeros(bounds[-1] - bounds[0] + 1, np.uint64)
    if data is not None and len(sums) > 1:
        letters = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]].astype(np.uint64)
        place = np.arange(len(letters)) - np.repeat(bounds[:-1] - bounds[0], lengths)
        # mixed before it is summed: a plain polynomial over powers of two gives equal sums to texts that people do write
        np.cumsum(_mixed((letters + np.uint64(1)) * _powers(int(lengths.max()))[place]), out=sums[1:])
    starts = bounds - bounds[0]
    return _mixed(sums[starts[1:]] - sums[starts[:-1]] + lengths.astype(np.uint64))


def _powers(longest: int) -> Hashes:
    """Return odd multipliers for the places of a text."""
    return _mixed(np.arange(1, longest + 1, dtype=np.uint64)) | np.uint64(1)


def _mixed(numbers: Hashes) -> Hashes:
    """Scramble 64-bit numbers so that close ones are far apart (the finaliser of splitmix64), another way in each process."""
    with np.errstate(over="ignore"):
        mixed = (numbers ^ _SALT) * _MULTIPLIER
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))


_SALT = np.uint64(int.from_bytes(os.urandom(8), "little"))  # hashes in files tell nothing of the values to who finds them
