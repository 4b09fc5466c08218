"""What is answered, and who decides: the model, the kill switch, a rule, or the naive answer. Hot path.

Nothing here writes or counts: what was asked goes in, a decision comes out. Where a model's answer is not to be waited for, ``Pending``
says so, and the same is decided again when it is known.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from kaizenml.errors import InvalidInput, KaizenError
from kaizenml.features.encoding.records import Records
from kaizenml.registry.runtimes import Model, Prediction
from kaizenml.serving.routing import LoadedEndpoint, LoadedRoute
from kaizenml.serving.rules import MODEL, By, Hit

log = logging.getLogger("kaizenml.serving")
_LONGEST_REASON = 300
Row = Mapping[str, Any]
Features = dict[str, Any]


class Decision(msgspec.Struct, frozen=True):
    """What was decided, by whom, and why where it was not the model."""

    predictions: Sequence[Prediction]
    decided_by: str
    reason: str | None
    rows: list[By] | None = None
    """Who decided each row; None: the same for all. ``decided_by`` is ``mixed`` where they differ."""


class Known(NamedTuple):
    """What a model that is asked beside the event loop has said to some rows; an exception where it failed."""

    model: Model
    rows: Sequence[Row]
    said: list[Prediction] | Exception


class Asked(msgspec.Struct, frozen=True):
    """One request with its ids, the arm that is to answer it, the features that the arm's views gave, and what rules say of its rows."""

    at: float
    endpoint: LoadedEndpoint
    arm: LoadedRoute
    ids: list[str]
    unit: str | None
    rows: Sequence[dict[str, Any]]
    features: list[dict[str, Any]] | None
    lost: str | None
    """Why the features could not be read."""
    free: bool
    """Whether the champion may answer in the arm's place."""
    full: Sequence[Row]
    """The rows with their features."""
    hits: list[Hit | None] | None
    """The rows that rules take from the model; None: none."""
    lent: dict[str, tuple[list[Features] | None, str | None]]
    """Of releases that rules name and that read other views: their features, or why those could not be read."""
    said: list[Known] | None = None
    """What models that are asked beside the event loop have said so far; None: they are asked on the spot."""


class Answered(msgspec.Struct, frozen=True):
    """One answered request; its journal record is written."""

    at: float
    endpoint: LoadedEndpoint
    arm: LoadedRoute
    ids: list[str]
    rows: Sequence[dict[str, Any]]
    features: list[dict[str, Any]] | None
    decision: Decision
    journaled: bool = True  # False: the disk is full, and the settings ask for answers all the same


class Pending(BaseException):
    """A model's answer is needed that is not to be waited for here; ``Engine.ask`` gets it and calls again. No error: nothing may catch it."""

    def __init__(self, model: Model, rows: Sequence[Row]) -> None:
        super().__init__()
        self.model = model
        self.rows = rows
        self.asked: Asked | None = None


def decide(asked: Asked) -> Decision:
    """Ask the model of the arm that was chosen; where it may not or cannot answer, answer otherwise and say why.

    Raises
    ------
    InvalidInput : the rows do not fit the release.
    Pending : the answer of a model is needed that is asked beside the event loop.
    """
    arm = asked.arm
    if asked.hits is None:
        decision = decide_alone(arm, asked.full, asked.lost, asked.endpoint.route.killed, said=asked.said)
        rules = asked.endpoint.rules.get(arm.route.release) if asked.endpoint.rules else None
        if rules is None or not rules.doubts or decision.decided_by != "model":
            return decision
        doubts = rules.doubt(decision.predictions, asked.unit, asked.ids)
        return decision if doubts is None else _overrule(asked, doubts, list(decision.predictions), [MODEL] * len(asked.ids))
    return _decide_by_row(asked, asked.hits)


def decide_alone(arm: LoadedRoute, full: Sequence[Row], lost: str | None, killed: str | None, *, said: list[Known] | None) -> Decision:
    model = arm.model
    if model is None or lost is not None:
        by, reason = ("kill", killed) if killed is not None else ("fallback", lost or arm.broken)
        return Decision([arm.naive] * len(full), by, reason)
    try:
        if killed is not None:
            model.check(full)
            return Decision([arm.naive] * len(full), "kill", killed)
        return Decision(_answers(model, full, said), "model", None)
    except InvalidInput:
        raise
    except Exception as error:
        by, reason = ("kill", killed) if killed is not None else ("fallback", told(arm, error))
        return Decision([arm.naive] * len(full), by, reason)


