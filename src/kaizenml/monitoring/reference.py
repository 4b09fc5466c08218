"""The reference of a release: how its inputs looked in training, and what loss it expects. Made once, kept as a file.

``.kaizen/monitoring/<release>.msgpack`` is derived from pinned data, so it may be deleted at any time: it is made again.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.errors import KaizenError
from kaizenml.features.encoding import vectorised as encoding
from kaizenml.features.offline import frame
from kaizenml.features.signature import Signature, TaskKind
from kaizenml.monitoring import drift, live, profile
from kaizenml.monitoring.drift import Limits
from kaizenml.monitoring.profile import Bins, Profile
from kaizenml.registry import check_rows
from kaizenml.registry import operations as registry
from kaizenml.releases import operations as releases
from kaizenml.training import model_file
from kaizenml.training import store as runs

FORMAT = 4
ROWS = 100_000  # newest rows with a target
DAYS = 120  # newest days that say what a usual day is
DAY_ROWS = 30  # a day with fewer says nothing about days
SOLID = 0.05  # a column that misses less than this share is solid: a hole in it is worth noting
SCORED = 2_000
STOPPED = 1e-3  # of the usual spread: a column with no more has stopped
DAY_S = 86_400


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What one must know of a release to compare its answers with the truth."""

    task: TaskKind
    target: str
    classes: list[Any]
    naive: list[float]  # class shares; regression: the mean
    views: dict[str, str] = {}  # view -> input that holds its key
    given: list[str] = []  # names in a row that views and derived inputs give, also where only another of them reads it


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """How a release's inputs looked in training."""

    format: int = FORMAT
    release: str
    dataset: str
    rows: int
    days: int  # with rows enough to say what a usual day is
    bins: Bins
    counts: bytes  # encoded Profile of all rows
    solid: list[bool]
    daily: Limits = Limits()
    weekly: Limits = Limits()
    step: list[float] = []  # distance from the three days before that a usual day does not exceed
    swing: list[float] = []  # by how much a usual day's spread differs from that of the three before it, as a logarithm
    still: list[int] = []  # most usual days, one after the other, on which a column had one value only: a dry spell is no fault
    states: dict[str, float] = {}  # view -> fewest distinct values for a key on a usual day
    expected: float | None = None  # loss on the hold-out before release (log loss; squared error)
    own: float | None = None  # loss the model itself expects on the newest rows
    early: list[float] = []  # highest missing share of a column in a usual day's first hours, however few rows they had

    @property
    def whole(self) -> Profile:
        return profile.decode(self.counts)


@lru_cache(maxsize=64)
def _spec(folder: Path) -> model_file.ModelSpec:
    return model_file.read(folder)  # a release's bundle never changes


def signature_of(ctx: Context, release: str) -> Signature:
    """Return the signature of a release's model."""
    return _spec(_model(ctx, release)).signature


def answers_of(ctx: Context, release: str) -> Answers:
    """Return what is needed to compare a release's answers with the truth."""
    spec = _spec(_model(ctx, release))
    signature, naive = spec.signature, spec.naive
    known = naive.probabilities if naive.probabilities is not None else [float(naive.value)] if signature.task == "regression" else []
    return Answers(
        task=signature.task,
        target=signature.target,
        classes=signature.classes,
        naive=[float(value) for value in known],
        views={view.name: view.entities[0] for view in signature.views if len(view.entities) == 1},
        given=[*(name for view in signature.views for name in view.features), *(each.name for each in signature.derived)],
    )


def _model(ctx: Context, release: str) -> Path:
    return releases.folder_of(ctx, releases.show(ctx, release)) / "model"


def path_of(ctx: Context, release: str) -> Path:
    return ctx.state / "monitoring" / f"{release}.msgpack"


