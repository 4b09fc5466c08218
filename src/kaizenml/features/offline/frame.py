"""The training frame: a dataset's rows with the features that were known when each row's question was asked."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.data import store as datasets
from kaizenml.data import tables
from kaizenml.data.dataset import DatasetVersion, Kind
from kaizenml.errors import InvalidData, InvalidSettings, NotFound, nearest, not_found
from kaizenml.features import join, store
from kaizenml.features.defining import definitions
from kaizenml.features.defining.expressions import compile_derived
from kaizenml.features.encoding.vectorised import category_text, microseconds
from kaizenml.features.offline import gathering, scaled, splitting
from kaizenml.features.offline.fields import plain_kind
from kaizenml.features.signature import Derived, FieldKind, Signature, ViewUse
from kaizenml.features.view import FeatureView
from kaizenml.features.windows import vectorised as windows
from kaizenml.features.windows.aggregates import NUMERIC, kind_of
from kaizenml.scratch import FOLDER, Scratch
from kaizenml.settings import Engine

_DERIVED: dict[FieldKind, pa.DataType] = {
    "number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.string(), "timestamp": pa.float64(),
}  # fmt: skip
_one_large = threading.Lock()  # of the views that are cut by entity one at a time, for the sake of memory
_QUERY_S = 3600.0  # a view's query may go through many millions of rows


_used: dict[Path, dict[str, FeatureView]] = {}  # by project and name.version: what one is never changes; a push must not wait for the catalog


def views(ctx: Context) -> list[FeatureView]:
    """Return the feature views: those of kaizen.toml in order, then those defined in Python; of one that ``task.views`` pins, the version named."""
    today = definitions.of(ctx).views
    found = {view.name: view for view in today}
    for name in _asked_for(ctx) or ():
        if "@" in name:
            view = _version(ctx, name, today)
            found[view.name] = view
    return list(found.values())


def learnt_from(ctx: Context) -> tuple[list[FeatureView], list[Derived]]:
    """Return the views that a model of the project learns from, ``task.views`` or all, and the derived inputs that these suffice for."""
    known, computed = {view.name: view for view in views(ctx)}, derived(ctx)
    asked = _asked_for(ctx)
    if asked is None:
        return list(known.values()), computed
    names = [name.partition("@")[0] for name in asked]
    for name in names:
        if name not in known:
            raise not_found("feature view", name, known, remedy="mend task.views in kaizen.toml; kaizen features list")
        if names.count(name) > 1:
            raise InvalidSettings(
                f"task.views names {name!r} twice: a model reads one version of a view",
                remedy="name one of them; `kaizen features frame` puts several versions side by side",
                values={"setting": "task.views", "found": asked},
            )
    gone = {feature for name, view in known.items() if name not in names for feature in view.features}
    for each in computed:
        if gone & set(each.inputs):
            gone.add(each.name)
    return [known[name] for name in names], [each for each in computed if each.name not in gone]


def _asked_for(ctx: Context) -> list[str] | None:
    return None if ctx.settings.task is None else ctx.settings.task.views


def derived(ctx: Context) -> list[Derived]:
    """Return the project's derived inputs, each after what it is computed from."""
    return definitions.of(ctx).derived


def view_named(ctx: Context, name: str) -> FeatureView:
    """Return one feature view: as the project has it, or as ``name@version`` was; NotFound comes with the nearest name."""
    if "@" in name:
        return _version(ctx, name, definitions.of(ctx).views)
    known = {view.name: view for view in views(ctx)}
    if name not in known:
        for each in definitions.of(ctx).derived:
            if each.name == name:
                what = f"{name!r} is a derived input, computed from {', '.join(each.inputs)}, and no feature view"
                raise NotFound(what, remedy=f"kaizen features search {name}", values={"name": name, "inputs": each.inputs})
        raise not_found("feature view", name, known, remedy="kaizen features list")
    return known[name]


