"""Rows on their way in: whatever the source is, its rows come as pieces of a few dozen megabytes, from the first row on as often as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa


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


class Incoming(NamedTuple):
    """Rows on their way in."""

    location: str
    """Where they come from, as it is recorded; without secrets."""
    pieces: Callable[[], Iterator[Piece]]
    """Reads the source from its first row, as often as it is asked."""
