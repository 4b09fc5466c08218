"""From the catalog to the routing snapshot that every serving worker watches."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from kaizenml import settings as settings_module
from kaizenml.context import Context
from kaizenml.errors import InvalidSettings, KaizenError
from kaizenml.features import operations as features
from kaizenml.releases import operations as releases_operations
from kaizenml.releases import store as releases
from kaizenml.releases.release import Release
from kaizenml.rollouts import rules, snapshot, store
from kaizenml.rollouts.rollout import Rollout
from kaizenml.rollouts.snapshot import EndpointRoute, Lineage, Route, Rule, Snapshot
from kaizenml.settings import Settings
from kaizenml.training import model_file
from kaizenml.training.model_file import ModelSpec


class Ruled(msgspec.Struct, frozen=True):
    """An endpoint's rules, the releases they name, and why those of kaizen.toml are not in force."""

    rules: list[Rule] = []
    others: list[Route] = []
    problem: str | None = None


def derive(
    rollouts: list[Rollout], known: Mapping[str, Release], *, at: float, ruled: Mapping[str, Ruled] | None = None,
    hidden: tuple[Mapping[str, Sequence[str]], str] | None = None,
) -> Snapshot:  # fmt: skip
    """Turn rollouts into routes. Pure: the same rollouts always give the same routes.

    Parameters
    ----------
    rollouts : all endpoints as they are now.
    known : every release that they name, by reference.
    at : seconds since 1970, for ``written_at``.
    ruled : the rules of each endpoint; default none.
    hidden : by version of a view what it is looked up by that is stored as pseudonyms, and the fingerprint of their key; default none.
    """
    by_rule, (columns, key_print) = ruled or {}, hidden or ({}, "")

    def endpoint(rollout: Rollout) -> EndpointRoute:
        route = _endpoint(rollout, known, by_rule.get(rollout.endpoint, Ruled()))
        found = sorted({name for ref in _features(route) for name in columns.get(ref, [])})
        return msgspec.structs.replace(route, hidden=found, key_print=key_print if found else "")

    return Snapshot(
        format=2 if any(found.rules for found in by_rule.values()) else 1,
        revision=sum(rollout.revision for rollout in rollouts),
        written_at=at,
        endpoints={rollout.endpoint: endpoint(rollout) for rollout in rollouts},
    )


def publish(ctx: Context) -> Snapshot:
    """Derive the snapshot from the catalog and the rules in kaizen.toml, and write it if it differs from what stands there.

    Rules that cannot be followed leave the last good ones in force; the snapshot then says why. Reading and writing happen
    under one lock, so of two publishers the later writer has also read later: an older state never replaces a newer one. A crash
    before it is mended by the next call.
    """
    folder = ctx.state / "serving"
    path = folder / snapshot.FILE
    # the file as it is now: whoever publishes may have opened the project days ago
    found = _settings(ctx)
    with _locked(folder):
        with ctx.catalog.read() as connection:
            rollouts = store.every(connection)
            refs = {ref for rollout in rollouts for ref in _releases(rollout)}
            known = {ref: releases.get(connection, ref) for ref in sorted(refs)}
            former = [releases.get(connection, rollout.previous[0]) for rollout in rollouts if rollout.previous]
        for each in known.values():
            with suppress(KaizenError):  # a kill must get through; a worker says what it cannot load
                releases_operations.folder_of(ctx, each)
        standing = _standing(path)
        before = standing.endpoints if standing else {}
        names = [rollout.endpoint for rollout in rollouts]
        ruled = {rollout.endpoint: _ruled(ctx, found, rollout, names, before.get(rollout.endpoint)) for rollout in rollouts}
        hidden = _hidden(ctx, sorted({ref for each in known.values() for ref in each.pins.features}), before.values())
        fresh = derive(rollouts, known, at=ctx.clock.timestamp(), ruled=ruled, hidden=hidden)
        _feed(ctx, fresh, former)
        if standing and msgspec.structs.replace(standing, written_at=fresh.written_at) == fresh:
            return standing
        for name, route in fresh.endpoints.items():
            _record(ctx, name, route, before.get(name))
        snapshot.write(path, fresh)
    return fresh


def _feed(ctx: Context, routes: Snapshot, former: list[Release]) -> None:
    """Have pushed rows reach the versions of views that the releases of these routes read, and those that a rollback would bring back."""
    refs = [ref for release in former for ref in release.pins.features]
    for route in routes.endpoints.values():
        refs += _features(route)
    with suppress(KaizenError):  # a kill must get through; the loop publishes again
        features.serve(ctx, refs)


def _hidden(ctx: Context, refs: list[str], before: Iterable[EndpointRoute]) -> tuple[Mapping[str, Sequence[str]], str]:
    try:
        return features.hidden_entities(ctx, refs)
    except KaizenError:  # a kill must get through: what was hidden stays so
        standing = [route for route in before if route.hidden]
        return {ref: route.hidden for route in standing for ref in _features(route)}, standing[0].key_print if standing else ""


def _features(route: EndpointRoute) -> list[str]:
    return [ref for each in (*route.arms, *route.shadows, *route.others) for ref in each.lineage.features]


def check(ctx: Context, endpoint: str, release: Release) -> None:
    """Raise InvalidSettings when a first release could not follow the rules in kaizen.toml: there are no former ones to fall back on."""
    found = settings_module.load(ctx.root)[0]
    spec = _spec(ctx, release)
    for rule in rules.of(found, endpoint, spec):
        if rule.release:
            _other(ctx, rule.release, spec, set())


def tell_of_catalog(ctx: Context) -> None:
    """Write beside the snapshot that the catalog cannot be read, and why; take the note away when it can be."""
    note = ctx.state / "serving" / snapshot.AWAY
    try:
        with ctx.catalog.read() as connection:
            store.every(connection)
    except KaizenError as error:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(error.what, encoding="utf-8")
    else:
        note.unlink(missing_ok=True)


