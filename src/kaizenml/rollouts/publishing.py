"""From the catalog to the routing snapshot that every serving worker watches."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from kaizenml.context import Context
from kaizenml.releases import store as releases
from kaizenml.releases.release import Release
from kaizenml.rollouts import snapshot, store
from kaizenml.rollouts.rollout import Rollout
from kaizenml.rollouts.snapshot import EndpointRoute, Lineage, Route, Snapshot


def derive(rollouts: list[Rollout], known: Mapping[str, Release], *, at: float) -> Snapshot:
    """Turn rollouts into routes. Pure: the same rollouts always give the same routes.

    Parameters
    ----------
    rollouts : all endpoints as they are now.
    known : every release that they name, by reference.
    at : seconds since 1970, for ``written_at``.
    """
    return Snapshot(
        revision=sum(rollout.revision for rollout in rollouts),
        written_at=at,
        endpoints={rollout.endpoint: _endpoint(rollout, known) for rollout in rollouts},
    )


def publish(ctx: Context) -> Snapshot:
    """Derive the snapshot from the catalog anew and write it if it differs from what stands there.

    Reading and writing happen under one lock, so of two publishers the later writer has also read
    later: an older state never replaces a newer one. A crash before it is mended by the next call.
    """
    folder = ctx.state / "serving"
    path = folder / snapshot.FILE
    with _locked(folder):
        with ctx.catalog.read() as connection:
            rollouts = store.every(connection)
            refs = {ref for rollout in rollouts for ref in _releases(rollout)}
            known = {ref: releases.get(connection, ref) for ref in sorted(refs)}
        fresh = derive(rollouts, known, at=ctx.clock.timestamp())
        standing = _standing(path)
        if standing and msgspec.structs.replace(standing, written_at=fresh.written_at) == fresh:
            return standing
        snapshot.write(path, fresh)
    return fresh


def lineage(release: Release) -> Lineage:
    """Return what an answer of this release carries along."""
    pins = release.pins
    return Lineage(model=pins.model, data=pins.data[0], features=pins.features, code=pins.code, hash=release.hash)


def _endpoint(rollout: Rollout, known: Mapping[str, Release]) -> EndpointRoute:
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