def _decide_by_row(asked: Asked, hits: list[Hit | None]) -> Decision:
    """Ask the model for the rows that are its own and for those that chance gives back to it, then let the rules answer the rest."""
    arm, full, ids = asked.arm, asked.full, asked.ids
    assert arm.model is not None  # else no row was looked at
    arm.model.check(full)  # whoever answers: a bad input is refused, and named by its place in the request
    hits = list(hits)  # what was asked stays as it is: the same may be decided again
    own = [position for position, hit in enumerate(hits) if hit is None or hit.tried]
    predictions, who = [arm.naive] * len(ids), [MODEL] * len(ids)
    mine = decide_alone(arm, [full[position] for position in own], None, None, said=asked.said) if own else None
    for place, position in enumerate(own if mine is not None else ()):
        assert mine is not None
        predictions[position] = mine.predictions[place]
        who[position] = By(mine.decided_by, mine.reason)
    if mine is not None and mine.decided_by == "model":
        doubts = asked.endpoint.rules[arm.route.release].doubt([predictions[p] for p in own], asked.unit, [ids[p] for p in own])
        for place, position in enumerate(own if doubts is not None else ()):
            if doubts is not None and hits[position] is None:  # what is tried is tried, however sure the model is
                hits[position] = doubts[place]
    return _overrule(asked, hits, predictions, who)


def _overrule(asked: Asked, hits: list[Hit | None], predictions: list[Prediction], who: list[By]) -> Decision:
    """Put the rules' answers in the place of the model's."""
    lent: dict[str, list[int]] = {}
    for position, hit in enumerate(hits):
        if hit is None:
            continue
        if hit.tried:
            by = who[position]
            who[position] = By(by.decided_by, by.reason or hit.said("answered by the model all the same"), None, hit.propensity)
            continue
        predictions[position], how = hit.bound.answer(asked.full[position])
        who[position] = By("fallback", hit.said(how), None, hit.propensity)
        if hit.bound.rule.release is not None:
            lent.setdefault(hit.bound.rule.release, []).append(position)
    for name, positions in lent.items():
        answers, why = _ask_other(asked, name, positions)
        for place, position in enumerate(positions):
            hit = hits[position]
            assert hit is not None
            if answers is None:
                who[position] = who[position]._replace(reason=hit.said(f"naive answer, for {name} cannot answer ({why})"))
                continue
            predictions[position] = answers[place]
            other = name if name != asked.arm.route.release else None
            who[position] = By("model", hit.said(f"answered by {name}"), other, hit.propensity)
    deciders = {by.decided_by for by in who}
    return Decision(predictions, deciders.pop() if len(deciders) == 1 else "mixed", None, who)


def _ask_other(asked: Asked, name: str, positions: list[int]) -> tuple[Sequence[Prediction] | None, str | None]:
    """Let another release answer some rows; it may need what clients no longer send, and then says why it cannot."""
    other = asked.endpoint.others.get(name)
    if other is None or other.model is None:
        return None, "it does not load"
    features, lost = (asked.features, None) if other.signature.given == asked.arm.signature.given else asked.lent.get(name, (None, None))
    rows = without_strangers([asked.rows[position] for position in positions], other, asked.arm)
    if lost is not None:
        return None, lost
    try:
        full = merged(rows, None if features is None else [features[position] for position in positions])
        return _answers(other.model, full, asked.said), None
    except Exception as error:
        return None, error.what if isinstance(error, InvalidInput) else told(other, error)


def merged(rows: Sequence[dict[str, Any]], features: list[Features] | None) -> Sequence[Row]:
    return rows if features is None else [row | given for row, given in zip(rows, features, strict=True)]


def _answers(model: Model, rows: Sequence[Row], said: list[Known] | None) -> list[Prediction]:
    if said is None or not model.blocks:
        return model.answer(rows)
    for known in said:
        if known.model is model and known.rows == rows:
            if isinstance(known.said, Exception):
                raise known.said
            return known.said
    raise Pending(model, rows)


def told(arm: LoadedRoute, error: Exception) -> str:
    reason = (error.what if isinstance(error, KaizenError) else f"{type(error).__name__}: {error}")[:_LONGEST_REASON]
    log.warning("release %s fell back: %s", arm.route.release, reason, exc_info=not isinstance(error, KaizenError))
    return reason


def without_strangers(rows: Sequence[dict[str, Any]], loaded: LoadedRoute, answered: LoadedRoute) -> Sequence[dict[str, Any]]:
    """Leave out the inputs that only the answering release takes: the request was written for that one."""
    if isinstance(rows, Records) and loaded.model is not None and loaded.model.record_type is rows.kind:
        return rows  # both take the same
    mine = {field.name for field in loaded.signature.fields}
    theirs = {field.name for field in answered.signature.fields} - mine
    return [{name: value for name, value in row.items() if name not in theirs} for row in rows] if theirs else rows