def _version(ctx: Context, name: str, today: Iterable[FeatureView]) -> FeatureView:
    bare, _, version = name.partition("@")
    now, before = [view for view in today if view.name == bare], list[FeatureView]()
    for anew in (False, True):
        before = [view for view in reversed(_ever_used(ctx, anew=anew).values()) if view.name == bare]
        for view in [*now, *before] if version else now:
            if view.version.startswith(version):
                return view
    shown = [f"{view.name}@{view.version}" for view in before]
    raise not_found("version of a feature view", name, shown, remedy=f"kaizen features show {bare}")


def uses(found: Iterable[FeatureView]) -> list[ViewUse]:
    """Return the views as a model's signature holds them."""
    return [
        ViewUse(name=v.name, version=v.version, entity=v.entity, columns=v.columns, ttl_s=v.ttl_s, aggregates=v.aggregates, plain=v.plain)
        for v in found
    ]


def training_frame(
    ctx: Context, ref: str, *, views: Sequence[FeatureView] | None = None, derived: Sequence[Derived] | None = None, recorded: bool = True,
    only: Callable[[pa.Table], pa.Table] | None = None,
) -> pa.Table:  # fmt: skip
    """Return a dataset's rows with the columns of the feature views, each as it was known when the question was asked.

    The question is asked ``task.asked_before`` ahead of the row's ``task.time``. Where the task has no time, the newest
    values are taken, whatever their age: right for what never changes, and the best there is otherwise.

    Parameters
    ----------
    ref : the dataset, ``name`` or ``name@number``.
    views : default those that the project learns from.
    derived : default the project's where the views are, else none.
    recorded : whether this counts as a use of the views; not where somebody only looks.
    only : chooses among the dataset's rows, sorted, before features are put beside them; default all.

    Returns
    -------
    The rows that may be learnt from, also those without a target, sorted by time where the task has one (rows without a time first; equal
    times keep their order), with a column for each feature and each derived input.

    Raises
    ------
    InvalidSettings : a view's entity is no column of the dataset, or a feature's name is taken.
    """
    chosen, computed = learnt_from(ctx) if views is None else (list(views), list(derived or ()))
    computed = computed if derived is None else list(derived)
    task = ctx.settings.task
    time, before_s = (None, 0.0) if task is None else (task.time, parse_duration(task.asked_before))
    rows = _in_order(ctx, ref, time)
    if only is not None:
        rows = only(rows)
    if recorded and time is not None:
        _check_itself(chosen, ref, time, asked_before_s=before_s)
    rows = with_features(ctx, rows, chosen, computed, known_at=_asked_at(rows, time, before_s), told=ref, engine=ctx.settings.project.engine)
    if recorded:
        store.record_use(ctx, chosen)
    return rows


def frame_of(ctx: Context, signature: Signature, ref: str, *, only: Callable[[pa.Table], pa.Table] | None = None) -> pa.Table:
    """Return a dataset's rows as a model that exists reads them, whatever the project's definitions are by now.

    Views have the versions that the signature pins, derived inputs its expressions, and the question is asked when it says.
    ``training_frame`` is for what is yet to be learnt.

    Parameters
    ----------
    signature : of the model.
    ref : the dataset, ``name`` or ``name@number``.
    only : chooses among the dataset's rows, sorted, before features are put beside them; default all.

    Returns
    -------
    The rows as ``training_frame`` gives them.

    Raises
    ------
    NotFound : the catalog does not hold a view's definition.
    InvalidSettings : the dataset lacks a column that the model is asked by.
    """
    rows = _in_order(ctx, ref, signature.time)
    return with_pinned(ctx, signature, rows if only is None else only(rows), told=ref)


def with_pinned(ctx: Context, signature: Signature, rows: pa.Table, *, told: str) -> pa.Table:
    """Return rows of a dataset, in their order, with the features that a model's signature pins; see ``frame_of``.

    Parameters
    ----------
    told : what the rows are called in messages.
    """
    known_at = _asked_at(rows, signature.time, signature.asked_before_s)
    found = pinned(ctx, [use.ref for use in signature.views])
    return with_features(ctx, rows, found, signature.derived, known_at=known_at, told=told, engine=ctx.settings.project.engine)


