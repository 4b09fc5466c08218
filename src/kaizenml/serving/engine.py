"""From a request's bytes to an answer's: decode, choose the arm, look features up, encode, predict, journal. Hot path.

Nothing leaves before its journal record is written. Shadows run afterwards, and are dropped first when there is too much to do.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from kaizenml.clock import Clock
from kaizenml.errors import InvalidInput, KaizenError, Unavailable, not_found
from kaizenml.features.online import look_up
from kaizenml.ports import OnlineStore
from kaizenml.registry.runtimes import Prediction
from kaizenml.rollouts.assign import choose
from kaizenml.serving.ids import Ids
from kaizenml.serving.journal import Journal
from kaizenml.serving.metrics import Counters
from kaizenml.serving.protocol import Limits, PredictRequest, read_predict
from kaizenml.serving.records import Answer, PredictionRecord, ShadowRecord
from kaizenml.serving.routing import LoadedEndpoint, LoadedRoute, Routing

log = logging.getLogger("kaizenml.serving")
SHADOW_ROWS = 20_000  # waiting to be run by shadows; more are shed
_LONGEST_REASON = 300
Row = Mapping[str, Any]


class _Said(msgspec.Struct, frozen=True):
    """One prediction as it is answered."""

    id: str
    value: Any
    probabilities: list[float] | None
    decided_by: str
    reason: str | None
    arm: str


class Decision(NamedTuple):
    """Who decided, why where it was not the model, and what."""

    predictions: Sequence[Prediction]
    decided_by: str
    reason: str | None


class Asked(NamedTuple):
    """One request with its ids, the arm that is to answer it, and the features that the arm's views gave."""

    at: float
    endpoint: LoadedEndpoint
    arm: LoadedRoute
    ids: list[str]
    unit: str | None
    rows: list[dict[str, Any]]
    features: list[dict[str, Any]] | None
    lost: str | None
    """Why the features could not be read."""
    free: bool
    """Whether the champion may answer in the arm's place."""


class Answered(NamedTuple):
    """One answered request; its journal record is written."""

    at: float
    endpoint: LoadedEndpoint
    arm: LoadedRoute
    ids: list[str]
    rows: list[dict[str, Any]]
    features: list[dict[str, Any]] | None
    decision: Decision


