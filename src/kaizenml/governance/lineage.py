"""Where a version of a dataset or of a feature view comes from, and what was made of it: runs, models, releases, endpoints."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from kaizenml import events
from kaizenml.context import Context
from kaizenml.data import operations as data
from kaizenml.data.dataset import Dataset, DatasetVersion
from kaizenml.features import store as views
from kaizenml.features.offline import frame
from kaizenml.governance import collecting
from kaizenml.registry import store as models
from kaizenml.releases import store as releases
from kaizenml.rollouts import rules
from kaizenml.rollouts import store as rollouts
from kaizenml.rollouts.rollout import Rollout
from kaizenml.training import store as runs

__all__ = ["show"]

_Reads = Callable[[str, Collection[str], Collection[str]], bool]
"""Says of a run's dataset, its views, or a release's pins whether what is asked for is among them."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a release answers, or watches."""

    endpoint: str
    role: str  # champion, challenger, shadow; or the rule that it answers by: [[route]] 2, [fallback]
    release: str


class Uses(msgspec.Struct, frozen=True, kw_only=True):
    """What was made of a version, directly or by way of what was made of it."""

    views: list[str] = []  # name.version, that read it
    runs: list[str] = []
    models: list[str] = []
    releases: list[str] = []
    endpoints: list[Place] = []


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset with one of its versions, how it came about and what was made of it."""

    dataset: Dataset
    version: DatasetVersion
    quarantined: int  # rows in quarantine over all versions
    made_by: str | None = None  # who added it; None: the record does not say
    why: str = ""
    used_by: Uses = Uses()
    held: dict[str, str] = {}  # personal columns that versions hold in another form than decided, how many, and the command for it
    unused: list[str] = []  # columns that nothing reads: collect less, leave them out or decide drop in the contract


def show(ctx: Context, dataset: str) -> Shown:
    """Show a dataset with one version: its profile, how it came about, and what was made of it.

    Parameters
    ----------
    dataset : ``name`` (the newest version) or ``name@number``.

    Returns
    -------
    The version with its source, code commit and who added it; and downwards the feature views, runs, models and releases that used
    it, with the endpoints where these answer.

    Raises
    ------
    NotFound : no such dataset or version.

    Examples
    --------
    kaizen data show orders@3
    """
    found = data.show(ctx, dataset)
    with ctx.catalog.read() as connection:
        made = next(iter(events.read(connection, kind="data.", subject=found.version.ref, limit=1)), None)
    return Shown(
        dataset=found.dataset, version=found.version, quarantined=found.quarantined, made_by=made.actor if made else None,
        why=made.why if made else "", used_by=of_version(ctx, found.version),
        held=data.held_otherwise(ctx, found.dataset), unused=collecting.unused(ctx, found.dataset, found.version),
    )  # fmt: skip


def of_version(ctx: Context, version: DatasetVersion) -> Uses:
    """Return what was made of a dataset's version."""
    with ctx.catalog.read() as connection:
        defined = views.definitions(connection)
    readers = [ref for ref, view in defined.items() if version.dataset in frame.datasets_behind(ctx, view)]
    return _uses(ctx, lambda run_data, _run_views, pinned: run_data == version.ref or version.ref in pinned, readers)


def of_view(ctx: Context, ref: str) -> Uses:
    """Return what was made of a feature view's version, ``name.version``."""
    return _uses(ctx, lambda _run_data, run_views, pinned: ref in run_views or ref in pinned, [])


def _uses(ctx: Context, reads: _Reads, readers: list[str]) -> Uses:
    with ctx.catalog.read() as connection:
        known_runs, known_models = runs.all_runs(connection), models.every(connection)
        known_releases, deployed = releases.every(connection), rollouts.every(connection)
    by_runs = {run.id for run in known_runs if reads(run.dataset, run.views, [])}
    by_models = {model.ref for model in known_models if model.run in by_runs}
    by_releases = [one.ref for one in known_releases if one.pins.model in by_models or reads("", [], [*one.pins.data, *one.pins.features])]
    return Uses(
        views=readers, runs=sorted(by_runs), models=sorted(by_models), releases=by_releases,
        endpoints=[place for rollout in deployed for place in places(ctx, rollout) if place.release in by_releases],
    )  # fmt: skip


def places(ctx: Context, rollout: Rollout) -> list[Place]:
    """Return who answers an endpoint, also by a rule alone, and who watches."""
    roles = [("champion", rollout.champion), *(("challenger", arm.release) for arm in rollout.challengers)]
    roles += [("shadow", release) for release in rollout.shadows]
    roles += [(rule, release) for release, rule in rules.lent(ctx.settings, rollout.endpoint).items()]
    return [Place(endpoint=rollout.endpoint, role=role, release=release) for role, release in roles]
