"""Features at request time: what the online store knows of each row's entities at that moment. Hot path: imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from kaizenml.errors import InvalidInput
from kaizenml.features.defining.expressions import compute
from kaizenml.features.signature import Derived, ViewUse
from kaizenml.features.view import Aggregate, entity_key, feature_names, key_of
from kaizenml.features.windows.moments import History, Reading
from kaizenml.ports import OnlineRow, OnlineStore

Status = Literal["present", "stale", "missing"]
"""Whether an entity's values count: they do; its newest row is older than the view allows; there is no row of it."""
_plans: dict[int, tuple[ViewUse, _Plan]] = {}  # by the view's identity, which the view beside it keeps from being another's


class Found(list[dict[str, Any]]):
    """The features of each row, and in ``ats`` by view the time of the newest row of each row's entity; None: there is none."""

    ats: dict[str, list[float | None]]


class Read(NamedTuple):
    """What the online store holds of one entity at a moment."""

    values: dict[str, Any]  # by the view's column or aggregate; all None unless present
    at: float | None  # of its newest row
    status: Status
    beyond: Sequence[str] = ()  # values that are None because they would take more rows than the store keeps of an entity


def look_up(
    store: OnlineStore, views: Sequence[ViewUse], rows: Sequence[Mapping[str, Any]], now: float, derived: Sequence[Derived] = ()
) -> Found:
    """Return for each row the features that its views give, by the names that they have as inputs.

    Parameters
    ----------
    store : the online store; it is read once, for all views and rows.
    views : the views in the model's signature.
    rows : request rows. A feature that a row holds itself is not looked up: the request wins.
    now : seconds since 1970: the moment that windows end at, and for the views' time to live.
    derived : inputs that are computed from these and from the rows'.

    Returns
    -------
    One dict per row with every feature that the request does not hold; None where the entity is null or
    unknown, or its values are older than the view allows (as in training, where they are missing then).

    Raises
    ------
    InvalidInput : a row lacks the column with the entity, and a feature that would be looked up by it; or what a derived input is
        computed from is absent, or of another kind.
    """
    found = Found({} for _ in rows)
    found.ats = {}
    t = round(now * 1e6)
    asked = [_keys(view.entities, rows) for view in views]
    wanted = [list(dict.fromkeys(key for key in keys if key is not None)) for keys in asked]
    held = store.read_many([(view.ref, keys) for view, keys in zip(views, wanted, strict=True)]) if any(wanted) else [[] for _ in views]
    for view, keys, known, stored in zip(views, asked, wanted, held, strict=True):
        plan = _plan(view)
        own = plan.own
        entities = view.entities
        ready: dict[str | None, dict[str, Any]] = {None: plan.unknown}
        ats: dict[str | None, float | None] = {}
        for entity, kept in zip(known, stored, strict=True):
            ready[entity], ats[entity] = plan.features(kept, t)
        found.ats[view.name] = [ats.get(key) for key in keys]
        for position, (row, key, features) in enumerate(zip(rows, keys, found, strict=True)):
            if key is None and not own.issubset(row) and (absent := next((name for name in entities if name not in row), None)):
                raise InvalidInput(
                    f"inputs[{position}].{absent} is absent; the features of {view.name!r} are found by it",
                    remedy=f"send {absent!r}, as null when it is not known",
                    values={"row": position, "field": absent, "found": None, "expected": "the entity of a feature view"},
                )
            if own.isdisjoint(row):
                features.update(ready[key])
            else:
                features.update((name, value) for name, value in ready[key].items() if name not in row)
    if derived:
        for position, (row, features) in enumerate(zip(rows, found, strict=True)):
            compute(derived, row, features, position)
    return found