def of(ctx: Context, release: str) -> Reference:
    """Return the release's reference, made from its pinned data if it was not yet.

    Raises
    ------
    KaizenError : the pinned data or the model cannot be read.
    """
    path = path_of(ctx, release)
    try:
        return _read(path, path.stat().st_mtime_ns)
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    made = make(ctx, release)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(msgspec.msgpack.encode(made))
    os.replace(fresh, path)
    return made


@lru_cache(maxsize=16)
def _read(path: Path, _changed: int) -> Reference:
    found = msgspec.msgpack.decode(path.read_bytes(), type=Reference)
    if found.format != FORMAT:
        raise msgspec.DecodeError("another format")
    return found


def make(ctx: Context, release: str) -> Reference:
    """Compute a reference from the newest rows with a target of the release's training dataset."""
    shown = releases.show(ctx, release)
    spec = _spec(_model(ctx, release))
    signature = spec.signature
    dataset = shown.pins.data[0] if shown.pins.data else ""
    # of a model that was made elsewhere all that is known are the rows that came with it

    def newest(rows: pa.Table) -> pa.Table:
        answered = rows.filter(pc.is_valid(rows[signature.target])) if signature.target in rows.column_names else rows
        return answered.slice(max(0, answered.num_rows - ROWS))

    if dataset:
        table = frame.frame_of(ctx, signature, dataset, only=newest).combine_chunks()
    else:
        table = newest(check_rows.table_of(check_rows.read(_model(ctx, release)), signature)).combine_chunks()
    bins = profile.learn(table, signature.fields, entities={view.name: view.entities[0] for view in signature.views if len(view.entities) == 1})
    whole = profile.count(bins, table)
    days, early = usual_days(bins, table, signature.time, signature.asked_before_s)
    weeks = [profile.total(bins, days[start : start + 7]) for start in range(0, len(days) - 6, 7)]
    expected = _expected(ctx, shown.pins.model)
    return Reference(
        release=release,
        dataset=dataset,
        rows=table.num_rows,
        days=len(days),
        bins=bins,
        counts=profile.encode(whole),
        solid=[bool(share < SOLID) for share in whole.missing / max(whole.rows, 1)],
        daily=drift.usual(bins, whole, days),
        weekly=drift.usual(bins, whole, weeks),
        step=usual_step(bins, days),
        swing=usual_swing(bins, days),
        still=usual_stillness(bins, days),
        states=_usual_states(days),
        expected=expected,
        own=_own(spec, _model(ctx, release), table),
        early=early,
    )


def usual_step(bins: Bins, days: list[Profile]) -> list[float]:
    """Return how far a usual day lies from the three before it, per column; empty when there are too few days."""
    if len(days) < 8:
        return []
    steps = drift.steps(bins, days)
    return [float(value) for value in np.maximum(steps.max(axis=0), steps.mean(axis=0) + 3 * steps.std(axis=0))]


def usual_swing(bins: Bins, days: list[Profile]) -> list[float]:
    """Return the largest ratio, as a logarithm, between a usual day's spread and that of the three days before it, per column."""
    if len(days) < 8:
        return []
    found = np.zeros(len(bins.columns))
    for position in range(3, len(days)):
        spread, before = profile.spreads(days[position]), profile.spreads(profile.total(bins, days[position - 3 : position]))
        known = (spread > 0) & (before > 0)
        found = np.maximum(found, np.where(known, np.abs(np.log(np.where(known, spread / np.where(known, before, 1.0), 1.0))), 0.0))
    return [float(value) for value in found]


def usual_stillness(bins: Bins, days: list[Profile]) -> list[int]:
    """Return how many usual days in a row had hardly any spread, per column."""
    longest = now = np.zeros(len(bins.columns), np.int64)
    if days:
        spreads = np.array([profile.spreads(day) for day in days])
        for still in spreads <= STOPPED * np.median(spreads, axis=0, keepdims=True):
            now = np.where(still, now + 1, 0)
            longest = np.maximum(longest, now)
    return longest.tolist()