def problems(published: Snapshot) -> list[str]:
    """Return why rules of kaizen.toml are not in force."""
    return list(dict.fromkeys(route.problem for route in published.endpoints.values() if route.problem))


def lineage(release: Release) -> Lineage:
    """Return what an answer of this release carries along."""
    pins = release.pins
    return Lineage(model=pins.model, data=pins.data[0] if pins.data else "", features=pins.features, code=pins.code, hash=release.hash)


def in_force(ctx: Context) -> dict[str, tuple[list[str], str | None]]:
    """Return for each endpoint the rules that its servers follow, in words, and why they are not those of kaizen.toml."""
    standing = _standing(ctx.state / "serving" / snapshot.FILE)
    found = standing.endpoints if standing else {}
    return {name: ([rules.describe(rule) for rule in route.rules], route.problem) for name, route in found.items()}


def _settings(ctx: Context) -> Settings | KaizenError:
    try:
        return settings_module.load(ctx.root)[0]
    except KaizenError as error:
        return error


def _ruled(ctx: Context, found: Settings | KaizenError, rollout: Rollout, endpoints: list[str], before: EndpointRoute | None) -> Ruled:
    """Read an endpoint's rules; where that cannot be done, keep those that stand."""
    try:
        if isinstance(found, KaizenError):
            raise found
        if not found.route and found.fallback == settings_module.FallbackSettings():
            return Ruled()
        rules.check_endpoints(found, endpoints)
        spec = _spec(ctx, releases_operations.show(ctx, rollout.champion))
        wanted = rules.of(found, rollout.endpoint, spec)
        trusted = {route.release for route in before.others} if before else set()
        names = dict.fromkeys(rule.release for rule in wanted if rule.release)
        return Ruled(wanted, [_other(ctx, name, spec, trusted) for name in names])
    except (KaizenError, OSError) as error:  # whatever it is, a kill must get through
        problem = error.what if isinstance(error, KaizenError) else str(error)
        return Ruled(before.rules, before.others, problem) if before else Ruled(problem=problem)


def _other(ctx: Context, name: str, spec: ModelSpec, trusted: set[str]) -> Route:
    """Return the route to a release that a rule names: registered, passed, whole, and it answers the same question."""
    found = releases_operations.show(ctx, name)
    remedy = "name a release that passed its gates: kaizen releases list"
    if found.state != "passed":
        raise InvalidSettings(f"kaizen.toml: {name} was refused by its gates, so no rule may let it answer", remedy=remedy, values={"found": name})
    if name not in trusted:
        releases_operations.verify(ctx, name)
    ours, theirs = spec.signature, _spec(ctx, found).signature
    if (theirs.target, theirs.task, theirs.classes) != (ours.target, ours.task, ours.classes):
        raise InvalidSettings(
            f"kaizen.toml: {name} answers {theirs.target!r} ({theirs.task}, classes {theirs.classes[:10]}), "
            f"the champion {ours.target!r} ({ours.task}, classes {ours.classes[:10]})",
            remedy=remedy, values={"found": name},
        )  # fmt: skip
    return _route(found, 0, snapshot.LENT)


def _spec(ctx: Context, release: Release) -> ModelSpec:
    return model_file.read(releases_operations.folder_of(ctx, release) / "model")


def _record(ctx: Context, name: str, now: EndpointRoute, before: EndpointRoute | None) -> None:
    """Leave an event of rules that change, or cannot be followed. Written first: killed in between, it is written again, and never lost."""
    old, problem = (before.rules, before.problem) if before else ([], None)
    changed, refused = now.rules != old, now.problem is not None and now.problem != problem
    if not changed and not refused:
        return
    with ctx.catalog.write() as connection:
        if changed:
            ctx.record(connection, "rollouts.ruled", name, "kaizen.toml", rules=[rules.describe(rule) for rule in now.rules])
        if refused:
            ctx.record(connection, "rollouts.rules_refused", name, now.problem or "")


def _endpoint(rollout: Rollout, known: Mapping[str, Release], ruled: Ruled) -> EndpointRoute:
    champion = _route(known[rollout.champion], rollout.champion_weight, "champion")
    others = [_route(known[arm.release], arm.weight, f"challenger-{arm.number}", arm.slots) for arm in rollout.challengers]
    # A shadow gives exactly one answer to every row: as an arm it answers, or is paired with the one that does.
    # While the endpoint is killed no arm answers and none is paired, but shadows go on.
    arms = {rollout.champion, *(arm.release for arm in rollout.challengers)}
    shadows = [ref for ref in rollout.shadows if rollout.killed or ref not in arms]
    return EndpointRoute(
        endpoint=rollout.endpoint,
        revision=rollout.revision,
        arms=[champion, *others],
        shadows=[_route(known[ref], 0, "shadow") for ref in shadows],
        paired=bool(others),
        killed=rollout.killed,
        rules=ruled.rules,
        others=ruled.others,
        problem=ruled.problem,
    )


def _route(release: Release, weight: int, arm: str, slots: list[tuple[int, int]] | None = None) -> Route:
    return Route(release=release.ref, bundle=release.bundle, weight=weight, arm=arm, lineage=lineage(release), slots=slots or [])


def _releases(rollout: Rollout) -> list[str]:
    return [rollout.champion, *(arm.release for arm in rollout.challengers), *rollout.shadows]


def _standing(path: Path) -> Snapshot | None:
    try:
        return snapshot.read(path)
    except (FileNotFoundError, msgspec.DecodeError):
        return None  # none yet, or damaged: written afresh


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".publish.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by closing, also when the process is killed
        yield
