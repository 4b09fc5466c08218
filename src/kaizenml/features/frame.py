"""The training frame: a dataset's rows with the features that were known when each row's question was asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.data import tables
from kaizenml.data.dataset import DatasetVersion, Kind
from kaizenml.errors import InvalidSettings, nearest, not_found
from kaizenml.features import join, store
from kaizenml.features.encoding import category_text, microseconds
from kaizenml.features.signature import Field, FieldKind, ViewUse
from kaizenml.features.view import FeatureView
from kaizenml.refs import check_name

MAX_TEXT_LEVELS = 40  # a column of text with no more distinct values than this is a category


def views(ctx: Context) -> list[FeatureView]:
    """Return the project's feature views, in the order of kaizen.toml."""
    found = []
    for name, view in ctx.settings.features.items():
        check_name(name)
        if view.at is None and view.ttl is not None:
            raise InvalidSettings(
                f"features.{name}.ttl is {view.ttl!r}, but the view has no time by which its values could grow old",
                remedy=f"name the column with the event time as `at`, or remove `ttl`, under [features.{name}]",
                values={"view": name},
            )
        ttl_s = None if view.ttl is None else parse_duration(view.ttl)
        found.append(FeatureView(name=name, dataset=view.dataset, entity=view.entity, columns=view.columns, at=view.at, ttl_s=ttl_s))
    return found


def view_named(ctx: Context, name: str) -> FeatureView:
    """Return one feature view of the project, or raise NotFound with the nearest name."""
    known = {view.name: view for view in views(ctx)}
    if name not in known:
        raise not_found("feature view", name, known, remedy="kaizen features list")
    return known[name]


def uses(found: Iterable[FeatureView]) -> list[ViewUse]:
    """Return the views as a model's signature holds them."""
    return [ViewUse(name=v.name, version=v.version, entity=v.entity, columns=v.columns, ttl_s=v.ttl_s) for v in found]


def training_frame(ctx: Context, ref: str, *, views: Sequence[FeatureView] | None = None, recorded: bool = True) -> pa.Table:
    """Return a dataset's rows with the columns of the feature views, each as it was known when the question was asked.

    The question is asked ``task.asked_before`` ahead of the row's ``task.time``. Where the task has no time, the newest
    values are taken, whatever their age: right for what never changes, and the best there is otherwise.

    Parameters
    ----------
    ref : the dataset, ``name`` or ``name@number``.
    views : default the project's.
    recorded : whether this counts as a use of the views; not where somebody only looks.

    Returns
    -------
    All rows that may be learnt from, also those without a target, sorted by time where the task has one (rows without a time first; equal times keep
    their order), with a column ``{view}_{column}`` for each feature.

    Raises
    ------
    InvalidSettings : a view's entity is no column of the dataset, or a feature's name is taken.
    """
    chosen = _views(ctx) if views is None else list(views)
    rows = tables.read_allowed(ctx, ref)
    task = ctx.settings.task
    known_at = None
    if task is not None and task.time is not None:
        if task.time not in rows.column_names:
            raise _no_column("task.time", task.time, ref, rows.column_names)
        times = microseconds(rows.column(task.time))
        us = np.where(np.asarray(times.is_null().to_numpy(), bool), join.MISSING, np.asarray(times.fill_null(0).to_numpy(), np.int64))
        if not bool((us[1:] >= us[:-1]).all()):
            order = np.argsort(us, kind="stable")
            rows, us = rows.take(pa.array(order)), us[order]
        known_at = np.where(us == join.MISSING, us, us - round(parse_duration(task.asked_before) * 1e6))
    for view in chosen:
        rows = _joined(ctx, rows, view, ref, known_at)
    if recorded:
        store.record_use(ctx, chosen)
    return rows


def kinds_of(ctx: Context, ref: str, *, views: Sequence[FeatureView] | None = None) -> dict[str, Kind]:
    """Return the kind of every column of the training frame, as the datasets' contracts say."""
    kinds = dict(tables.version(ctx, ref).columns)
    for view in _views(ctx) if views is None else views:
        given = tables.version(ctx, view.dataset).columns
        kinds |= {f"{view.name}_{column}": given[column] for column in view.columns if column in given}
    return kinds


def fields_of(
    table: pa.Table, *, target: str, ignore: Iterable[str] = (), views: Sequence[FeatureView] = (), kinds: Mapping[str, Kind] | None = None
) -> list[Field]:
    """Return the columns of a training frame that can be inputs, as they were seen in it.

    Parameters
    ----------
    table : the training frame.
    target, ignore : columns that are no inputs.
    views : the feature views in the frame, so that their columns are known to come from them.
    kinds : kinds by column, see ``kinds_of``; where it says nothing, the column's type decides. Text is an input only
        where it has few distinct values.
    """
    given = {f"{view.name}_{column}": view.name for view in views for column in view.columns}
    left_out = {target, *ignore}
    return [
        _field(table.column(name), name, kind, given.get(name))
        for name in table.column_names
        if name not in left_out and (kind := _field_kind(table.column(name), (kinds or {}).get(name))) is not None
    ]


