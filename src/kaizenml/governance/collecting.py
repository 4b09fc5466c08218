"""Collect less: columns of a dataset that nothing reads, so that they can be left out or dropped."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kaizenml.context import Context
from kaizenml.data import tables
from kaizenml.data.dataset import Contract, Dataset, DatasetVersion
from kaizenml.data.people import personal
from kaizenml.errors import KaizenError
from kaizenml.features import store as views
from kaizenml.refs import parse_ref
from kaizenml.registry import store as models
from kaizenml.training import model_file
from kaizenml.training import store as runs
from kaizenml.training.run import Run

_LAST = 10  # models that are looked at, the newest


def unused(ctx: Context, dataset: Dataset, version: DatasetVersion) -> list[str]:
    """Return the columns that no model, feature view, setting or promise of the contract reads.

    Nothing is said before something was made of the dataset, nor of columns that came after the newest model was trained on it: it is
    too early to tell. A column that only the leak scan keeps from the models is not read either.
    """
    name = dataset.name
    with ctx.catalog.read() as connection:
        known = list(views.definitions(connection).values())
        trained = {run.id: run for run in runs.all_runs(connection) if parse_ref(run.dataset)[0] == name}
        made = [model for model in models.every(connection) if model.run in trained][-_LAST:]
    readers = [view for view in known if view.dataset == name or view.sql]
    if not made and not readers:
        return []
    used = {*personal.roles(ctx, name), *_promised(dataset.contract, version.columns)}
    for view in known:
        if view.dataset == name:
            used |= {*view.entities, *view.reads, *filter(None, (view.at, view.created))}
        elif view.sql:
            used |= _named(view.sql, version.columns)
        used |= {*view.entities} if made else set()  # rows to learn from are joined by them
    for model in made:
        try:
            signature = model_file.read(ctx.state / model.folder).signature
        except (KaizenError, OSError):
            return []  # who knows what it reads
        used |= {field.name for field in signature.fields} | {each for derived in signature.derived for each in derived.inputs}
    there = _columns_at(ctx, trained[made[-1].run]) if made else set(version.columns)
    return [column for column in version.columns if column not in used and column in there]


def _promised(contract: Contract, columns: Iterable[str]) -> set[str]:
    roles = {*contract.keys, *filter(None, (contract.time, contract.subject))}
    together = {name for one in contract.unique for name in one.columns}
    return roles | together | {name for check in contract.checks for name in _named(check.sql, columns)}


def _named(sql: str, columns: Iterable[str]) -> set[str]:
    words = {word.lower() for word in re.findall(r'"[^"]+"|\w+', sql)}
    return {name for name in columns if name.lower() in words or f'"{name.lower()}"' in words}


def _columns_at(ctx: Context, run: Run) -> set[str]:
    try:
        return set(tables.version(ctx, run.dataset).columns)
    except KaizenError:
        return set()
