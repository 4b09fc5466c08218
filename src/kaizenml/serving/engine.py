"""From a request's bytes to an answer's: decode, choose the arm, look features up, encode, predict, journal. Hot path.

Nothing leaves before its journal record is written. Shadows run afterwards, and are dropped first when there is too much to do.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from kaizenml.clock import Clock
from kaizenml.errors import InvalidInput, Unavailable, not_found
from kaizenml.features.encoding.columns import Columns
from kaizenml.features.online.reading import Found, freshness, look_up
from kaizenml.ports import OnlineStore
from kaizenml.registry.runtimes import Prediction
from kaizenml.rollouts.assign import choose
from kaizenml.rollouts.snapshot import LENT
from kaizenml.serving.beside import Batching, Beside
from kaizenml.serving.deciding import Answered, Asked, Decision, Features, Known, Pending, Row, decide, merged, told
from kaizenml.serving.ids import Ids
from kaizenml.serving.journaling import records
from kaizenml.serving.journaling.journal import Journal
from kaizenml.serving.journaling.records import Answer, PredictionRecord
from kaizenml.serving.metrics import Counters
from kaizenml.serving.protocol import Limits, PredictRequest, read_predict
from kaizenml.serving.routing import LoadedEndpoint, LoadedRoute, Routing
from kaizenml.serving.rules import Hit
from kaizenml.serving.shadows import Shadows

log = logging.getLogger("kaizenml.serving")
UNJOURNALED = b',"journaled":false'  # in an answer that has no record
T = TypeVar("T")


class _Said(msgspec.Struct, frozen=True, gc=False):
    """One prediction as it is answered."""

    id: str
    value: Any
    probabilities: list[float] | None
    decided_by: str
    reason: str | None
    arm: str
    release: str | msgspec.UnsetType = msgspec.UNSET  # where another release decided than the one named beside the predictions


class _Resumed(NamedTuple):
    """A call that is made again, with what is known by now."""

    asked: Asked | None
    known: list[Known]


class Engine:
    """Answers requests for one process. ``routing`` is replaced from outside when the snapshot changes."""

    def __init__(
        self, *, clock: Clock, ids: Ids, journal: Journal, online: OnlineStore, counters: Counters, limits: Limits, batching: Batching | None = None
    ) -> None:
        self.routing = Routing()
        self._clock = clock
        self._ids = ids
        self.journal = journal
        self._online = online
        self._counters = counters
        self._limits = limits
        self._encode_json = msgspec.json.Encoder().encode
        self._encode_record = msgspec.msgpack.Encoder().encode
        self.last: Answered | None = None
        """What was answered last in this thread: for whoever tells of the request just made."""
        self._beside = Beside(batching or Batching())
        self._resumed: _Resumed | None = None
        self.shadows = Shadows(
            journal, counters, look_up=self._features, ask=self.ask, known=lambda: self._resumed.known if self._resumed is not None else None
        )
        self._series = lru_cache(1000)(_series)

    async def ask(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns, which asks this engine; models that may take long are awaited instead of waited for.

        ``call`` is made again when such a model has answered, with the same ids and arm, and then finds the answer there. Needed
        only while ``routing.waits``; without it such a model is asked on the spot, whoever has to wait.
        """
        asked: Asked | None = None
        known: list[Known] = []
        try:
            while True:
                self._resumed = _Resumed(asked, known)
                try:
                    return call()
                except Pending as pending:
                    # not kept itself: its traceback holds this frame, and a circle would hold models beyond their release
                    model, rows, asked = pending.model, pending.rows, pending.asked
                finally:
                    self._resumed = None  # before anything is awaited: whatever runs meanwhile is another call
                said: list[Prediction] | Exception
                try:
                    said = await self._beside.answer(model, rows)
                except Exception as error:
                    said = error
                known.append(Known(model, rows, said))
        finally:
            known.clear()  # for the same reason: what failed was raised again out of frames that hold this list

    def endpoint(self, name: str) -> LoadedEndpoint:
        """Return an endpoint, or raise NotFound with the nearest name, or Unavailable."""
        routing = self.routing
        found = routing.endpoints.get(name)
        if found is not None:
            return found
        if name in routing.unavailable:
            why = routing.unavailable[name]
            raise Unavailable(f"endpoint {name!r} cannot answer: {why}", remedy=f"kaizen rollback {name}", values={"endpoint": name})
        if routing.lost:
            raise Unavailable(f"no endpoint can answer: {routing.lost}", remedy="kaizen rollouts publish", values={"endpoint": name[:100]})
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
        return self.say(self.answer(endpoint, read_predict(body, self._limits, endpoint.read_records), body, trace, pinned))

    def say(self, answered: Answered) -> bytes:
        """Write an answer in our own form."""
        by, reason, arm = answered.decision.decided_by, answered.decision.reason, answered.arm
        label, predictions = arm.route.arm, answered.decision.predictions
        if answered.decision.rows is None:
            each = zip(answered.ids, predictions, strict=True)
            said = self._encode_json([_Said(i, value, chances, by, reason, label) for i, (value, chances) in each])
        else:
            rows = zip(answered.ids, predictions, answered.decision.rows, strict=True)
            said = self._encode_json(
                [
                    _Said(i, p.value, p.probabilities, who.decided_by, who.reason, LENT if who.release else label, who.release or msgspec.UNSET)
                    for i, p, who in rows
                ]
            )
        if isinstance(answered.features, Found) and answered.features.ats:
            said += b',"features":' + self._encode_json(freshness(answered.features, arm.signature.views, answered.at))
        return b'{"predictions":' + said + (arm.tail if answered.journaled else UNJOURNALED + arm.tail)

    def answer(
        self, endpoint: LoadedEndpoint, request: PredictRequest, body: bytes | None = None, trace: str | None = None, pinned: str | None = None
    ) -> Answered:
        """Choose the arm, decide, write the journal's record, and count.

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
        StorageFull, Unavailable : the journal cannot be written; nothing was answered. (A journal with ``full="answer"`` is never full.)
        """
        asked, decision = self.decide(endpoint, request, pinned)
        return self.conclude(asked, decision, self.journal.append(self.record(asked, decision, request, body, trace)))

    def decide(self, endpoint: LoadedEndpoint, request: PredictRequest, pinned: str | None = None) -> tuple[Asked, Decision]:
        """Choose the arm and decide, without a word to anybody yet; raises NotFound and InvalidInput as ``answer`` does."""
        resumed = self._resumed
        if resumed is None:
            asked = self.choose(endpoint, request, pinned)
        else:  # the list of what is known grows from call to call
            asked = resumed.asked or msgspec.structs.replace(self.choose(endpoint, request, pinned), said=resumed.known)
        try:
            try:
                return asked, decide(asked)
            except InvalidInput:
                if not asked.free:
                    raise
                asked = self.hand_over(asked)
                return asked, decide(asked)
        except Pending as pending:
            pending.asked = asked
            raise

    def choose(self, endpoint: LoadedEndpoint, request: PredictRequest, pinned: str | None = None) -> Asked:
        """Give the rows their ids, choose the arm by the unit, and look the arm's features up; raises NotFound and InvalidInput."""
        if endpoint.hiding is not None:
            request = endpoint.hiding.hide(request)
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
            return self._gather(endpoint, arm, rows, at=at, ids=ids, unit=unit, free=free)
        except InvalidInput:
            if not free:
                raise
            return self._gather(endpoint, endpoint.arms[0], rows, at=at, ids=ids, unit=unit, free=False)

    def hand_over(self, asked: Asked) -> Asked:
        """Let the champion answer what does not fit the arm: a challenger may ask for more than clients know of yet."""
        return self._gather(asked.endpoint, asked.endpoint.arms[0], asked.rows, at=asked.at, ids=asked.ids, unit=asked.unit, free=False)

    def _gather(
        self, endpoint: LoadedEndpoint, arm: LoadedRoute, rows: Sequence[dict[str, Any]], *, at: float, ids: list[str], unit: str | None, free: bool
    ) -> Asked:
        """Look up what the arm's views know of the rows, and which rows rules take from its model."""
        features: list[Features] | None = None
        lost: str | None = None
        full: Sequence[Row] = rows
        if arm.signature.looks_up:
            features, lost = self._features(arm, rows, at)
            full = merged(rows, features)
        hits: list[Hit | None] | None = None
        lent: dict[str, tuple[list[Features] | None, str | None]] = {}
        if endpoint.rules and arm.model is not None and lost is None and endpoint.route.killed is None:
            rules = endpoint.rules[arm.route.release]
            hits = rules.hits(full, unit, ids)
            for name in rules.named(hits) if hits is not None or rules.doubts else ():
                other = endpoint.others.get(name)
                if other is not None and other.signature.looks_up and other.signature.given != arm.signature.given:
                    lent[name] = self._lend(other, rows, at)
        return Asked(at, endpoint, arm, ids, unit, rows, features, lost, free, full, hits, lent)

    def _lend(self, other: LoadedRoute, rows: Sequence[dict[str, Any]], at: float) -> tuple[list[Features] | None, str | None]:
        """Read what another release's views know; that the request does not name its entities is no fault of the request's."""
        try:
            return self._features(other, rows, at)
        except InvalidInput as error:
            return None, error.what

    def record(self, asked: Asked, decision: Decision, request: PredictRequest, body: bytes | None = None, trace: str | None = None) -> bytes:
        """Return the journal's record of a decision."""
        by, reason = decision.decided_by, decision.reason
        if decision.rows is None:
            answers = [Answer(i, value, chances, by, reason) for i, (value, chances) in zip(asked.ids, decision.predictions, strict=True)]
        else:
            answers = [
                Answer(i, p.value, p.probabilities, who.decided_by, who.reason, who.release, who.propensity)
                for i, p, who in zip(asked.ids, decision.predictions, decision.rows, strict=True)
            ]
        if asked.endpoint.hiding is not None:
            body, request = None, PredictRequest(asked.rows, asked.endpoint.hiding.unit(request.unit))
        if body is None:
            body = self._encode_json(records.by_columns(asked.rows, request.unit) if isinstance(asked.rows, Columns) else request)
        route = asked.arm.route
        ats = asked.features.ats if isinstance(asked.features, Found) else None
        record = PredictionRecord(
            asked.at, asked.endpoint.route.endpoint, route.release, route.arm, asked.unit, body, answers, asked.features, trace, ats
        )
        return self._encode_record(record)

    def conclude(self, asked: Asked, decision: Decision, journaled: bool) -> Answered:
        """Count, and put the shadows in their queue; the answer may leave now, and never before.

        Parameters
        ----------
        journaled : whether the record stands in the journal.
        """
        endpoint, arm, ids = asked.endpoint, asked.arm, asked.ids
        name, release = endpoint.route.endpoint, arm.route.release
        if not journaled:
            self._counters.add(f'kaizen_unjournaled_total{{endpoint="{name}"}}')
        if decision.rows is None:
            self._counters.add(self._series(name, release, arm.route.arm, decision.decided_by), len(ids))
        else:
            for (who, other), number in Counter((row.decided_by, row.release or release) for row in decision.rows).items():
                self._counters.add(self._series(name, other, arm.route.arm, who), number)
        self.last = answered = Answered(asked.at, endpoint, arm, ids, asked.rows, asked.features, decision, journaled)
        if journaled and (len(endpoint.arms) > 1 or endpoint.shadows):
            self.shadows.add(answered)
        return answered

    def _features(self, arm: LoadedRoute, rows: Sequence[dict[str, Any]], at: float) -> tuple[list[dict[str, Any]] | None, str | None]:
        """Return what the arm's views know of the rows, or why that could not be read."""
        if arm.model is None or not arm.signature.looks_up:
            return None, None
        try:
            return look_up(self._online, arm.signature.views, rows, at, arm.signature.derived), None
        except InvalidInput:
            raise
        except Exception as error:
            return None, told(arm, error)


def _series(endpoint: str, release: str, arm: str, decided_by: str) -> str:
    return f'kaizen_predictions_total{{endpoint="{endpoint}",release="{release}",arm="{arm}",decided_by="{decided_by}"}}'


def _pinned(endpoint: LoadedEndpoint, wanted: str) -> LoadedRoute:
    for loaded in endpoint.arms:
        if wanted in (loaded.route.arm, loaded.route.release, loaded.route.release.rpartition("@")[2]):
            return loaded
    known = [name for loaded in endpoint.arms for name in (loaded.route.arm, loaded.route.release)]
    raise not_found("arm", wanted[:100], known, remedy="leave the arm out, or name one of values.known")


def _unit(asked: str | int | None, champion: LoadedRoute, rows: Sequence[dict[str, Any]]) -> str | None:
    if asked is not None:
        return str(asked)
    column = champion.signature.unit
    if column is None:
        return None
    value = rows[0].get(column)
    return None if value is None or value == "" else str(value)