_views = views  # the parameters above are named like it


def _joined(ctx: Context, rows: pa.Table, view: FeatureView, ref: str, known_at: join.Int64 | None) -> pa.Table:
    for key in view.entities:
        if key not in rows.column_names:
            raise _no_column(f"features.{view.name}.entity", key, ref, rows.column_names)
    names = [f"{view.name}_{column}" for column in view.columns]
    if taken := [name for name in names if name in rows.column_names]:
        raise InvalidSettings(
            f"the feature {taken[0]!r} of view {view.name!r} has the name of a column of {ref}",
            remedy=f"rename the view under [features.{view.name}]",
            values={"view": view.name, "columns": taken},
        )
    features = join.join(
        rows,
        view_rows(ctx, view),
        on=view.entities,
        columns=view.columns,
        at=view.at,
        known_at=known_at,
        ttl_us=None if view.ttl_s is None else round(view.ttl_s * 1e6),
    )
    for name, column in zip(names, features.columns, strict=True):
        rows = rows.append_column(name, column)
    return rows


def view_rows(ctx: Context, view: FeatureView, ref: str | DatasetVersion | None = None, *, more: Sequence[str] = ()) -> pa.Table:
    """Return the rows behind a view that may be used, in the order in which they were added; its columns, and ``more``."""
    wanted = list(dict.fromkeys([*view.entities, *(name for name in (view.at, view.created) if name), *view.reads, *more]))
    known = tables.version(ctx, ref or view.dataset).columns
    for name in wanted:
        if name not in known:
            raise _no_column(f"features.{view.name}", name, view.dataset, known)
    if view.at is not None and known[view.at] != "timestamp":
        raise InvalidSettings(
            f"features.{view.name}.at: the column {view.at!r} of {view.dataset} holds {known[view.at]}, not times",
            remedy=f"name a column with times as `at` under [features.{view.name}]",
            values={"view": view.name, "column": view.at, "found": known[view.at]},
        )
    return tables.read_allowed(ctx, ref or view.dataset, wanted)


def _no_column(setting: str, name: str, dataset: str, known: Iterable[str]) -> InvalidSettings:
    close = nearest(name, known)
    return InvalidSettings(
        f"{setting}: {dataset} has no column {name!r}" + (f"; did you mean {close!r}?" if close else ""),
        remedy=f"mend {setting} in kaizen.toml; `kaizen data show {dataset.partition('@')[0]}` lists the columns",
        values={"setting": setting, "found": name, "nearest": close, "known": list(known)[:100]},
    )


def _field_kind(column: pa.ChunkedArray, kind: Kind | None) -> FieldKind | None:
    found = column.type
    if kind is not None and kind != "text":
        return kind
    if pa.types.is_boolean(found):
        return "boolean"
    if pa.types.is_integer(found):
        return "integer"
    if pa.types.is_floating(found) or pa.types.is_decimal(found):
        return "number"
    if pa.types.is_timestamp(found) or pa.types.is_date(found):
        return "timestamp"
    if pa.types.is_dictionary(found):
        return "category"
    if pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found):
        distinct = pc.count_distinct(column, mode="only_valid").as_py()
        return "category" if 0 < distinct <= min(MAX_TEXT_LEVELS, len(column) // 2) else None
    return None


def _field(column: pa.ChunkedArray, name: str, kind: FieldKind, view: str | None) -> Field:
    minimum = maximum = None
    examples: list[Any] = []
    nullable = column.null_count > 0
    if kind == "category":
        counted = pc.value_counts(category_text(column).combine_chunks()).to_pylist()
        counted.sort(key=lambda item: (-item["counts"], item["values"] or ""))
        examples = [item["values"] for item in counted if item["values"] is not None][:5]
    elif kind == "boolean":
        examples = [False, True]
    elif kind == "timestamp":
        us = np.sort(microseconds(column).drop_null().to_numpy())
        if len(us):
            minimum, maximum = float(us[0] / 1e6), float(us[-1] / 1e6)
            examples = [f"{np.datetime64(int(us[place]), 'us').astype('datetime64[s]')}Z" for place in (0, len(us) // 2, len(us) - 1)]
    else:
        values = column.cast(pa.float64(), safe=False).drop_null().to_numpy()
        finite = values[np.isfinite(values)]
        nullable = nullable or len(finite) < len(values)
        if len(finite):
            low, *inner, high = np.quantile(finite, [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0], method="nearest").tolist()
            minimum, maximum = low, high
            examples = list(dict.fromkeys(int(value) if kind == "integer" and math.isfinite(value) else value for value in inner))
    return Field(name=name, kind=kind, view=view, nullable=nullable, minimum=minimum, maximum=maximum, examples=examples)