def pinned(ctx: Context, refs: Sequence[str]) -> list[FeatureView]:
    """Return the views that a run or a signature pins as ``name.version``, in their order, out of what was ever used."""
    found = {view.ref: view for view in ever_used(ctx, refs)}
    for ref in refs:
        if ref not in found:
            raise not_found("version of a feature view", ref, found, remedy="restore the catalog from a backup")
    return [found[ref] for ref in refs]


def ever_used(ctx: Context, refs: Sequence[str]) -> list[FeatureView]:
    """Return those of some versions of views, ``name.version``, that were ever used. The catalog is asked only for those that are new here."""
    known = _ever_used(ctx)
    if not known.keys() >= set(refs):
        known = _ever_used(ctx, anew=True)
    return [known[ref] for ref in refs if ref in known]


def _ever_used(ctx: Context, *, anew: bool = False) -> dict[str, FeatureView]:
    """Return the versions of views that were used, by ``name.version``, oldest first: those known to this process unless they are read anew."""
    if anew or ctx.root not in _used:
        with ctx.catalog.read() as connection:
            _used[ctx.root] = store.definitions(connection)
    return _used[ctx.root]


def _in_order(ctx: Context, ref: str, time: str | None) -> pa.Table:
    """Return the rows that may be learnt from, by their time where they have one."""
    rows = tables.read_allowed(ctx, ref)
    if time is None:
        return rows
    if time not in rows.column_names:
        raise _no_column(ctx, "task.time", time, ref, rows.column_names)
    us = _moments(rows, time)
    return rows if bool((us[1:] >= us[:-1]).all()) else rows.take(pa.array(np.argsort(us, kind="stable")))


def _asked_at(rows: pa.Table, time: str | None, before_s: float) -> join.Int64 | None:
    """Return the moment at which each row's question is asked; None where rows have no time."""
    if time is None:
        return None
    us = _moments(rows, time)
    return np.where(us == join.MISSING, us, us - round(before_s * 1e6))


def _moments(rows: pa.Table, column: str) -> join.Int64:
    times = microseconds(rows.column(column))
    return np.where(np.asarray(times.is_null().to_numpy(), bool), join.MISSING, np.asarray(times.fill_null(0).to_numpy(), np.int64))


def _check_itself(views: Iterable[FeatureView], ref: str, time: str, *, asked_before_s: float) -> None:
    """Refuse windows that hold the very row that is asked about: a request is asked before its row exists."""
    for view in views:
        if asked_before_s <= 0 and view.aggregates and view.at == time and view.dataset == ref.partition("@")[0] and view.created is None:
            raise InvalidSettings(
                f"each row of {view.dataset} would count in its own features of the view {view.name!r}: both go by {time!r}",
                remedy='say asked_before = "1s" under [task]: the question comes before the row',
                values={"view": view.name, "dataset": view.dataset, "time": time},
            )


def with_features(
    ctx: Context, rows: pa.Table, views: Sequence[FeatureView], derived: Sequence[Derived], *, known_at: join.Int64 | None, told: str,
    engine: Engine = "local",
) -> pa.Table:  # fmt: skip
    """Return a table's rows, in their order, with the views' features and derived inputs as they were known at each row's moment.

    Parameters
    ----------
    known_at : microseconds since 1970 UTC for each row; ``join.MISSING`` where there is no moment. None: the newest values.
    told : what the rows are called in messages.
    engine : what computes them; derived inputs are computed here.
    """
    names = set(rows.column_names)
    for view in views:
        _check_names(ctx, view, rows.column_names, names, told)
        names |= set(view.features)
    # two views at once: what they do is numpy's and Arrow's, beside the interpreter; an engine has threads of its own
    with ThreadPoolExecutor(2 if engine == "local" else 1, thread_name_prefix="view") as beside:
        made = list(beside.map(lambda view: _columns_of(ctx, rows, view, known_at=known_at, engine=engine), views))
    for view, columns in zip(views, made, strict=True):
        for name, column in zip(view.features, columns, strict=True):
            rows = rows.append_column(name, column)
    for each in derived:
        rows = _computed(rows, each, told)
    return rows