class Engine:
    """Answers requests for one process. ``routing`` is replaced from outside when the snapshot changes."""

    def __init__(self, *, clock: Clock, ids: Ids, journal: Journal, online: OnlineStore, counters: Counters, limits: Limits) -> None:
        self.routing = Routing()
        self._clock = clock
        self._ids = ids
        self._journal = journal
        self._online = online
        self._counters = counters
        self._limits = limits
        self._encode_json = msgspec.json.Encoder().encode
        self._encode_record = msgspec.msgpack.Encoder().encode
        self._shadows: deque[tuple[Answered, list[LoadedRoute]]] = deque()
        self._shadow_rows = 0

    def endpoint(self, name: str) -> LoadedEndpoint:
        """Return an endpoint, or raise NotFound with the nearest name, or Unavailable."""
        routing = self.routing
        found = routing.endpoints.get(name)
        if found is not None:
            return found
        if name in routing.unavailable:
            why = routing.unavailable[name]
            raise Unavailable(f"endpoint {name!r} cannot answer: {why}", remedy=f"kaizen rollback {name}", values={"endpoint": name})
        raise not_found("endpoint", name[:100], routing.endpoints, remedy="kaizen status" if routing.endpoints else "kaizen deploy")

    def predict(self, name: str, body: bytes, trace: str | None = None, pinned: str | None = None) -> bytes:
        """Answer one request in our own form; raises as ``answer``, and InvalidInput and TooLarge for what cannot be read.

        Parameters
        ----------
        name : the endpoint.
        body : the request as it came.
        trace : the caller's trace id, kept in the journal.
        pinned : the arm or release that is to answer.
        """
        endpoint = self.endpoint(name)
        answered = self.answer(endpoint, read_predict(body, self._limits), body, trace, pinned)
        by, reason, arm = answered.decision.decided_by, answered.decision.reason, answered.arm
        label, predictions = arm.route.arm, answered.decision.predictions
        said = self._encode_json([_Said(i, p.value, p.probabilities, by, reason, label) for i, p in zip(answered.ids, predictions, strict=True)])
        return b'{"predictions":' + said + arm.tail

    def answer(
        self, endpoint: LoadedEndpoint, request: PredictRequest, body: bytes | None = None, trace: str | None = None, pinned: str | None = None
    ) -> Answered:
        """Choose the arm, decide, and write the journal's record.

        Parameters
        ----------
        endpoint : who answers.
        request : what is asked.
        body : the same as it came in our own form; None: it came in another, and the journal gets it in ours.
        trace : the caller's trace id, kept in the journal.
        pinned : the arm (``challenger-1``), release (``shop@3``) or release's number that is to answer; default by weight.

        Raises
        ------
        NotFound : there is no such arm.
        InvalidInput : the rows do not fit the release.
        StorageFull, Unavailable : the journal cannot be written; nothing was answered.
        """
        asked = self.choose(endpoint, request, pinned)
        try:
            decision = decide(asked)
        except InvalidInput:
            if not asked.free:
                raise
            asked = self.hand_over(asked)
            decision = decide(asked)
        return self.record(asked, decision, request, body, trace)

    def choose(self, endpoint: LoadedEndpoint, request: PredictRequest, pinned: str | None = None) -> Asked:
        """Give the rows their ids, choose the arm by the unit, and look the arm's features up; raises NotFound and InvalidInput."""
        rows = request.inputs
        at = self._clock.timestamp()
        ids = self._ids.make(at, len(rows))
        arm = endpoint.arms[0]
        unit = _unit(request.unit, arm, rows)
        free = False
        if pinned is not None:
            arm = _pinned(endpoint, pinned)
        elif len(endpoint.arms) > 1 and endpoint.route.killed is None:
            arm = endpoint.arms[choose(endpoint.route, unit or ids[0])]
            free = arm is not endpoint.arms[0]
        try:
            features, lost = self._features(arm, rows, at)
        except InvalidInput:
            if not free:
                raise
            arm, free = endpoint.arms[0], False
            features, lost = self._features(arm, rows, at)
        return Asked(at, endpoint, arm, ids, unit, rows, features, lost, free)

    def hand_over(self, asked: Asked) -> Asked:
        """Let the champion answer what does not fit the arm: a challenger may ask for more than clients know of yet."""
        champion = asked.endpoint.arms[0]
        features, lost = self._features(champion, asked.rows, asked.at)
        return asked._replace(arm=champion, features=features, lost=lost, free=False)

    def record(self, asked: Asked, decision: Decision, request: PredictRequest, body: bytes | None = None, trace: str | None = None) -> Answered:
        """Write the journal's record, count, and put the shadows in their queue; the answer may leave afterwards, never before."""
        endpoint, arm, ids = asked.endpoint, asked.arm, asked.ids
        name, label, by, reason = endpoint.route.endpoint, arm.route.arm, decision.decided_by, decision.reason
        answers = [Answer(i, p.value, p.probabilities, by, reason) for i, p in zip(ids, decision.predictions, strict=True)]
        if body is None:
            body = self._encode_json(request)
        record = PredictionRecord(asked.at, name, arm.route.release, label, asked.unit, body, answers, asked.features, trace)
        self._journal.append(self._encode_record(record))
        self._counters.add(f'kaizen_predictions_total{{endpoint="{name}",arm="{label}",decided_by="{by}"}}', len(ids))
        answered = Answered(asked.at, endpoint, arm, ids, asked.rows, asked.features, decision)
        if len(endpoint.arms) > 1 or endpoint.shadows:
            self._queue_shadows(answered)
        return answered

    def _features(self, arm: LoadedRoute, rows: list[dict[str, Any]], at: float) -> tuple[list[dict[str, Any]] | None, str | None]:
        """Return what the arm's views know of the rows, or why that could not be read."""
        if arm.model is None or not arm.signature.views:
            return None, None
        try:
            return look_up(self._online, arm.signature.views, rows, at), None
        except InvalidInput:
            raise
        except Exception as error:
            return None, _told(arm, error)

    def _queue_shadows(self, answered: Answered) -> None:
        endpoint, arm, rows = answered.endpoint, answered.arm, answered.rows
        runs = list(endpoint.shadows)
        if endpoint.route.paired and endpoint.route.killed is None:  # a killed endpoint's arms are not to be trusted with anything
            runs += [other for other in endpoint.arms if other is not arm]
        if not runs:
            return
        wanted = len(rows) * len(runs)
        if self._shadow_rows + wanted > SHADOW_ROWS:
            self._counters.add(f'kaizen_shadow_rows_total{{endpoint="{endpoint.route.endpoint}",outcome="shed"}}', wanted)
            return
        self._shadow_rows += wanted
        self._shadows.append((answered, runs))

    @property
    def has_shadows(self) -> bool:
        """Tell whether shadow work waits."""
        return bool(self._shadows)

    def run_shadow(self) -> None:
        """Run the shadows of one answered request."""
        work, runs = self._shadows.popleft()
        self._shadow_rows -= len(work.rows) * len(runs)
        name = work.endpoint.route.endpoint
        for loaded in runs:
            outcome = "run"
            try:
                self._run_shadow(work, loaded)
            except Exception as error:  # a shadow never disturbs what answers
                outcome = "failed"
                log.warning("shadow %s of %s failed: %s", loaded.route.release, name, error)
            self._counters.add(f'kaizen_shadow_rows_total{{endpoint="{name}",outcome="{outcome}"}}', len(work.rows))

    def _run_shadow(self, work: Answered, loaded: LoadedRoute) -> None:
        decision = work.decision
        if loaded.model is not work.arm.model or decision.decided_by != "model":  # else it has just said it
            rows = _without_strangers(work.rows, loaded, work.arm)
            known, lost = work.features, None
            if known is None or loaded.signature.views != work.arm.signature.views:
                known, lost = self._features(loaded, rows, work.at)
            decision = _decide(loaded, rows, known, lost, None)
        answers = [
            Answer(i, p.value, p.probabilities, decision.decided_by, decision.reason) for i, p in zip(work.ids, decision.predictions, strict=True)
        ]
        name = work.endpoint.route.endpoint
        self._journal.append(self._encode_record(ShadowRecord(work.at, name, loaded.route.release, loaded.route.arm, answers)))


