"""Features at request time: what the online store knows of each row's entities. Hot path: imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kaizenml.errors import InvalidInput
from kaizenml.features.signature import ViewUse
from kaizenml.features.view import key_of
from kaizenml.ports import OnlineStore


def look_up(store: OnlineStore, views: Sequence[ViewUse], rows: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """Return for each row the features that its views give, by input name ``{view}_{column}``.

    Parameters
    ----------
    store : the online store; each view is read once for all rows.
    views : the views in the model's signature.
    rows : request rows. A feature that a row holds itself is not looked up: the request wins.
    now : seconds since 1970, for the views' time to live.

    Returns
    -------
    One dict per row with every feature that the request does not hold; None where the entity is null or
    unknown, or its values are older than the view allows (as in training, where they are missing then).

    Raises
    ------
    InvalidInput : a row lacks the column with the entity, and a feature that would be looked up by it.
    """
    found: list[dict[str, Any]] = [{} for _ in rows]
    for view in views:
        names = [(f"{view.name}_{column}", column) for column in view.columns]
        own = frozenset(name for name, _ in names)
        entities = view.entities
        keys = [key_of([row.get(name) for name in entities]) for row in rows]
        wanted = list(dict.fromkeys(key for key in keys if key is not None))
        oldest = 0.0 if view.ttl_s is None else now - view.ttl_s
        unknown = dict.fromkeys(own)
        ready: dict[str | None, dict[str, Any]] = dict.fromkeys([*wanted, None], unknown)
        for entity, kept in zip(wanted, store.read(view.ref, wanted) if wanted else (), strict=True):
            if kept is not None and (view.ttl_s is None or kept.at >= oldest):
                ready[entity] = {name: kept.values.get(column) for name, column in names}
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
    return found
