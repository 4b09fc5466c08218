"""Feature views as people look for them and at them: found by words, with statistics of every feature, and what uses it."""

from __future__ import annotations

import builtins
import itertools
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml import charts
from kaizenml.clock import format_duration
from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.data import store as datasets
from kaizenml.data.dataset import Kind
from kaizenml.data.kinds import kind_of
from kaizenml.data.profile import profile, spread
from kaizenml.errors import KaizenError, NotFound
from kaizenml.features import operations as features
from kaizenml.features.defining import definitions
from kaizenml.features.encoding.vectorised import microseconds
from kaizenml.features.offline import frame
from kaizenml.features.view import FeatureView, ViewState
from kaizenml.governance import lineage
from kaizenml.governance.lineage import Uses
from kaizenml.monitoring.reference import signature_of
from kaizenml.releases import store as releases

__all__ = ["describe", "search"]

STEPS = 24  # of time
BARS = 16
MOST_KEPT = 32
_KEPT: dict[tuple[Any, ...], tuple[list[Feature], str]] = {}  # statistics by view and state of the data


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A feature that was searched for."""

    feature: str  # the name of the input
    view: str
    dataset: str
    entity: str
    owner: str
    tags: builtins.list[str]
    used: builtins.list[str]  # releases that read it; empty: none
    description: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A feature in one stretch of time."""

    since: float
    rows: int
    missing: float  # share of rows
    middle: float | None  # mean of numbers, share of true, share of the commonest value


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature as it is among the rows that were looked at."""

    name: str
    kind: str
    of: str  # the column, or the function and the window
    rows: int
    missing: float  # share of rows
    profile: dict[str, Any]
    over_time: builtins.list[Step]
    used: builtins.list[str] = []  # releases that read it


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """A feature view: where it comes from, how its features look, and what uses it."""

    state: ViewState
    sources: dict[str, builtins.list[str]]  # dataset versions that its values come from -> the feeds that gave their rows
    newest_at: float | None  # newest event time; None: timeless, or no rows
    age_s: float | None  # of that
    looked_at: str  # which rows the statistics are of
    features: builtins.list[Feature]
    unused: builtins.list[str]  # features that no release reads
    used_by: Uses
    picture: str = ""


def search(
    ctx: Context, text: str = "", *, owner: str | None = None, tag: str | None = None, unused: bool = False
) -> builtins.list[Found]:
    """Find features by their name, owner or tag; or those that nothing uses.

    Parameters
    ----------
    text : part of the name of a feature, its view, dataset or description; without regard to case. Empty: all.
    owner : of the view.
    tag : of the view.
    unused : only features that no release reads.

    Returns
    -------
    Features, by view; then derived inputs, which have none.

    Examples
    --------
    kaizen features search delay --unused
    """
    wanted, readers = text.strip().lower(), _readers(ctx)
    found = []
    for view in frame.views(ctx):
        if (owner is not None and view.owner.lower() != owner.lower()) or (tag is not None and tag.lower() not in map(str.lower, view.tags)):
            continue
        for name in view.features:
            used = readers.get((view.name, name), [])
            said = " ".join([name, view.name, view.dataset, view.description, *view.tags]).lower()
            if wanted in said and not (unused and used):
                entity = ", ".join(view.entities)
                found.append(
                    Found(
                        feature=name, view=view.name, dataset=view.dataset, entity=entity, owner=view.owner, tags=view.tags, used=used,
                        description=view.description,
                    )
                )  # fmt: skip
    for each in definitions.of(ctx).derived if owner is None and tag is None else ():
        used, told = readers.get(("", each.name), []), f"computed from {', '.join(each.inputs)}"
        if wanted in f"{each.name} {told}".lower() and not (unused and used):
            found.append(Found(feature=each.name, view="", dataset="", entity="", owner="", tags=[], used=used, description=told))
    return found


def describe(ctx: Context, view: str, *, picture: bool = False) -> Description:
    """Describe a feature view: statistics of every feature, where it comes from, and what uses it.

    The statistics are of the features as they were known for the task's rows, which is what a model sees; where the task's rows do
    not have the view's entity, of the rows behind the view.

    Parameters
    ----------
    view : name of the view.
    picture : whether to draw the features; on the command line the file to write the SVG to.

    Raises
    ------
    NotFound : there is no such view.

    Examples
    --------
    kaizen features describe weather
    """
    state = features.show(ctx, view)
    defined = state.view
    readers = _readers(ctx)
    seen, looked_at = _described(ctx, defined)
    described = [msgspec.structs.replace(one, used=readers.get((defined.name, one.name), [])) for one in seen]
    with ctx.catalog.read() as connection:
        behind = [found for name in frame.datasets_behind(ctx, defined) if (found := datasets.version(connection, name, None))]
        feeds = {one.ref: [*one.sources] or [source.name for source in datasets.sources(connection, one.dataset)] for one in behind}
    newest = _instant(behind[0].profile.get(defined.at or "", {}).get("max")) if behind else None
    made = Description(
        state=state,
        sources=feeds,
        newest_at=newest,
        age_s=None if newest is None else ctx.clock.timestamp() - newest,
        looked_at=looked_at,
        features=described,
        unused=[one.name for one in described if not one.used],
        used_by=lineage.of_view(ctx, defined.ref),
    )
    return msgspec.structs.replace(made, picture=draw(made)) if picture else made


def draw(made: Description) -> str:
    """Draw the features of a view below each other."""
    rows: builtins.list[tuple[str, str, charts.Tone, str]] = []
    for one in made.features:
        said = f"{one.of}, missing in {charts.percent(one.missing)}" + ("" if one.used else ", used by no release")
        rows.append((one.name, said, "neutral", distribution(one) or charts.histogram([1.0], title=one.name)))
    return charts.labelled(rows, title=made.state.ref, about=f"{', '.join(made.sources)}; {made.looked_at}", standalone=True)


def distribution(one: Feature, *, width: int = 160, height: int = 36) -> str:
    """Draw how a feature's values are spread; empty where it has none."""
    found, title = one.profile, f"Distribution of {one.name}"
    if found.get("quantiles"):
        shares, edges = spread(found["quantiles"], BARS)
        labels = [f"{a:.3g} to {b:.3g}" for a, b in itertools.pairwise(edges)]
        return charts.histogram(shares, labels=labels, title=title, width=width, height=height) if shares else ""
    if "true" in found:
        bars, names = [found["count"] - found["true"], found["true"]], ["false", "true"]
        return charts.histogram(bars, labels=names, title=title, width=width, height=height)
    top = (found.get("top") or [])[:BARS]
    return charts.histogram([times for _, times in top], labels=[value for value, _ in top], title=title, width=width, height=height) if top else ""


