"""Feature views: versioned definitions of features over a dataset."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec


class FeatureView(msgspec.Struct, frozen=True, kw_only=True):
    """The newest known values of ``columns`` for each value of ``entity``; as features they are named ``{name}_{column}``."""

    name: str
    dataset: str
    entity: str
    columns: list[str]
    at: str | None = None  # event time; None: a timeless look-up
    ttl_s: float | None = None

    @property
    def version(self) -> str:
        """The hash of the definition: change anything and it is another version."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:12]

    @property
    def ref(self) -> str:
        return f"{self.name}.{self.version}"


def entity_key(value: Any) -> str | None:
    """Return the text by which an entity's rows are kept and found, or None where there is no entity.

    Whole numbers are written alike whether they came as ``7``, ``7.0`` or ``"7"``: data frames, JSON and
    text files disagree about them.

    >>> [entity_key(value) for value in ("JFK", 7, 7.0, True, None)]
    ['JFK', '7', '7', 'true', None]
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is float:
        return None if value != value else str(int(value)) if value.is_integer() else repr(value)  # noqa: PLR0124  NaN
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return moment.isoformat().replace("+00:00", "Z")
    return None if value is None else str(value)


class ViewState(msgspec.Struct, frozen=True, kw_only=True):
    """A feature view, and how far its values have come."""

    view: FeatureView
    ref: str  # name.version
    features: list[str]  # the inputs that it gives
    used_at: float | None  # when this definition was first used; None: never
    dataset_version: int | None  # newest version of its dataset; None: there is none yet
    materialized: int  # version of the dataset that the online store holds; 0: none
    waiting: int  # pushed rows that are online but not yet in the dataset: `kaizen features flush`


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of pushed rows."""

    view: str  # name.version
    rows: int
    kept: int  # now the newest of their entity
    late: int  # older than what the online store holds: only for the dataset


class Materialized(msgspec.Struct, frozen=True, kw_only=True):
    """What a materialization did."""

    view: str  # name.version
    dataset: str  # name@number
    entities: int  # looked at; 0 where nothing had changed
    kept: int  # written; the others were newer in the online store


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the online store holds for an entity."""

    view: str  # name.version
    key: str
    values: dict[str, Any]
    at: float | None  # event time; None for a timeless view
    age_s: float | None
    fresh: bool  # young enough for the view: older values count as missing