def kinds_of(ctx: Context, ref: str, *, views: Sequence[FeatureView] | None = None, derived: Sequence[Derived] | None = None) -> dict[str, Kind]:
    """Return the kind of every column of the training frame, as the datasets' contracts and the definitions say."""
    kinds = dict(tables.version(ctx, ref).columns)
    chosen, computed = learnt_from(ctx) if views is None else (list(views), list(derived or ()))
    computed = computed if derived is None else list(derived)
    for view in chosen:
        given = {} if view.sql else tables.version(ctx, view.dataset).columns
        of = {each.name: kind_of(each.function, given.get(each.column or "")) for each in view.aggregates if each.column is None or given}
        of |= {column: given[column] for column in view.columns if column in given}
        kinds |= {name: of[column] for name, column in view.features.items() if column in of}
    return kinds | {each.name: each.kind for each in computed}


def datasets_behind(ctx: Context, view: FeatureView) -> list[str]:
    """Return the datasets whose rows a view's values come from, its own first."""
    if view.sql is None:
        return [view.dataset]
    with ctx.catalog.read() as connection:
        known = [each.name for each in datasets.every(connection)]
    named = set(re.findall(r"[A-Za-z][A-Za-z0-9_-]*", view.sql))
    return [view.dataset, *(name for name in known if name in named and name != view.dataset)]


def _check_names(ctx: Context, view: FeatureView, known: list[str], taken: set[str], ref: str) -> None:
    for key in view.entities:
        if key not in known:
            raise _no_column(ctx, f"features.{view.name}.entity", key, ref, known)
    if doubled := [name for name in view.features if name in taken]:
        raise InvalidSettings(
            f"the feature {doubled[0]!r} of view {view.name!r} has the name of a column of {ref}",
            remedy="rename it where it is defined" if view.plain else f"rename the view under [features.{view.name}]",
            values={"view": view.name, "columns": doubled},
        )


def _columns_of(ctx: Context, rows: pa.Table, view: FeatureView, *, known_at: join.Int64 | None, engine: Engine) -> list[pa.ChunkedArray]:
    if engine == "local":
        return _columns(ctx, rows, view, known_at)
    if view.sql is None:
        _check_columns(ctx, view, tables.version(ctx, view.dataset))
    return scaled.columns(ctx, rows, view, known_at=known_at, engine=engine)


def _columns(ctx: Context, rows: pa.Table, view: FeatureView, known_at: join.Int64 | None) -> list[pa.ChunkedArray]:
    if view.sql is not None:
        span, of, behind = None, rows_behind(ctx, view), view_batches(ctx, view)
    else:
        version = tables.version(ctx, view.dataset)
        wanted = _check_columns(ctx, view, version)
        none = tables.rows_of(ctx, msgspec.structs.replace(version, parts=[]), wanted)
        span = None if view.at is None else tables.Span(view.at, *splitting.span(view, known_at))
        scanned = tables.Scan(ctx, version, wanted, span=span)
        if not view.aggregates:
            return gathering.columns(rows, view, known_at, scanned, none)
        of, behind = version.rows, itertools.chain([none], scanned.batches())
    told_apart = keyed(ctx, view)
    if of <= splitting.ROWS:
        found = pa.concat_tables(behind)
        if span is not None and (within := span.filter()) is not None:
            found = found.filter(within)
        return known_of(rows, found if told_apart else once(view, found), view, known_at)
    as_asked = view if known_at is not None else msgspec.structs.replace(view, ttl_s=None)

    def compute(some: pa.Table, behind: pa.Table, moments: join.Int64 | None) -> list[pa.ChunkedArray]:
        return known_of(some, behind if told_apart else once(view, behind), as_asked, moments)

    with _one_large:
        return splitting.columns(ctx.state / FOLDER, rows.select(view.entities), view, known_at, behind, of=of, compute=compute)