def _readers(ctx: Context) -> dict[tuple[str, str], builtins.list[str]]:
    """Return which releases read each feature, by (view, name of the input)."""
    found: dict[tuple[str, str], builtins.list[str]] = {}
    with ctx.catalog.read() as connection:
        known = releases.every(connection)
    for release in known:
        if not release.pins.features:
            continue
        try:
            signature = signature_of(ctx, release.ref)
        except KaizenError:  # its files are gone
            continue
        for field in signature.fields:
            if field.view is not None:
                found.setdefault((field.view, field.name), []).append(release.ref)
        for each in signature.derived:
            found.setdefault(("", each.name), []).append(release.ref)
        for use in signature.views:  # those that derived inputs read
            for column in [*use.columns, *(each.name for each in use.aggregates)]:
                refs = found.setdefault((use.name, column if use.plain else f"{use.name}_{column}"), [])
                if release.ref not in refs:
                    refs.append(release.ref)
    return found


def _rows(ctx: Context, view: FeatureView) -> tuple[pa.Table, pa.ChunkedArray | None, str]:
    """Return rows with the view's features, their times, and what rows they are."""
    task = ctx.settings.task
    if task is not None:
        try:
            version = tables.version(ctx, task.dataset)
            rows = frame.training_frame(ctx, version.ref, views=[view], recorded=False)
            return rows, rows[task.time] if task.time else None, f"as known for {rows.num_rows:,} rows of {version.ref}"
        except KaizenError:
            pass  # the task's rows do not have the entity, or there are none yet
    try:
        rows = frame.view_rows(ctx, view)
    except NotFound:
        return pa.table({}), None, "there are no rows yet"
    chosen = pa.table({name: rows[column] for name, column in view.features.items() if column in rows.column_names})
    return chosen, rows[view.at] if view.at else None, f"the {rows.num_rows:,} rows behind it"


