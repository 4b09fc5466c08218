"""What of a request has to be hidden before a model sees it: what was hidden in the rows that it learned from."""

from __future__ import annotations

from collections.abc import Iterable

from kaizenml.context import Context
from kaizenml.data import tables
from kaizenml.data.dataset import DatasetVersion
from kaizenml.features.view import FeatureView, entities_of, feature_names


def hidden_inputs(ctx: Context, version: DatasetVersion, views: Iterable[FeatureView]) -> tuple[dict[str, str], str]:
    """Return by name in a request ``pseudonym`` or ``drop``, and the fingerprint of the key of those pseudonyms.

    Parameters
    ----------
    version : the rows learned from. An encrypted column is no input; of a request it is dropped.
    views : those in the frame: their keys and features in a request are hidden as their datasets are.
    """
    found = {name: "pseudonym" if form == "pseudonym" else "drop" for name, form in version.personal.items() if form != "keep"}
    key_print = version.key_print
    for view in views:
        if not view.dataset:
            continue
        given = tables.version(ctx, view.dataset)
        features = feature_names(view.name, view.columns, plain=view.plain)
        named = {name: name for name in entities_of(view.entity)} | features
        pseudonyms = {name: "pseudonym" for name, column in named.items() if given.personal.get(column) == "pseudonym"}
        found |= pseudonyms
        key_print = key_print or (given.key_print if pseudonyms else "")
    return found, key_print if "pseudonym" in found.values() else ""
