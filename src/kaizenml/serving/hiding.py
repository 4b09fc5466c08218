"""Requests are protected as their training rows were, before anything else sees them. Hot path; nothing runs where nothing is hidden."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kaizenml.data.keys import VARIABLE, Keys, open_keys
from kaizenml.errors import Unavailable
from kaizenml.features.signature import Signature
from kaizenml.serving.protocol import PredictRequest


class Hiding:
    """What is done to requests of one endpoint.

    Parameters
    ----------
    columns : by name of an input, ``pseudonym`` or ``drop``.
    unit : whether the unit that a request names is hidden as well.
    keys : the project's; None: nothing becomes a pseudonym.
    """

    def __init__(self, columns: dict[str, str], *, unit: bool, keys: Keys | None) -> None:
        self._gone = {name for name, how in columns.items() if how == "drop"}
        self._changed = {name for name, how in columns.items() if how == "pseudonym"}
        self._unit = unit
        self._keys = keys

    def hide(self, request: PredictRequest) -> PredictRequest:
        """Return the request without what is dropped, with pseudonyms for what is hidden."""
        return PredictRequest([self._hidden(row) for row in request.inputs], self.unit(request.unit))

    def unit(self, unit: str | int | None) -> str | int | None:
        """Return a request's unit as it may be kept."""
        return self._keys.pseudonym(str(unit)) if self._unit and unit is not None and self._keys is not None else unit

    def _hidden(self, row: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in row.items() if name not in self._gone}
        for name in self._changed & kept.keys():
            assert self._keys is not None  # hiding_for opened them
            kept[name] = self._keys.pseudonym_of(kept[name])
        return kept


def hiding_for(signatures: Iterable[Signature], places: Iterable[Path], *, pseudonyms: Iterable[str] = (), key_print: str = "") -> Hiding | None:
    """Return what an endpoint with these releases does to requests: what any of them hides is hidden from all.

    Parameters
    ----------
    signatures : of all its releases.
    places : state folders in which the key may lie; the environment's goes before them.
    pseudonyms, key_print : inputs that are hidden whatever the releases say, and the fingerprint of the key.

    Raises
    ------
    Unavailable : the key of the rows that they learned from is not here.
    """
    since = dict.fromkeys(pseudonyms, "pseudonym")
    columns: dict[str, str] = {**since}
    prints = {key_print} if since else set[str]()
    unit = False
    for signature in signatures:
        # a column that one release reads as a pseudonym is not dropped for another one's sake
        columns |= {name: how for name, how in signature.hidden.items() if how == "pseudonym" or name not in columns}
        unit = unit or signature.unit in signature.hidden or signature.unit in since
        prints |= {signature.key_print} if signature.key_print else set()
    if not columns:
        return None
    if not prints:
        return Hiding(columns, unit=unit, keys=None)
    keys = next((found for place in places if (found := open_keys(place, create=False)) is not None), None)
    if keys is None or prints != {keys.fingerprint}:
        had = "there is none here" if keys is None else f"here is {keys.fingerprint}"
        raise Unavailable(
            f"requests have to be hidden with the key {', '.join(sorted(prints))}, and {had}",
            remedy=f"set {VARIABLE} to the content of keys/project.key in the state folder where the model was trained",
            values={"needed": sorted(prints), "found": keys.fingerprint if keys else None},
        )
    return Hiding(columns, unit=unit, keys=keys)
