"""What is measured: a server's name, how it is started, what it is asked, and whether what it answers is right."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

import _bundle
import _load
import _peers
import _servers
from _rows import OURS
from _servers import Command, Failed
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import EndpointRoute, Route, Snapshot

SIZES = {"1 row": (1, 50), "100 rows": (100, 8)}  # case: rows a request, different requests
TOLERANCE = 1e-6  # absolute, of a chance: an engine may round to float32
BOTH_ARMS = f"{OURS}, A/B compared"
NAMES = _bundle.NAMES
Read = Callable[[Any], tuple[str, list[float]]]  # document -> who answered, the chances of class 1


class Model(NamedTuple):
    """The model that everybody serves, and what it says."""

    folder: Path  # m.txt, classifier.joblib
    rows: dict[str, list[list[list[float]]]]  # by case: the rows of each request
    expected: dict[str, dict[str, list[list[float]]]]  # by case and release: the chances of class 1


class Subject(NamedTuple):
    """One server."""

    name: str
    requests: Mapping[str, Sequence[bytes]]  # by case
    read: Read
    command: Callable[[Path, int], Command]  # given an empty folder and a port; may raise Failed

    def check(self, port: int, model: Model) -> None:
        """Ask everything once; raise Failed where an answer is not the model's."""
        for case, requests in self.requests.items():
            for number, asked in enumerate(requests):
                try:
                    document = _load.once(port, asked)
                except (OSError, ValueError, _load.Refused) as error:
                    raise Failed(f"{case}, request {number}: {error}") from None
                wrong = difference(self.read, document, {release: said[number] for release, said in model.expected[case].items()})
                if wrong:
                    raise Failed(f"wrong answer to {case}, request {number}: {wrong}")


def difference(read: Read, document: Any, expected: Mapping[str, Sequence[float]]) -> str | None:
    """Tell where an answer is not what its release says; None where it is."""
    try:
        release, found = read(document)
        wanted = expected[release]
        if len(found) != len(wanted):
            return f"{len(found)} predictions instead of {len(wanted)}"
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if not abs(one - other) <= TOLERANCE:
                return f"{one!r} instead of {other!r} for row {place}"
    except (KeyError, IndexError, TypeError, ValueError) as error:
        return f"it cannot be read: {error!r}"
    return None


def train(state: Path, folder: Path) -> tuple[Model, list[Route]]:
    """Train the champion and a challenger as our releases, and the champion as everybody's model."""
    import joblib
    import lightgbm

    routes = [_bundle.write(state, number) for number in (1, 2)]
    boosters = {route.release: lightgbm.Booster(model_file=str(state / route.bundle / "model" / "m.txt")) for route in routes}
    folder.mkdir()
    shutil.copy(state / routes[0].bundle / "model" / "m.txt", folder)
    classifier = lightgbm.LGBMClassifier(n_estimators=200, num_leaves=31, verbosity=-1, n_jobs=1)
    joblib.dump(classifier.fit(*_bundle.sample(1)), folder / "classifier.joblib")
    rng = np.random.default_rng(9)
    rows, expected = {}, {}
    for case, (size, requests) in SIZES.items():
        # fractions of 1024: the same number as float32, as float64 and in JSON
        values = np.round(rng.normal(size=(requests, size, len(NAMES))) * 1024) / 1024
        rows[case] = values.tolist()
        expected[case] = {name: [booster.predict(one, num_threads=1).tolist() for one in values] for name, booster in boosters.items()}
    return Model(folder, rows, expected), routes


def route(state: Path, champion: Route, *, challengers: Sequence[Route] = (), shadows: Sequence[Route] = (), **more: Any) -> None:
    """Let the endpoint ``bench`` be answered so; each challenger gets a tenth. ``more``: what else is said of the endpoint."""
    weight = 1000 - 100 * len(challengers)
    arms = [msgspec.structs.replace(champion, weight=weight)]
    arms += [msgspec.structs.replace(one, weight=100, arm=f"challenger-{number}") for number, one in enumerate(challengers, 1)]
    aside = [msgspec.structs.replace(one, weight=0, arm="shadow") for one in shadows]
    endpoint = EndpointRoute(endpoint="bench", revision=1, arms=arms, shadows=aside, **more)
    written = Snapshot(format=snapshot.FORMAT, revision=1, written_at=0.0, endpoints={"bench": endpoint})
    snapshot.write(state / "serving" / snapshot.FILE, written)


def ours(name: str, state: Path, model: Model) -> Subject:
    """Return ourselves, serving a state folder."""
    requests = {case: [_load.request("/predict/bench", named(rows)) for rows in asked] for case, asked in model.rows.items()}
    return Subject(name, requests, read_ours, lambda _folder, port: _servers.ours(state, port))


def theirs(peer: _peers.Peer, model: Model, programs: Path) -> Subject:
    """Return a peer whose environment is made."""
    requests = {case: [_load.request(peer.path, peer.body(rows)) for rows in asked] for case, asked in model.rows.items()}

    def read(document: Any) -> tuple[str, list[float]]:
        return "bench@1", peer.read(document)

    return Subject(peer.name, requests, read, lambda folder, port: peer.run(programs, model.folder, folder, port))


def named(rows: Sequence[Sequence[float]]) -> Any:
    """Return rows as our own form has them."""
    return {"inputs": [dict(zip(NAMES, row, strict=True)) for row in rows]}


def read_ours(document: Any) -> tuple[str, list[float]]:
    """Return the release, and its chances where the model decided."""
    return document["release"], [said["probabilities"][1] for said in document["predictions"] if said["decided_by"] == "model"]