def known_of(rows: pa.Table, behind: pa.Table, view: FeatureView, known_at: join.Int64 | None) -> list[pa.ChunkedArray]:
    """Return the view's features for each of ``rows``, in their order, out of ``behind``, which are as ``view_rows`` gives them."""
    ttl_us = None if view.ttl_s is None else round(view.ttl_s * 1e6)
    columns: list[pa.ChunkedArray] = []
    if view.columns:
        columns += join.join(rows, behind, on=view.entities, columns=view.columns, at=view.at, known_at=known_at, ttl_us=ttl_us).columns
    if view.aggregates:
        columns += windows.aggregate(
            rows, behind, on=view.entities, aggregates=view.aggregates, at=view.at, created=view.created, known_at=known_at, ttl_us=ttl_us
        ).columns
    return columns


def _computed(rows: pa.Table, each: Derived, ref: str) -> pa.Table:
    if each.name in rows.column_names or (absent := next((name for name in each.inputs if name not in rows.column_names), None)):
        what = f"has the name of a column of {ref}" if each.name in rows.column_names else f"is computed from {absent!r}, which {ref} lacks"
        close = None if each.name in rows.column_names else nearest(str(absent), rows.column_names)
        raise InvalidSettings(
            f"the derived input {each.name!r} {what}" + (f"; did you mean {close!r}?" if close else ""),
            remedy=f"mend {each.name} where it is defined",
            values={"derived": each.name, "inputs": each.inputs, "nearest": close},
        )
    value = compile_derived(each)
    columns = [_plain_values(rows.column(name)) for name in each.inputs]
    return rows.append_column(each.name, pa.array(map(value, *columns), _DERIVED[each.kind], size=rows.num_rows))


def _plain_values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return [None if us is None else us / 1e6 for us in microseconds(column).to_pylist()]
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    values: list[Any] = (category_text(column) if pa.types.is_dictionary(column.type) else column).to_pylist()
    return values


def view_rows(ctx: Context, view: FeatureView, ref: str | DatasetVersion | None = None, *, more: Sequence[str] = ()) -> pa.Table:
    """Return the rows behind a view that may be used, in the order in which they were added; its columns, and ``more``.

    Where nothing tells rows of a view with aggregates apart (its dataset has no key), those that agree in all that the view reads are one:
    pushing them again changes nothing, online or here.
    """
    rows = pa.concat_tables(view_batches(ctx, view, ref, more=more))
    return rows if keyed(ctx, view) else once(view, rows)


def view_batches(
    ctx: Context, view: FeatureView, ref: str | DatasetVersion | None = None, *, more: Sequence[str] = ()
) -> Iterator[pa.Table]:
    """Yield the rows that ``view_rows`` gives, some at a time, in bounded memory; first none of them, which tells their columns.

    Rows that ``view_rows`` takes for one are all there. Where they may be, whoever has all rows of an entity calls ``once``.
    """
    if view.sql is not None:
        yield from _queried(ctx, view)
        return
    version = tables.version(ctx, ref or view.dataset)
    wanted = _check_columns(ctx, view, version, more)
    yield tables.rows_of(ctx, msgspec.structs.replace(version, parts=[]), wanted)
    yield from tables.allowed_batches(ctx, version, wanted)


def rows_behind(ctx: Context, view: FeatureView, ref: str | DatasetVersion | None = None) -> int:
    """Return how many rows ``view_batches`` gives, those that are left out too; of a query, how many it reads."""
    if view.sql is None:
        return tables.version(ctx, ref or view.dataset).rows
    return sum(tables.version(ctx, name).rows for name in datasets_behind(ctx, view))


