"""What a training starts from: the frame, the question, and the columns that are fit to answer it."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kaizenml.clock import parse_duration
from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.errors import InvalidData, InvalidSettings, RecipeOutdated, UsageError
from kaizenml.features.offline import frame
from kaizenml.features.offline.fields import fields_of
from kaizenml.features.signature import Derived, Field, Signature, ViewUse
from kaizenml.features.view import FeatureView
from kaizenml.settings import TaskKind, TaskSettings
from kaizenml.training import columns, hiding, leaks
from kaizenml.training.run import Leak
from kaizenml.training.task import Task, infer, labels

Floats = npt.NDArray[np.float64]


class Material(NamedTuple):
    """Labelled rows in order of time, and what is known about their columns."""

    ref: str  # name@number
    table: pa.Table
    task: Task
    y: Floats
    times: Floats | None
    fields: list[Field]
    views: list[FeatureView]
    derived: list[Derived]
    accepts: list[str]
    leaks: list[Leak]
    dropped: dict[str, str]
    warnings: list[str]
    exclusions: list[int]  # that held while the rows were read
    hidden: dict[str, str]  # see ``Signature.hidden``
    key_print: str

    def signature(self, settings: TaskSettings) -> Signature:
        """Return the signature of a model on these fields."""
        uses, computed = _read(self.views, self.derived, [field.name for field in self.fields])
        return Signature(
            task=self.task.kind,
            target=self.task.target,
            classes=self.task.classes,
            fields=self.fields,
            views=uses,
            key=settings.key,
            unit=settings.unit or settings.key,
            time=settings.time,
            asked_before_s=parse_duration(settings.asked_before),
            hidden=self.hidden,
            key_print=self.key_print,
            derived=computed,
        )


def task_settings(ctx: Context) -> TaskSettings:
    """Return the ``[task]`` section, or say how to make one."""
    if ctx.settings.task is None:
        raise UsageError(
            "kaizen.toml has no [task]: there is no question to train a model for",
            remedy='add [task] with dataset = "..." and target = "..." to kaizen.toml',
        )
    return ctx.settings.task


def gather(ctx: Context, dataset: str, *, kind: TaskKind, refused: list[Leak], only: list[str] | None = None) -> Material:
    """Read the frame and choose the inputs.

    Parameters
    ----------
    dataset : ``name`` or ``name@number``.
    kind : of the task; ``auto`` infers it.
    refused : leaks that earlier runs found; they stay refused.
    only : the inputs of the recipe that is refitted: no scan, no choice.
    """
    settings = task_settings(ctx)
    version = tables.version(ctx, dataset)
    views, derived = frame.learnt_from(ctx)
    _check_target(derived, settings.target)
    before = _held(ctx, version.dataset, views)
    whole = frame.training_frame(ctx, version.ref, views=views, derived=derived)
    held = [each for each in before if each in _held(ctx, version.dataset, views)]  # one that was lifted meanwhile may not have held
    task = infer(whole, settings.target, kind)
    y = labels(task, whole)
    rows = np.flatnonzero(~np.isnan(y))[-ctx.settings.train.max_rows :]
    table = whole.take(pa.array(rows)) if len(rows) < whole.num_rows else whole
    times = columns.numbers(table.column(settings.time), "timestamp") if settings.time else None
    kinds = frame.kinds_of(ctx, version.ref, views=views, derived=derived)
    decided, key_print = hiding.decided_inputs(ctx, version, views)
    ignore = settings.ignore if only is None else [name for name in whole.column_names if name not in only]
    ignore = [*ignore, *(name for name, decision in decided.items() if decision == "encrypt")]
    fields = fields_of(table, target=settings.target, ignore=ignore, views=views, derived=derived, kinds=kinds)
    found, dropped, warnings = refused, dict[str, str](), list[str]()
    if only is None:
        found, dropped, warnings = _choose(ctx, whole, table, fields, task=task, y=y, times=times, refused=refused)
        out = {leak.column for leak in found} | set(dropped)
        fields = [field for field in fields if field.name not in out]
    else:
        by_name = {field.name: field for field in fields}
        _check_all_there(by_name, only, version.ref)
        fields = [by_name[name] for name in only]
    if not fields:
        raise _nothing_left(version.ref, found, dropped)
    uses, computed = _read(views, derived, [field.name for field in fields])
    also = [*(name for use in uses for name in use.features), *(each.name for each in computed)]  # read on the way to an input
    accepts = [name for name in dict.fromkeys([*version.columns, *also]) if name not in {field.name for field in fields}]
    fields, hidden = hiding.without_examples(fields, decided), hiding.hidden(decided)
    return Material(version.ref, table, task, y[rows], times, fields, views, derived, accepts, found, dropped, warnings, held, hidden, key_print)


def read_by(ctx: Context, material: Material, signature: Signature, rows: pa.Table) -> pa.Table:
    """Return rows of the material with the features that a model's signature pins, asked at the moments of today's question.

    The champion may read other versions of the views than what is learnt now.
    """
    known = {*(view.ref for view in material.views), *(each.ref for each in material.derived)}
    uses, computed = signature.given
    if known.issuperset([*(use.ref for use in uses), *(each.ref for each in computed)]):
        return rows
    settings = task_settings(ctx)
    asked = msgspec.structs.replace(signature, time=settings.time, asked_before_s=parse_duration(settings.asked_before))
    todays = {name for view in material.views for name in view.features} | {each.name for each in material.derived}
    return frame.with_pinned(ctx, asked, rows.drop_columns([name for name in rows.column_names if name in todays]), told=material.ref)


def _held(ctx: Context, dataset: str, views: list[FeatureView]) -> list[int]:
    with ctx.catalog.read() as connection:
        return [each.id for each in exclusions.active(connection, {dataset, *(view.dataset for view in views)})]


def _read(views: list[FeatureView], derived: list[Derived], fields: list[str]) -> tuple[list[ViewUse], list[Derived]]:
    """Return what a model on these fields reads of views, and what is computed for it; also on the way to another value."""
    needed, computed = set(fields), list[Derived]()
    for each in reversed(derived):
        if each.name in needed:
            computed.insert(0, each)
            needed |= set(each.inputs)
    uses: list[ViewUse] = []
    for use in frame.uses(views):
        read = {column for name, column in use.features.items() if name in needed}
        read |= {part for each in use.aggregates if each.name in read for part in each.of}
        if read:
            aggregates = [each for each in use.aggregates if each.name in read]
            uses.append(msgspec.structs.replace(use, columns=[name for name in use.columns if name in read], aggregates=aggregates))
    return uses, computed


def _check_target(derived: list[Derived], target: str) -> None:
    if found := next((each.name for each in derived if target in each.inputs), None):
        raise InvalidSettings(
            f"the derived input {found!r} is computed from {target!r}, the answer itself",
            remedy=f"compute {found} from what is known when the question is asked",
            values={"derived": found, "target": target},
        )


def _choose(
    ctx: Context, whole: pa.Table, table: pa.Table, fields: list[Field], *, task: Task, y: Floats, times: Floats | None, refused: list[Leak]
) -> tuple[list[Leak], dict[str, str], list[str]]:
    settings = task_settings(ctx)
    dropped = columns.unfit(table, fields, times=times, key=settings.key)
    candidates = [field for field in fields if field.name not in dropped]
    scan = leaks.scan(whole, candidates, task, y, seed=ctx.settings.train.seed, known=settings.known)
    present = {field.name for field in candidates} - set(settings.known)
    before = [leak for leak in refused if leak.column in present]
    names = {leak.column for leak in before}
    return before + [leak for leak in scan.leaks if leak.column not in names], dropped, scan.warnings


def _check_all_there(fields: dict[str, Field], only: list[str], ref: str) -> None:
    if absent := [name for name in only if name not in fields]:
        raise RecipeOutdated(
            f"neither {ref} nor a feature gives the input {absent[0]!r} of the recipe any more",
            remedy="train anew: kaizen train",
            values={"dataset": ref, "absent": absent[:20]},
        )


def _nothing_left(ref: str, found: list[Leak], dropped: dict[str, str]) -> InvalidData:
    out = {**dropped, **{leak.column: leak.reason for leak in found}}
    shown = "; ".join(f"{name!r}: {reason}" for name, reason in list(out.items())[:5])
    return InvalidData(
        f"no column of {ref} is left to learn from" + (f" ({shown})" if shown else ""),
        remedy='add columns, or say known = ["COLUMN"] under [task] for what is known when the question is asked',
        values={"dataset": ref, "left_out": out},
    )
