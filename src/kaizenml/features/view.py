"""Feature views: versioned definitions of features over a dataset."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal

import msgspec

Function = Literal["count", "sum", "mean", "min", "max", "std", "distinct", "first", "latest", "ratio", "since"]
_TOLD = ("description", "owner", "tags")  # said about a view, no part of what it is
_FIRST = ("name", "dataset", "entity", "columns", "at", "ttl_s")  # hashed even where they are not set: so began the format


class Aggregate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One feature over the rows of an entity in a window that ends when the question is asked, or at a step before it.

    Rows whose ``column`` is null (or no finite number) do not count for it.
    """

    name: str
    function: Function
    column: str | None = None  # None: the row itself (count, since)
    last_s: float | None = None  # length of the window; None: all time
    every_s: float | None = None  # None: t - last < at <= t; else the window ends at the newest multiple (since 1970) at or before t
    n: int | None = None  # only the newest n rows of the window
    of: list[str] = []  # ratio: the names of two aggregates of the view, the first over the second


class FeatureView(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """What is known of an entity: the newest values of ``columns``, and ``aggregates`` over its rows."""

    name: str
    dataset: str
    entity: str | list[str]  # the column with the key, or the columns that make one together
    columns: list[str]
    at: str | None = None  # event time; None: a timeless look-up
    ttl_s: float | None = None  # once the newest row is older, all features of the entity are missing
    aggregates: list[Aggregate] = []
    created: str | None = None  # column: when a row became known; rows that were not yet known do not count
    sql: str | None = None  # a query that gives the rows, over the dataset and others
    plain: bool = False  # features bear their own name; else {view}_{column}
    description: str = ""
    owner: str = ""
    tags: list[str] = []

    @cached_property
    def version(self) -> str:
        """The hash of the definition: change anything and it is another version. Not of what is merely said about it."""
        found = {name: getattr(self, name) for name in _FIRST}
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name not in (*_FIRST, *_TOLD) and value not in (None, False, []):
                found[name] = value
        return hashlib.sha256(msgspec.json.encode(found)).hexdigest()[:12]  # in the order of the fields

    @property
    def ref(self) -> str:
        return f"{self.name}.{self.version}"

    @property
    def entities(self) -> list[str]:
        """The columns that make the key, in their order."""
        return entities_of(self.entity)

    @property
    def features(self) -> dict[str, str]:
        """Name of each feature as a model's input -> the column or aggregate that it is."""
        return feature_names(self.name, [*self.columns, *(each.name for each in self.aggregates)], plain=self.plain)

    @property
    def reads(self) -> list[str]:
        """The columns of values that a row of the view must hold, beside entity and times."""
        used = [*self.columns, *(each.column for each in self.aggregates if each.column)]
        return [name for name in dict.fromkeys(used) if name not in (*self.entities, self.at, self.created)]


def entities_of(entity: str | list[str]) -> list[str]:
    """Return the columns that make a view's key."""
    return [entity] if isinstance(entity, str) else list(entity)


def feature_names(view: str, columns: Iterable[str], *, plain: bool) -> dict[str, str]:
    """Return for each feature of a view its name as an input -> the column or aggregate.

    >>> feature_names("weather", ["temp"], plain=False), feature_names("spend", ["spend_30d"], plain=True)
    ({'weather_temp': 'temp'}, {'spend_30d': 'spend_30d'})
    """
    return {column if plain else f"{view}_{column}": column for column in columns}


def key_of(values: Iterable[Any]) -> str | None:
    """Return the text by which an entity of one or more columns is kept and found; None where one of them is missing.

    >>> key_of(["JFK"]), key_of(["JFK", 7.0]), key_of(["a|b", "c"]), key_of(["JFK", None])
    ('JFK', 'JFK|7', 'a\\\\|b|c', None)
    """
    texts = [entity_key(value) for value in values]
    if len(texts) == 1:
        return texts[0]
    if None in texts:
        return None
    return "|".join(text.replace("\\", "\\\\").replace("|", "\\|") for text in texts if text is not None)


def parts_of(key: str) -> list[str]:
    """Return the texts of which ``key_of`` has made a key of several columns.

    >>> parts_of("JFK|7"), parts_of("a\\\\|b|c")
    (['JFK', '7'], ['a|b', 'c'])
    """
    return [re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"(?:\\.|[^|\\])+", key)]


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


class Pushed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of pushed rows."""

    view: str  # name.version
    rows: int
    kept: int  # now the newest of their entity; of a view with windows: those that its windows take
    late: int  # older than what the online store holds: only for the dataset
    left_out: int = 0  # of subjects who were forgotten: taken nowhere


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
    at: float | None  # event time of its newest row; None for a timeless view
    age_s: float | None
    fresh: bool  # young enough for the view: older values count as missing
    status: str = "present"  # stale: too old; missing: nothing is known of the entity; empty: nothing has come into the view yet
    beyond: list[str] = []  # values that are missing because their windows take more rows than the store keeps of an entity


class Framed(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with the features that were known at their moments."""

    rows: int
    known: dict[str, int]  # by column that was added: rows in which it is known
    out: str | None = None  # the file that was written
