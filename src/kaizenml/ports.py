"""Ports: what kaizenml asks of an engine. One adapter is one file under ``adapters/``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class OnlineRow(NamedTuple):
    """The newest values of one entity in one view. ``at`` is their event time, seconds UTC; 0.0 for timeless views."""

    at: float
    values: Mapping[str, Any]


class OnlineStore(Protocol):
    """Newest feature values by entity. ``view`` is ``name.version`` (the version is the definition's hash).

    A write with an older ``at`` than the stored one is ignored: late data never overwrites newer.
    An equal ``at`` overwrites (a correction). Reads return rows whatever their age: the reader applies the TTL.
    """

    def write(self, view: str, rows: Iterable[tuple[str, float, Mapping[str, Any]]]) -> int:
        """Take rows of (entity key, event time, values) in one transaction; return how many were kept."""
        ...

    def read(self, view: str, keys: Sequence[str]) -> list[OnlineRow | None]:
        """Return one row or None for each key, in order."""
        ...

    def delete(self, key: str) -> int:
        """Remove an entity from every view; return how many rows went."""
        ...

    def drop(self, view: str) -> None:
        """Remove a view with all its rows."""
        ...

    def close(self) -> None:
        """Give back files and connections."""
        ...


class Notifier(Protocol):
    """Where alerts go."""

    def send(self, title: str, text: str, link: str | None = None) -> None:
        """Deliver one message, or raise Unavailable; the caller retries."""
        ...
