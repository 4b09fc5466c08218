"""By what a person can be named here: the columns that say whom something is about, and those of which nothing is kept."""

from __future__ import annotations

from collections.abc import Iterable

from kaizenml.context import Context
from kaizenml.data import store
from kaizenml.errors import NotFound, nearest
from kaizenml.governance.forgetting import answers, datasets, online
from kaizenml.governance.forgetting.subject import Subject, holders
from kaizenml.serving.journaling import predictions


def check(ctx: Context, wanted: Iterable[Subject]) -> None:
    """Raise NotFound when a name is but near to that of a column: the person would be told to be forgotten, and be there.

    A name unlike any other is taken: rows that have it may be on their way.
    """
    known = _known(ctx)
    for each in wanted:
        if each.column not in known and (close := nearest(each.column, known)):
            raise NotFound(
                f"no dataset, view or request has a column {each.column!r}; did you mean {close!r}?",
                remedy=f"--subject {close}=...",
                values={"column": each.column, "nearest": close, "known": sorted(known)[:100]},
            )


def absent(ctx: Context, columns: Iterable[str]) -> list[str]:
    """Return a sentence for each column that nothing here has."""
    known = _known(ctx)
    return [f"Nothing here has a column {name!r} so far." for name in dict.fromkeys(columns) if name not in known]


def not_kept(ctx: Context, columns: Iterable[str]) -> list[str]:
    """Return a sentence for each dataset that drops one of these columns: rows of the person cannot be found by it."""
    with ctx.catalog.read() as connection:
        known = store.every(connection)
    return [
        f"{dataset.name} keeps no values of {column.name}: rows of the person are not found by it, only by another column that names them."
        for dataset in known
        for column in dataset.contract.columns
        if (column.holds or column.name) in columns and column.personal is not None and column.personal.decision == "drop"
    ]


def _known(ctx: Context) -> set[str]:
    with ctx.catalog.read() as connection:
        found = {name for each in store.every(connection) for pair in holders(datasets.whole(connection, each)).items() for name in pair}
    found |= {name for view in online.views(ctx) for name in view.entities}
    for signature in answers.signatures(ctx):
        found |= {field.name for field in signature.fields} | {*signature.hidden} | {name for use in signature.views for name in use.entities}
        found |= {name for name in (signature.key, signature.unit) if name}
    for endpoint in predictions.endpoints(ctx.state):
        table = predictions.open_table(ctx.state, endpoint)
        found |= {name.removeprefix("x_") for name in (predictions.names(table) if table else ()) if name.startswith("x_")}
    return found
