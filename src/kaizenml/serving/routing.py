"""From the routing snapshot to loaded models: what each endpoint answers with, in this process.

Models are loaded beside the running ones and swapped in at once. What cannot be loaded leaves the old route in place
and is told in ``problems``. Models that run in processes of their own start side by side, and only so long is waited for them:
one that hangs hinders neither the others nor the kill switch. Hot path.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.errors import KaizenError
from kaizenml.features.signature import Signature
from kaizenml.registry import files, runtimes
from kaizenml.registry.own_process import OwnProcess
from kaizenml.registry.runtimes import Model, Prediction
from kaizenml.rollouts.snapshot import EndpointRoute, Route, Snapshot
from kaizenml.serving.hiding import Hiding, hiding_for
from kaizenml.serving.protocol import ReadRecords, reader
from kaizenml.serving.rules import ArmRules
from kaizenml.training import model_file

MODEL = "model"  # folder in a bundle
MANIFEST = "release.json"  # beside it, with the hash of every file
PATIENCE_S = 0.3
"""How long a change waits for models in processes of their own, before it comes into force without them."""
FIRST_PATIENCE_S = 10.0
"""The same when there is nothing yet that could answer meanwhile."""
_STARTING = "it is still being started"


@dataclass(frozen=True)
class LoadedRoute:
    """A release with its model in memory, and the end of every answer it gives."""

    route: Route
    model: Model | None
    """None: its files cannot be loaded; it answers naively with ``broken`` as the reason."""
    signature: Signature
    naive: Prediction
    tail: bytes
    """JSON after the predictions: release, classes and lineage."""
    broken: str | None = None


@dataclass(frozen=True)
class LoadedEndpoint:
    """How an endpoint answers now. ``arms`` are those of ``route``, in order."""

    route: EndpointRoute
    arms: list[LoadedRoute]
    shadows: list[LoadedRoute]
    rules: dict[str, ArmRules] = field(default_factory=dict)
    """By the arm's release; empty where there are none."""
    others: dict[str, LoadedRoute] = field(default_factory=dict)
    """Releases that rules name, as far as they could be loaded."""
    hiding: Hiding | None = None
    """What is done to requests before anything else sees them; None: nothing."""

    @property
    def signatures(self) -> list[Signature]:
        return [loaded.signature for loaded in self.arms]

    @cached_property
    def read_records(self) -> ReadRecords | None:
        """What decodes requests straight into records, where all arms take the same and no rule looks at single rows."""
        if self.rules:
            return None
        kinds = [loaded.model.record_type if loaded.model is not None else None for loaded in self.arms]
        return reader(kinds[0]) if kinds[0] is not None and all(kind is kinds[0] for kind in kinds) else None


@dataclass(frozen=True)
class Routing:
    """Everything this process answers with. Replaced as a whole, never changed."""

    revision: int = -1
    endpoints: dict[str, LoadedEndpoint] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    """Endpoints of the snapshot that cannot be answered at all, and why."""
    problems: list[str] = field(default_factory=list)
    waits: bool = False
    """Whether a model is among them whose answers are not to be waited for on the event loop."""
    lost: str | None = None
    """Why nothing is known of any endpoint, where something was deployed."""
    starting: dict[str, Future[LoadedRoute]] = field(default_factory=dict)
    """By bundle: models that are wanted and whose processes are not ready yet."""

    failures: dict[str, str] = field(default_factory=dict)
    """By bundle: why models that are wanted are not there."""

    @property
    def started(self) -> bool:
        """Whether one of those is ready now, or has failed."""
        return any(future.done() for future in self.starting.values())

    @cached_property
    def paths(self) -> dict[bytes, str]:
        """Endpoints by the path that asks for their predictions in our own form; none while a model is not to be waited for."""
        return {} if self.waits else {f"/predict/{name}".encode(): name for name in self.endpoints}