def keyed(ctx: Context, view: FeatureView) -> bool:
    """Tell whether something tells the rows behind a view apart."""
    if not view.aggregates:
        return True
    with ctx.catalog.read() as connection:
        held = None if view.sql is not None else datasets.find(connection, view.dataset)
    return held is not None and bool(held.contract.keys)


def _check_columns(ctx: Context, view: FeatureView, version: DatasetVersion, more: Sequence[str] = ()) -> list[str]:
    """Return the columns that a view reads, all of them there and of the right kinds."""
    wanted = list(dict.fromkeys([*view.entities, *(name for name in (view.at, view.created) if name), *view.reads, *more]))
    for name in wanted:
        if name not in version.columns:
            raise _no_column(ctx, f"features.{view.name}", name, view.dataset, version.columns)
    _check_kinds(view, version.columns)
    return wanted


def once(view: FeatureView, rows: pa.Table) -> pa.Table:
    """Return the rows behind a view without those that say the same as an earlier one."""
    if not view.aggregates:
        return rows
    return windows.once(rows, on=view.entities, times=[name for name in (view.at, view.created) if name], values=view.reads)


def _queried(ctx: Context, view: FeatureView) -> Iterator[pa.Table]:
    """Run a view's query over the allowed rows of the datasets that it names."""
    from kaizenml.data import sql

    wanted = list(dict.fromkeys([*view.entities, *(name for name in (view.at, view.created) if name), *view.reads]))
    given = {name: tables.Allowed(ctx, name) for name in datasets_behind(ctx, view)}
    with Scratch(ctx.state / FOLDER, "query-") as spill:
        try:
            for place, rows in enumerate(sql.batches(view.sql or "", given, limit_s=_QUERY_S, spill=spill)):
                if place == 0:
                    for name in wanted:
                        if name not in rows.column_names:
                            raise _no_column(ctx, f"features.{view.name}", name, "its query", rows.column_names)
                    _check_kinds(view, {name: plain_kind(rows.schema.field(name).type) or "category" for name in rows.column_names})
                yield _text(rows.select(wanted))
        except InvalidData:
            if failed := next((each.failed for each in given.values() if each.failed), None):
                raise failed from None
            raise


def _text(rows: pa.Table) -> pa.Table:
    """Write categories as text: what the numbers of two batches stand for may differ."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            rows = rows.set_column(place, field.name, category_text(rows.column(place)))
    return rows


def _check_kinds(view: FeatureView, known: Mapping[str, Kind]) -> None:
    for setting, name in (("at", view.at), ("created", view.created)):
        if name is not None and known[name] != "timestamp":
            raise InvalidSettings(
                f"features.{view.name}.{setting}: the column {name!r} of {view.dataset} holds {known[name]}, not times",
                remedy=f"name a column with times as `{setting}` where the view {view.name} is defined",
                values={"view": view.name, "column": name, "found": known[name]},
            )
    for each in view.aggregates:
        kind = known.get(each.column or "")
        if each.function in NUMERIC and kind not in ("number", "integer", "boolean"):
            raise InvalidSettings(
                f"{each.name} of the view {view.name} is the {each.function} of {each.column!r}, which holds {kind}",
                remedy="name a column of numbers, or take count, distinct, first or latest",
                values={"view": view.name, "column": each.column, "found": kind},
            )


def _no_column(ctx: Context, setting: str, name: str, dataset: str, known: Iterable[str]) -> InvalidSettings:
    close = nearest(name, known)
    place = definitions.of(ctx).places.get(setting.split(".")[1], "kaizen.toml") if setting.startswith("features.") else "kaizen.toml"
    return InvalidSettings(
        f"{setting}: {dataset} has no column {name!r}" + (f"; did you mean {close!r}?" if close else ""),
        remedy=f"mend {setting} in {place}; `kaizen data show {dataset.partition('@')[0]}` lists the columns",
        values={"setting": setting, "found": name, "nearest": close, "known": list(known)[:100]},
    )