def usual_days(bins: Bins, table: pa.Table, time_column: str | None, asked_before_s: float = 0.0) -> tuple[list[Profile], list[float]]:
    """Profiles of the newest days of asking that have rows enough, and what such days were missing at worst before they were over."""
    if time_column is None or time_column not in table.column_names or not pa.types.is_timestamp(table.schema.field(time_column).type):
        return [], []
    column = table[time_column]
    micros = pc.cast(pc.cast(column, pa.timestamp("us", tz=column.type.tz)), pa.int64()).fill_null(-1).to_numpy()
    micros = micros - round(asked_before_s * 1e6)  # live days are days of asking as well
    day = micros // (DAY_S * 1_000_000)
    starts = np.flatnonzero(np.diff(day, prepend=day[:1] - 1)) if len(day) else np.zeros(0, np.int64)
    bounds = np.append(starts, len(day))
    full = np.flatnonzero((np.diff(bounds) >= DAY_ROWS) & (micros[starts] >= 0))[-DAYS:]
    if not len(full):
        return [], []
    first = int(full[0])
    counted = profile.count_blocks(bins, table, bounds[first : int(full[-1]) + 2])
    return [counted[place - first] for place in full.tolist()], _early(bins, table, [(bounds[place], bounds[place + 1]) for place in full.tolist()])


def _early(bins: Bins, table: pa.Table, days: list[tuple[int, int]]) -> list[float]:
    """Return the highest missing share of each column among the first rows of a day, be they few or all of the day's.

    A window over the last hours is empty in the morning: nothing is broken then, although the whole day misses less.
    """
    found = []
    for column in bins.columns:
        absent = pc.is_null(table[column.name], nan_is_null=True).to_numpy()
        missed = np.concatenate([[0], np.cumsum(absent)])
        highest = 0.0
        for start, stop in days:
            seen = np.arange(DAY_ROWS, stop - start + 1)
            highest = max(highest, float(((missed[start + seen] - missed[start]) / seen).max()))
        found.append(highest)
    return found


def states_per_key(counted: Profile, view: str) -> float:
    """Return how many distinct values a view gave per key."""
    keys = counted.keys.get(view, frozenset())
    return len(counted.states.get(view, frozenset())) / len(keys) if keys else 0.0


def _usual_states(days: list[Profile]) -> dict[str, float]:
    """The fewest distinct values per key on a usual day (its 5 % quantile), for views that change within days at all."""
    names = {name for day in days for name in day.states}
    found = {name: float(np.quantile([states_per_key(day, name) for day in days if name in day.states], 0.05)) for name in sorted(names)}
    return {name: value for name, value in found.items() if value >= 3.0}


def _expected(ctx: Context, model: str) -> float | None:
    """Loss of the released ensemble on the hold-out of its run."""
    version = registry.show(ctx, model)
    with ctx.catalog.read() as connection:
        run = runs.find(connection, version.run)
    if run is None:
        return None
    for name in ("ensemble", "boosted", "linear"):
        for row in run.board:
            if row.name == name and run.metric in row.metrics:
                value = row.metrics[run.metric].value
                return value**2 if run.metric == "rmse" else value
    return None


def _own(spec: model_file.ModelSpec, folder: Path, table: pa.Table) -> float | None:
    """Loss that the model expects of itself on a spread of the newest fifth of the rows."""
    from kaizenml.training import scoring  # loads the learners' libraries, which only the making of a reference needs

    if spec.signature.task == "regression" or table.num_rows == 0:
        return None
    newest = table.slice(table.num_rows - max(1, table.num_rows // 5))
    chosen = np.unique(np.linspace(0, newest.num_rows - 1, min(SCORED, newest.num_rows)).astype(np.int64))
    try:
        scores: npt.NDArray[np.float64] = scoring.predict(folder, encoding.encode(spec.encoder, newest.take(pa.array(chosen))))
    except KaizenError:
        return None
    return float(live.expected(scores).mean())
