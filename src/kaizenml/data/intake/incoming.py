"""Rows on their way in: whatever the source is, its rows come as pieces of a few dozen megabytes, from the first row on as often as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import feather

from kaizenml.scratch import Scratch


class Piece(NamedTuple):
    """Some rows of a source."""

    rows: pa.Table
    """Normalised; columns that are not typed yet are text where ``raw``."""
    done: float = 1.0
    """Share of the source that has been read with it, 0 to 1."""
    raw: bool = False
    first_line: int | None = None
    decimal_comma: bool = False
    sparse: bool = False
    """Whether a column may be absent from a piece though the source has it."""


@dataclass(kw_only=True)
class Incoming:
    """Rows on their way in."""

    location: str
    """Where they come from, as it is recorded; without secrets."""
    pieces: Callable[[], Iterator[Piece]]
    """Reads the source from its first row, as often as it is asked."""
    taken: dict[str, str] = field(default_factory=dict)
    """What is taken with it: each file, or the one snapshot, and its mark, which is another one when its content is."""
    position: Callable[[], str | None] = lambda: None
    """How far a source with a cursor has been read, once it was."""
    close: Callable[[], None] = lambda: None
    grows: bool = False
    """Whether new rows come beside those that were taken: files in a folder, rows behind a cursor. Else it is another one each time."""
    reopened: str = ""
    """The location by which it is opened again; empty for what cannot be."""


class Spool:
    """Keeps the pieces of what can be read only once, in files where there are several."""

    def __init__(self, pieces: Iterator[Piece], folder: Path) -> None:
        self._pieces = pieces
        self._scratch = Scratch(folder, "rows-")
        self._kept: list[Piece] = []  # without their rows, but for the first one
        self._read = False

    def pieces(self) -> Iterator[Piece]:
        """Return the pieces from the first on."""
        if self._read:
            for place, piece in enumerate(self._kept):
                yield piece if not place else piece._replace(rows=feather.read_table(self._file(place)))
            return
        for place, piece in enumerate(self._pieces):
            if place:
                feather.write_feather(piece.rows, self._file(place), compression="lz4")
            self._kept.append(piece._replace(rows=piece.rows.slice(0, 0)) if place else piece)
            yield piece
        self._read = True

    def close(self) -> None:
        """Remove the files."""
        self._scratch.close()

    def _file(self, place: int) -> str:
        return str(self._scratch.path / f"{place:06d}.arrow")