def decide(asked: Asked) -> Decision:
    """Ask the model of the arm that was chosen; where it may not or cannot answer, answer naively and say why.

    Touches nothing of the engine, so it may run beside the event loop, one call at a time for each model.

    Raises
    ------
    InvalidInput : the rows do not fit the release.
    """
    return _decide(asked.arm, asked.rows, asked.features, asked.lost, asked.endpoint.route.killed)


def _decide(arm: LoadedRoute, rows: list[dict[str, Any]], features: list[dict[str, Any]] | None, lost: str | None, killed: str | None) -> Decision:
    model = arm.model
    if model is None or lost is not None:
        by, reason = ("kill", killed) if killed is not None else ("fallback", lost or arm.broken)
        return Decision([arm.naive] * len(rows), by, reason)
    full: Sequence[Row] = rows if features is None else [row | given for row, given in zip(rows, features, strict=True)]
    try:
        if killed is not None:
            model.check(full)
            return Decision([arm.naive] * len(rows), "kill", killed)
        return Decision(model.answer(full), "model", None)
    except InvalidInput:
        raise
    except Exception as error:
        by, reason = ("kill", killed) if killed is not None else ("fallback", _told(arm, error))
        return Decision([arm.naive] * len(rows), by, reason)


def _told(arm: LoadedRoute, error: Exception) -> str:
    reason = (error.what if isinstance(error, KaizenError) else f"{type(error).__name__}: {error}")[:_LONGEST_REASON]
    log.warning("release %s fell back: %s", arm.route.release, reason, exc_info=not isinstance(error, KaizenError))
    return reason


def _pinned(endpoint: LoadedEndpoint, wanted: str) -> LoadedRoute:
    for loaded in endpoint.arms:
        if wanted in (loaded.route.arm, loaded.route.release, loaded.route.release.rpartition("@")[2]):
            return loaded
    known = [name for loaded in endpoint.arms for name in (loaded.route.arm, loaded.route.release)]
    raise not_found("arm", wanted[:100], known, remedy="leave the arm out, or name one of values.known")


def _unit(asked: str | int | None, champion: LoadedRoute, rows: list[dict[str, Any]]) -> str | None:
    if asked is not None:
        return str(asked)
    column = champion.signature.unit
    if column is None:
        return None
    value = rows[0].get(column)
    return None if value is None or value == "" else str(value)


def _without_strangers(rows: list[dict[str, Any]], loaded: LoadedRoute, answered: LoadedRoute) -> list[dict[str, Any]]:
    """Leave out the inputs that only the answering release takes: the request was written for that one."""
    mine = {field.name for field in loaded.signature.fields}
    theirs = {field.name for field in answered.signature.fields} - mine
    return [{name: value for name, value in row.items() if name not in theirs} for row in rows] if theirs else rows
