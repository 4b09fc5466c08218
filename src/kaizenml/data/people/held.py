"""Versions that hold a personal column in another form than the contract now says: a decision that changed does not change rows by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kaizenml.data.dataset import Contract, DatasetVersion, Decision
from kaizenml.data.people import personal

_FORMS = {"keep": "as they are", "pseudonym": "as pseudonyms", "encrypt": "encrypted"}


def form_in(version: DatasetVersion, column: str) -> Decision:
    """Return in which form a version holds a column that it has."""
    found = version.personal.get(column, "keep")
    return "keep" if found == "drop" else found  # in the catalog's columns all the same: older parts have it


def held(contract: Contract, versions: Iterable[DatasetVersion]) -> dict[str, list[DatasetVersion]]:
    """Return, by column, the versions that hold its values in another form than the contract's decision asks for."""
    found: dict[str, list[DatasetVersion]] = {}
    versions = list(versions)
    for name, decided in personal.decisions(contract).items():
        other = [each for each in versions if name in each.columns and form_in(each, name) != decided.decision]
        if other:
            found[name] = other
    return found


def told(contract: Contract, versions: Sequence[DatasetVersion]) -> dict[str, str]:
    """Say by column how many versions hold its values in another form than decided, and what to do about it."""
    decided = personal.decisions(contract)
    return {
        name: f"{len(found)} version{'s' if len(found) != 1 else ''} {'hold' if len(found) != 1 else 'holds'} its values "
        f"{_FORMS[form_in(found[-1], name)]}, and {decided[name].decision} is decided: "
        f"{', '.join(each.ref for each in found[:5])}{', ...' if len(found) > 5 else ''}; try: kaizen data protect {found[0].dataset}"
        for name, found in held(contract, versions).items()
    }