def _described(ctx: Context, view: FeatureView) -> tuple[builtins.list[Feature], str]:
    """Return the features without who reads them, and what was looked at; kept while nothing that they hang on changes."""
    key = (ctx.catalog.url, view.ref, *_state(ctx, view))
    if key not in _KEPT:
        rows, times, looked_at = _rows(ctx, view)
        while len(_KEPT) >= MOST_KEPT:
            _KEPT.pop(next(iter(_KEPT)))
        _KEPT[key] = _features(view, rows, times, hidden=_personal(ctx, view)), looked_at
    return _KEPT[key]


def _state(ctx: Context, view: FeatureView) -> tuple[int, ...]:
    """Return numbers that change when the rows behind a view's statistics do."""
    names = {*frame.datasets_behind(ctx, view), *([ctx.settings.task.dataset] if ctx.settings.task else [])}
    with ctx.catalog.read() as connection:
        held = [one.id for one in exclusions.active(connection, sorted(names))]
        numbers = [found.number for name in sorted(names) if (found := datasets.version(connection, name, None))]
    return (*numbers, -1, *held)


def _personal(ctx: Context, view: FeatureView) -> set[str]:
    """Return the columns of the view's dataset that tell of persons."""
    with ctx.catalog.read() as connection:
        found = datasets.version(connection, view.dataset, None)
    return set(found.personal) if found else set()


def _features(view: FeatureView, rows: pa.Table, times: pa.ChunkedArray | None, *, hidden: set[str]) -> builtins.list[Feature]:
    made = {each.name: each for each in view.aggregates}
    kinds: dict[str, Kind] = {name: kind_of(rows[name]) or "text" for name in view.features if name in rows.column_names}
    entries = profile(rows, kinds, hidden=[name for name, of in view.features.items() if of in hidden])
    steps = _stretches(times)
    found = []
    for name, of in view.features.items():
        entry = entries.get(name, {"kind": "unknown", "count": 0, "missing": rows.num_rows})
        how = made.get(of)
        told = of if how is None else f"{how.function} of {how.column or 'rows'}" + (f", last {format_duration(how.last_s)}" if how.last_s else "")
        shown = steps if name in kinds and of not in hidden else []
        found.append(
            Feature(
                name=name, kind=entry["kind"], of=told, rows=rows.num_rows, missing=entry["missing"] / rows.num_rows if rows.num_rows else 0.0,
                profile=entry, over_time=[_step(rows[name], kinds[name], entry, at, places) for at, places in shown],
            )
        )  # fmt: skip
    return found


def _stretches(times: pa.ChunkedArray | None) -> builtins.list[tuple[float, np.ndarray]]:
    """Part rows into stretches of time of equal length; when each begins, and the places of its rows."""
    if times is None:
        return []
    us = microseconds(times)
    known = np.asarray(us.is_valid().to_numpy(zero_copy_only=False), bool)
    values = np.asarray(us.fill_null(0).to_numpy(), np.int64) / 1e6
    if not known.any():
        return []
    low, high = values[known].min(), values[known].max()
    width = max((high - low) / STEPS, 1.0)
    which = np.where(known, np.minimum((values - low) // width, STEPS - 1), -1).astype(np.int64)
    return [(float(low + width * step), places) for step in range(STEPS) if len(places := np.flatnonzero(which == step))]


def _step(column: pa.ChunkedArray, kind: Kind, entry: dict[str, Any], at: float, places: np.ndarray) -> Step:
    part = column.take(pa.array(places))
    present = len(part) - part.null_count
    middle = None
    if present and kind in ("number", "integer", "boolean"):
        middle = pc.mean(part.cast(pa.float64()) if kind != "boolean" else part.cast(pa.int64())).as_py()
    elif present and entry.get("top"):
        middle = (pc.sum(pc.equal(part.cast(pa.string()), entry["top"][0][0])).as_py() or 0) / present
    return Step(since=at, rows=len(part), missing=part.null_count / len(part), middle=middle)


def _instant(text: Any) -> float | None:
    return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