def load(state: Path, snapshot: Snapshot, current: Routing, *, patience_s: float | None = None) -> Routing:
    """Load what the snapshot asks for, reusing the models that are loaded. Slow: never call it on the event loop.

    Parameters
    ----------
    state : the project's state folder; bundles are relative to it.
    snapshot : the routes to bring about.
    current : what is served now; where a release does not load, its endpoint stays as it is there.
    patience_s : how long to wait for models in processes of their own; what is not ready then is left out as if it did not load, and goes on
        starting beside what is served. Default: until they are ready or have failed.
    """
    cache = {
        loaded.route.bundle: loaded
        for endpoint in current.endpoints.values()
        for loaded in (*endpoint.arms, *endpoint.shadows, *endpoint.others.values())
        if loaded.model is not None
    }
    loading = _Loading(state, cache, current)
    loading.begin(snapshot)
    wait(loading.starting.values(), patience_s)
    problems: list[str] = []
    endpoints: dict[str, LoadedEndpoint] = {}
    unavailable: dict[str, str] = {}
    for name, route in snapshot.endpoints.items():
        arms, failed = loading.all(route.arms)
        shadows, lost = loading.all(route.shadows)
        problems += [f"endpoint {name}: shadow {release} does not run: {why}" for release, why in lost.items()]
        before = current.endpoints.get(name)
        others, absent = loading.all(route.others)
        problems += [f"endpoint {name}: rules that name {release} answer naively: it does not load: {why}" for release, why in absent.items()]
        if route.problem:
            problems.append(f"endpoint {name}: the rules in kaizen.toml are not in force, the last good ones are: {route.problem}")
        if not failed:
            endpoints[name] = _bind(LoadedEndpoint(route, arms, shadows), others, before, problems)
            continue
        told = "; ".join(f"{release} does not load: {why}" for release, why in failed.items())
        if before is not None and not before.arms[0].broken:
            # the switch itself never waits for a model: a killed endpoint is killed whatever else fails
            kept = msgspec.structs.replace(before.route, killed=route.killed, rules=route.rules, others=route.others)
            endpoints[name] = _bind(LoadedEndpoint(kept, before.arms, before.shadows), others, before, problems)
            problems.append(f"endpoint {name} stays at revision {before.route.revision}: {told}")
            continue
        champion = next((arm for arm in arms if arm.route.release == route.arms[0].release), None) or _naive_only(state, route.arms[0], told)
        if champion is None:
            unavailable[name] = told
            problems.append(f"endpoint {name} is not available: {told}")
            continue
        alone = msgspec.structs.replace(route, arms=[msgspec.structs.replace(route.arms[0], weight=1000)])
        endpoints[name] = _bind(LoadedEndpoint(alone, [champion], shadows), others, before, problems)
        problems.append(f"endpoint {name} answers with {champion.route.release} alone{' and naively' if champion.broken else ''}: {told}")
    for name, endpoint in [*endpoints.items()]:
        try:
            endpoints[name] = _with_hiding(state, endpoint)
        except KaizenError as error:  # better no answer than one that leaves a person's values in the journal
            del endpoints[name]
            unavailable[name] = error.what
            problems.append(f"endpoint {name} is not available: {error}")
    waits = any(
        loaded.model is not None and loaded.model.blocks
        for endpoint in endpoints.values()
        for loaded in (*endpoint.arms, *endpoint.shadows, *endpoint.others.values())
    )
    # what is ready was taken, and what has failed is tried again from the beginning
    pending = {bundle: future for bundle, future in loading.starting.items() if not future.done()}
    return Routing(snapshot.revision, endpoints, unavailable, problems, waits, starting=pending, failures=loading.failures)


class _Loading:
    """Loads releases for one change; those in processes of their own side by side.

    Parameters
    ----------
    state : the project's state folder.
    cache : by bundle, what is loaded; grows.
    current : what is served now.
    """

    def __init__(self, state: Path, cache: dict[str, LoadedRoute], current: Routing) -> None:
        self._state = state
        self._cache = cache
        self._before = current
        self.starting: dict[str, Future[LoadedRoute]] = {}
        self.failures: dict[str, str] = {}

    def begin(self, snapshot: Snapshot) -> None:
        """Start the processes of models that are wanted and not there; those that are starting since an earlier time go on."""
        routes = [route for endpoint in snapshot.endpoints.values() for route in (*endpoint.arms, *endpoint.shadows, *endpoint.others)]
        wanted = {route.bundle: route for route in routes}
        for bundle, future in self._before.starting.items():
            if bundle in wanted:
                self.starting[bundle] = future
            else:
                future.add_done_callback(_discard)
        for bundle, route in wanted.items():
            if bundle not in self._cache and bundle not in self.starting and _has_own_process(self._state / bundle / MODEL):
                future = self.starting[bundle] = Future()
                threading.Thread(target=_load_into, args=(future, self._state, route), name="model-start", daemon=True).start()

    def all(self, routes: list[Route]) -> tuple[list[LoadedRoute], dict[str, str]]:
        """Return what could be loaded, and by release why the others could not."""
        loaded: list[LoadedRoute] = []
        failed: dict[str, str] = {}
        for route in routes:
            have = self._one(route)
            if isinstance(have, str):
                failed[route.release] = self.failures[route.bundle] = have
                continue
            if have.route != route:
                have = LoadedRoute(route, have.model, have.signature, have.naive, _tail(route, have.signature))
            self._cache[route.bundle] = have
            loaded.append(have)
        return loaded, failed

    def _one(self, route: Route) -> LoadedRoute | str:
        have, future = self._cache.get(route.bundle), self.starting.get(route.bundle)
        if have is not None:
            return have
        if future is not None and not future.done():
            return self._before.failures.get(route.bundle, _STARTING)  # why it failed before says more
        try:
            if future is None:
                return load_route(self._state, route)
        except (KaizenError, OSError, ValueError, RuntimeError) as error:
            return _why(error)
        # not raised: it would be held by this frame, and hold it, and with it models beyond their release
        error_there = future.exception()
        return future.result() if error_there is None else _why(error_there)


