"""What of a request has to be hidden before a model sees it: what was hidden in the rows that it learned from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from kaizenml.context import Context
from kaizenml.data import tables
from kaizenml.data.dataset import DatasetVersion, Decision
from kaizenml.features.signature import Field
from kaizenml.features.view import FeatureView, entities_of, feature_names


def decided_inputs(ctx: Context, version: DatasetVersion, views: Iterable[FeatureView]) -> tuple[dict[str, Decision], str]:
    """Return what was decided of persons' values by name in a request, and the fingerprint of the key of pseudonyms among them.

    Parameters
    ----------
    version : the rows learned from.
    views : those in the frame: of their keys and features in a request holds what was decided in their datasets.
    """
    found = dict(version.personal)
    key_print = version.key_print
    for view in views:
        if not view.dataset:
            continue
        given = tables.version(ctx, view.dataset)
        named = {name: name for name in entities_of(view.entity)} | feature_names(view.name, view.columns, plain=view.plain)
        decided = {name: given.personal[column] for name, column in named.items() if column in given.personal}
        found |= {name: decision for name, decision in decided.items() if decision == "pseudonym" or name not in found}
        key_print = key_print or given.key_print
    return found, key_print if "pseudonym" in found.values() else ""


def hidden(decided: Mapping[str, Decision]) -> dict[str, str]:
    """Return by name in a request ``pseudonym`` or ``drop``; an encrypted column is no input, so of a request it is dropped."""
    return {name: "pseudonym" if decision == "pseudonym" else "drop" for name, decision in decided.items() if decision != "keep"}


def without_examples(fields: Iterable[Field], decided: Mapping[str, Decision]) -> list[Field]:
    """Return fields of which none shows a person's value; ranges stay, for rules on what training has not seen need them."""
    return [msgspec.structs.replace(field, examples=[]) if field.name in decided else field for field in fields]