def _keys(entities: list[str], rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
    if len(entities) == 1:
        name = entities[0]
        return [entity_key(row.get(name)) for row in rows]
    return [key_of([row.get(name) for name in entities]) for row in rows]


def freshness(found: Found, views: Sequence[ViewUse], now: float) -> dict[str, dict[str, Any]]:
    """Return what an answer tells of its features, by view.

    Parameters
    ----------
    now : the moment at which they were looked up.

    Returns
    -------
    ``age_s`` of the oldest values that counted (None: none did, or the view knows no time), in how many rows the entity was unknown
    or null (``missing``), and in how many its values were older than the view allows (``stale``).
    """
    told: dict[str, dict[str, Any]] = {}
    for view in views:
        oldest = None if view.ttl_s is None else round(now * 1e6) - round(view.ttl_s * 1e6)
        known = [at for at in found.ats[view.name] if at is not None]
        counted = known if oldest is None else [at for at in known if round(at * 1e6) >= oldest]
        age_s = round(now - min(counted), 3) if counted and min(counted) != 0.0 else None  # 0.0: a view without times
        told[view.name] = {"age_s": age_s, "missing": len(found.ats[view.name]) - len(known), "stale": len(known) - len(counted)}
    return told


def read_at(columns: Sequence[str], aggregates: Sequence[Aggregate], ttl_s: float | None, rows: Sequence[OnlineRow | None], t: int) -> list[Read]:
    """Return what rows of the online store hold at the moment ``t``, in microseconds since 1970."""
    plan = _Plan([], columns, aggregates, ttl_s)
    return [plan.read(row, t) for row in rows]


class _Plan:
    """How one view is read: names of its inputs, and what a stored row says at a moment."""

    def __init__(self, names: list[tuple[str, str]], columns: Sequence[str], aggregates: Sequence[Aggregate], ttl_s: float | None) -> None:
        self.names = names
        self.own = frozenset(name for name, _ in names)
        self.unknown: dict[str, Any] = dict.fromkeys(name for name, _ in names)
        self._columns = list(columns)
        self._reading = Reading(columns, aggregates, None if ttl_s is None else round(ttl_s * 1e6))
        self._ttl = self._reading.ttl_us
        self._nothing: dict[str, Any] = dict.fromkeys(self._reading.names)

    def features(self, row: OnlineRow | None, t: int) -> tuple[dict[str, Any], float | None]:
        """Return the inputs that a row gives, and its time."""
        if row is None:
            return self.unknown, None
        values, at = row.values, row.at
        if "" in values:
            values, found_at, status, _ = self.read(row, t)
            return ({name: values[column] for name, column in self.names} if status == "present" else self.unknown), found_at
        if self._ttl is not None and round(at * 1e6) < t - self._ttl:
            return self.unknown, at
        get = values.get
        return {name: get(column) for name, column in self.names}, at

    def read(self, row: OnlineRow | None, t: int) -> Read:
        if row is None:
            return Read(self._nothing, None, "missing")
        ttl = self._ttl
        if "" in row.values:
            values, newest = self._reading.values(History.read(row.values), t)
            if newest is None:
                return Read(values, None, "missing")
            beyond = () if len(values) == len(self._nothing) else [name for name in self._nothing if name not in values]
            status: Status = "present" if ttl is None or newest >= t - ttl else "stale"
            return Read(self._nothing | values if beyond else values, newest / 1e6, status, beyond)
        if ttl is None or round(row.at * 1e6) >= t - ttl:
            return Read({name: row.values.get(name) for name in self._columns}, row.at, "present")
        return Read(self._nothing, row.at, "stale")


def _plan(view: ViewUse) -> _Plan:
    held = _plans.get(id(view))
    if held is not None and held[0] is view:
        return held[1]
    if len(_plans) > 1000:
        _plans.clear()
    columns = [*view.columns, *(each.name for each in view.aggregates)]
    plan = _Plan(list(feature_names(view.name, columns, plain=view.plain).items()), view.columns, view.aggregates, view.ttl_s)
    _plans[id(view)] = view, plan
    return plan
