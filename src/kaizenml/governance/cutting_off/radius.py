"""The blast radius of rows: every version, feature, model, release, endpoint and answer that they went into."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.data import exclusions, tables
from kaizenml.data import store as datasets
from kaizenml.data.dataset import DatasetVersion
from kaizenml.data.exclusions import Exclusion
from kaizenml.features import join
from kaizenml.features import store as views
from kaizenml.features.encoding.vectorised import microseconds
from kaizenml.features.view import FeatureView
from kaizenml.registry import store as models
from kaizenml.releases import store as releases
from kaizenml.releases.release import Release
from kaizenml.rollouts import rules
from kaizenml.rollouts import store as rollouts
from kaizenml.rollouts.rollout import Rollout
from kaizenml.serving import operations as serving
from kaizenml.serving.journaling import predictions
from kaizenml.training import store as runs
from kaizenml.training.run import Run

Bools = npt.NDArray[np.bool_]


class Touched(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset version, run, model or release with rows of the cut in what it was made from."""

    ref: str
    rows: int
    of: str = ""  # what it was made from or of


class TouchedView(msgspec.Struct, frozen=True, kw_only=True):
    """A feature view over a dataset with such rows."""

    ref: str  # name.version
    dataset: str
    rows: int
    entities: int  # with such rows
    online: bool  # whether the online store holds its values


class TouchedEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint where a release that learnt from such rows answers now, or watches."""

    endpoint: str
    role: str  # champion, challenger, shadow; or the rule that it answers by: [[route]] 2, [fallback]
    release: str
    free: str | None  # the newest former champion that is free of such rows; None: there is none


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """Answers given by a release that learnt from such rows (``model``), or with feature values from them (``features``)."""

    endpoint: str
    release: str
    by: str
    answers: int
    first_at: float
    last_at: float


class Radius(msgspec.Struct, frozen=True, kw_only=True):
    """What rows went into. Where a release or run was trained without them, it is not here."""

    headline: str
    exclusions: list[Exclusion]
    rows: int  # in the newest versions
    of: int
    versions: list[Touched]
    views: list[TouchedView]
    runs: list[Touched]
    models: list[Touched]
    releases: list[Touched]
    endpoints: list[TouchedEndpoint]
    predictions: list[Answered]
    unknown: list[str]  # models made elsewhere: what they learnt from is not known here
    next: list[str]  # commands that would help
    done: list[str] = []  # what was done about it just now
    picture: str = ""  # SVG


class Coverage:
    """Which rows of each dataset version the cut covers, without those that a model had left out anyway. Reads each part once."""

    def __init__(self, ctx: Context, cut: Sequence[Exclusion]) -> None:
        self.ctx = ctx
        self.cut = {name: [each for each in cut if each.dataset == name] for name in dict.fromkeys(each.dataset for each in cut)}
        with ctx.catalog.read() as connection:
            self.known = {each.id: each for each in exclusions.every(connection)}
            self.versions = {name: {each.number: each for each in datasets.versions(connection, name)} for name in self.cut}
        self._masks: dict[tuple[str, int, tuple[Exclusion, ...]], Bools] = {}

    def rows(self, ref: str, without: Sequence[int] = ()) -> int:
        """Return how many rows of ``name@number`` the cut covers, beside those under the exclusions ``without``."""
        name, _, number = ref.partition("@")
        version = self.versions.get(name, {}).get(int(number or 0))
        if version is None:
            return 0
        others = tuple(self.known[each] for each in without if each in self.known and self.known[each].dataset == name)
        return sum(self._count(version, part, others) for part in version.parts)

    def mask(self, version: DatasetVersion) -> Bools:
        """Return for each row of a version whether the cut covers it."""
        found = [self._mask(version.dataset, part, tuple(self.cut[version.dataset])) for part in version.parts]
        return np.concatenate(found) if found else np.zeros(0, bool)

    def _count(self, version: DatasetVersion, part: int, others: tuple[Exclusion, ...]) -> int:
        found = self._mask(version.dataset, part, tuple(self.cut[version.dataset]))
        return int((found & ~self._mask(version.dataset, part, others)).sum() if others else found.sum())

    def _mask(self, dataset: str, part: int, by: tuple[Exclusion, ...]) -> Bools:
        key = (dataset, part, by)
        if key not in self._masks:
            added = msgspec.structs.replace(self.versions[dataset][part], parts=[part])  # a part has the number of the version that added it
            self._masks[key] = tables.covered(self.ctx, added, by)
        return self._masks[key]


def radius(ctx: Context, cut: Sequence[Exclusion]) -> Radius:
    """Follow the rows under ``cut`` to everything that they went into."""
    serving.drain(ctx)  # the newest answers count as well
    coverage = Coverage(ctx, cut)
    with ctx.catalog.read() as connection:
        known_runs, known_models, known_releases = runs.all_runs(connection), models.every(connection), releases.every(connection)
        definitions, deployed = views.definitions(connection), rollouts.every(connection)
        filled = {ref for ref in definitions if views.materialized(connection, ref)}
    newest = [max(coverage.versions[name].values(), key=lambda each: each.number) for name in coverage.cut if coverage.versions[name]]
    touched_versions = [
        Touched(ref=each.ref, rows=rows, of=each.source)
        for name in coverage.cut
        for each in coverage.versions[name].values()
        if (rows := coverage.rows(each.ref))
    ]
    learnt = {run.id: rows for run in known_runs if (rows := _learnt(coverage, run, definitions))}
    touched_models = [Touched(ref=each.ref, rows=learnt[each.run], of=each.run) for each in known_models if each.run in learnt]
    touched_releases = {each.ref: rows for each in known_releases if (rows := _pinned(coverage, each))}
    lent = {rollout.endpoint: rules.lent(ctx.settings, rollout.endpoint) for rollout in deployed}
    endpoints = [found for rollout in deployed for found in _endpoints(rollout, lent[rollout.endpoint], touched_releases)]
    touched_views = [found for ref, view in definitions.items() if (found := _view(ctx, coverage, view, online=ref in filled))]
    answered = [*_answered(ctx, touched_releases, lent), *_fed(ctx, coverage, [definitions[each.ref] for each in touched_views], known_releases)]
    rows, total = sum(coverage.rows(each.ref) for each in newest), sum(each.rows for each in newest)
    return Radius(
        headline=f"{name_of(cut)}: {rows:,} of {total:,} rows; {_headline(list(touched_releases), endpoints, answered)}",
        exclusions=list(cut),
        rows=rows,
        of=total,
        versions=touched_versions,
        views=touched_views,
        runs=[Touched(ref=run.id, rows=learnt[run.id], of=run.dataset) for run in known_runs if run.id in learnt],
        models=touched_models,
        releases=[Touched(ref=each.ref, rows=count, of=each.pins.model) for each in known_releases if (count := touched_releases.get(each.ref, 0))],
        endpoints=endpoints,
        predictions=answered,
        unknown=[each.ref for each in known_models if each.imported],
        next=_next(cut, endpoints),
    )


def name_of(cut: Sequence[Exclusion]) -> str:
    """Say in words which rows a cut covers.

    >>> name_of([Exclusion(id=1, dataset="orders", source="feed7", since=0.0, by="me", at=0.0)])
    'feed7 since 1970-01-01 in orders'
    """
    said: dict[str, list[str]] = {}
    for each in cut:
        words = [each.source or "all sources"]
        words += [f"since {_day(each.since)}"] if each.since is not None else []
        words += [f"until {_day(each.until)}"] if each.until is not None else []
        said.setdefault(" ".join(words), []).append(each.dataset)
    return "; ".join(f"{words} in {', '.join(names)}" for words, names in said.items())


def _day(seconds: float) -> str:
    text = str(np.datetime64(round(seconds), "s"))
    return text.removesuffix("T00:00:00").replace("T", " ")


def _learnt(coverage: Coverage, run: Run, definitions: dict[str, FeatureView]) -> int:
    refs = [run.dataset]
    for name in dict.fromkeys(definitions[ref].dataset for ref in run.views if ref in definitions):
        then = [each for each in coverage.versions.get(name, {}).values() if each.created_at <= run.started_at]
        refs += [max(then, key=lambda each: each.number).ref] if then else []
    return sum(coverage.rows(ref, run.exclusions) for ref in dict.fromkeys(refs))


def _pinned(coverage: Coverage, release: Release) -> int:
    return sum(coverage.rows(ref, release.exclusions) for ref in dict.fromkeys(release.pins.data))


def _endpoints(rollout: Rollout, lent: dict[str, str], touched: dict[str, int]) -> list[TouchedEndpoint]:
    places = [("champion", rollout.champion), *(("challenger", arm.release) for arm in rollout.challengers)]
    places += [("shadow", release) for release in rollout.shadows] + [(rule, release) for release, rule in lent.items()]
    free = next((release for release in rollout.previous if release not in touched), None)
    return [TouchedEndpoint(endpoint=rollout.endpoint, role=role, release=name, free=free) for role, name in places if name in touched]


def _view(ctx: Context, coverage: Coverage, view: FeatureView, *, online: bool) -> TouchedView | None:
    version = _newest(coverage, view.dataset)
    if version is None or not (mask := coverage.mask(version)).any() or not set(view.entities) <= set(version.columns):
        return None
    keys = tables.rows_of(ctx, version, view.entities).filter(pa.array(mask))
    entities = keys.group_by(view.entities).aggregate([]).num_rows
    return TouchedView(ref=view.ref, dataset=version.ref, rows=int(mask.sum()), entities=entities, online=online)


def _newest(coverage: Coverage, dataset: str) -> DatasetVersion | None:
    known = coverage.versions.get(dataset)
    return max(known.values(), key=lambda each: each.number) if known else None


def _answered(ctx: Context, touched: dict[str, int], lent: dict[str, dict[str, str]]) -> list[Answered]:
    """Count what touched releases answered, by their model; of those that a rule names, also what they answered by it."""
    found = []
    for endpoint in predictions.endpoints(ctx.state):
        rows = predictions.read(ctx, endpoint, columns=["at", "release", "decided_by"], role="live")
        by_rule = pc.is_in(rows["release"], pa.array([*lent.get(endpoint, {})], pa.string()))
        by_model = pc.or_(pc.equal(rows["decided_by"], "model"), by_rule)
        given = rows.filter(pc.and_(by_model, pc.is_in(rows["release"], pa.array([*touched], pa.string()))))
        found += _counted(endpoint, given, "model")
    return found


def _fed(ctx: Context, coverage: Coverage, touched: Sequence[FeatureView], known: Sequence[Release]) -> list[Answered]:
    """Count answers with feature values that came from covered rows, by the times of rows and answers."""
    using = {view.ref: [each.ref for each in known if view.ref in each.pins.features] for view in touched}
    found = []
    for endpoint in predictions.endpoints(ctx.state):
        marks: dict[str, Bools] = {}
        for view in touched:
            version = _newest(coverage, view.dataset)
            columns = ["id", "at", "release", "decided_by", *(f"x_{name}" for name in view.entities)]
            rows = predictions.read(ctx, endpoint, columns=columns, role="live") if using[view.ref] and version else None
            if rows is None or version is None or not rows.num_rows or any(pa.types.is_null(rows[name].type) for name in columns):
                continue
            mine = np.asarray(pc.is_in(rows["release"], pa.array(using[view.ref])).to_numpy(), bool)
            marks[view.ref] = mine & _from_covered(ctx, view, version, coverage.mask(version), rows)
        if marks:
            rows = predictions.read(ctx, endpoint, columns=["at", "release"], role="live")
            found += _counted(endpoint, rows.filter(pa.array(np.logical_or.reduce([*marks.values()]))), "features")
    return found


def _from_covered(ctx: Context, view: FeatureView, version: DatasetVersion, mask: Bools, rows: pa.Table) -> Bools:
    """Tell for each answer whether the newest value of its entity then, or a row in a window of it, was covered."""
    names = [*view.entities, *([view.at] if view.at else [])]
    given = tables.rows_of(ctx, version, names).append_column("covered", pa.array(mask))
    asked = pa.table({name: rows[f"x_{name}"] for name in view.entities})
    times = microseconds(rows["at"])
    known_at = np.asarray(times.fill_null(join.MISSING).to_numpy(), np.int64)

    def hit(table: pa.Table, ttl_s: float | None) -> Bools:
        ttl_us = None if ttl_s is None else round(ttl_s * 1e6)
        joined = join.join(asked, table, on=view.entities, columns=["covered"], at=view.at, known_at=known_at, ttl_us=ttl_us)
        return np.asarray(pc.fill_null(joined["covered"], False).to_numpy(), bool)

    found = hit(given, view.ttl_s) if view.columns else np.zeros(rows.num_rows, bool)
    if view.aggregates:
        spans = [each.last_s for each in view.aggregates]
        found |= hit(given.filter(pa.array(mask)), None if None in spans else max(each for each in spans if each is not None))
    return found


def _counted(endpoint: str, rows: pa.Table, by: str) -> list[Answered]:
    if not rows.num_rows:
        return []
    grouped = rows.group_by("release").aggregate([("at", "count"), ("at", "min"), ("at", "max")]).sort_by("release").to_pylist()
    return [
        Answered(
            endpoint=endpoint,
            release=each["release"],
            by=by,
            answers=each["at_count"],
            first_at=each["at_min"].timestamp(),
            last_at=each["at_max"].timestamp(),
        )
        for each in grouped
    ]


def _headline(touched: Sequence[str], endpoints: Sequence[TouchedEndpoint], answered: Sequence[Answered]) -> str:
    if not touched:
        return "no release has learnt from them" + (f", {_sum(answered):,} answers used features from them" if answered else "")
    said = [f"{len(touched)} release{'s have' if len(touched) > 1 else ' has'} learnt from them"]
    if now := [each for each in endpoints if each.role != "shadow"]:
        said.append(", ".join(f"{each.endpoint} answers with {each.release} now" for each in now))
    if answered:
        said.append(f"{_sum(answered):,} answers were given with them")
    return "; ".join(said)


def _sum(answered: Sequence[Answered]) -> int:
    return max(sum(each.answers for each in answered if each.by == by) for by in ("model", "features"))


def _next(cut: Sequence[Exclusion], endpoints: Sequence[TouchedEndpoint]) -> list[str]:
    """Name what would help: a former champion that is free of the rows, else a training without them, and how to take it back."""
    found = []
    for each in endpoints:
        if each.role == "champion":
            found += [f"kaizen rollback {each.endpoint} --to {each.free}"] if each.free else []
            found += [f"kaizen improve {each.endpoint}"]
        elif each.role == "challenger":
            found.append(f"kaizen rollouts withdraw {each.endpoint} {each.release}")
        elif each.role == "shadow":
            found.append(f"kaizen rollouts unshadow {each.endpoint} {each.release}")
        else:
            found.append(f"name another answer than {each.release} under {each.role} in kaizen.toml, then: kaizen rollouts publish")
    return found + [f"kaizen data include {each.id}" for each in cut if each.active and each.id]