def _why(error: BaseException) -> str:
    return error.what if isinstance(error, KaizenError) else f"{type(error).__name__}: {error}"


def _load_into(future: Future[LoadedRoute], state: Path, route: Route) -> None:
    try:
        future.set_result(load_route(state, route))
    except BaseException as error:
        future.set_exception(error)


def _discard(future: Future[LoadedRoute]) -> None:
    """End the process of a model that nobody waits for any more."""
    if future.exception() is None and (model := future.result().model) is not None:
        model.close()


def _has_own_process(folder: Path) -> bool:
    try:
        return any(runtimes.KINDS.get(member.kind) is OwnProcess for member in model_file.read(folder).members)
    except (KaizenError, OSError):
        return False  # said when it is loaded


def _bind(endpoint: LoadedEndpoint, others: list[LoadedRoute], before: LoadedEndpoint | None, problems: list[str]) -> LoadedEndpoint:
    """Bind the endpoint's rules to its arms; where they cannot be, those that this process had before."""
    for route in (endpoint.route, *([before.route] if before is not None else [])):
        try:
            rules = {arm.route.release: ArmRules(route.rules, route.endpoint, arm.model.spec) for arm in endpoint.arms if route.rules and arm.model}
        except KaizenError as error:
            problems.append(f"endpoint {route.endpoint}: its rules cannot be followed: {error.what}")
            continue
        ruled = msgspec.structs.replace(endpoint.route, rules=route.rules)
        loaded = {other.route.release: other for other in others}
        if before is not None and route is before.route:
            loaded = before.others | loaded
        return replace(endpoint, route=ruled, rules=rules, others=loaded)
    return replace(endpoint, route=msgspec.structs.replace(endpoint.route, rules=[]))


def _with_hiding(state: Path, endpoint: LoadedEndpoint) -> LoadedEndpoint:
    """Bind what is done to requests; the key lies in the state folder, which a bundle that is served alone may still lie in."""
    loaded = (*endpoint.arms, *endpoint.shadows, *endpoint.others.values())
    route, places = endpoint.route, [state, *(state / loaded[0].route.bundle).parents]
    return replace(endpoint, hiding=hiding_for([each.signature for each in loaded], places, pseudonyms=route.hidden, key_print=route.key_print))


def load_route(state: Path, route: Route) -> LoadedRoute:
    """Load one release. Raises KaizenError when its files are not whole, or differ from what was released."""
    _verify(state / route.bundle, route.release)
    model = runtimes.load(state / route.bundle / MODEL)
    return LoadedRoute(route, model, model.signature, model.naive, _tail(route, model.signature))


def _verify(bundle: Path, release: str) -> None:
    """Compare the model's files with the hashes of the release, however long ago it was made; a bundle that is still being made has none."""
    try:
        expected = msgspec.json.decode((bundle / MANIFEST).read_bytes(), type=_Hashes).files
    except FileNotFoundError:
        return
    model = {name.removeprefix(f"{MODEL}/"): digest for name, digest in expected.items() if name.startswith(f"{MODEL}/")}
    if model:
        remedy = f"restore {bundle} from a backup, or roll back to another release"
        files.compare(files.hash_files(bundle / MODEL), model, folder=bundle / MODEL, what=f"release {release}", remedy=remedy)


class _Hashes(msgspec.Struct):
    files: dict[str, str] = {}


def _naive_only(state: Path, route: Route, why: str) -> LoadedRoute | None:
    """Answer naively where at least ``model.json`` can be read: an endpoint answers if it can."""
    try:
        spec = model_file.read(state / route.bundle / MODEL)
    except (KaizenError, OSError):
        return None
    return LoadedRoute(route, None, spec.signature, Prediction(spec.naive.value, spec.naive.probabilities), _tail(route, spec.signature), broken=why)


def _tail(route: Route, signature: Signature) -> bytes:
    lineage = route.lineage
    document: dict[str, Any] = {
        "release": route.release,
        "classes": signature.classes,
        "lineage": {
            "model": lineage.model, "data": lineage.data, "features": lineage.features, "code": lineage.code, "hash": lineage.hash,
        },
    }  # fmt: skip
    return b"," + msgspec.json.encode(document)[1:]
