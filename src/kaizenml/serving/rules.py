"""Rules at work: which rows of a request are not the model's to decide, why, and what answers them. Hot path.

What a rule says is in ``rollouts.rules``; here it is bound to the arm that would answer: its levels, the ranges it saw, its naive
answers. Nothing here raises on a row; a row that does not fit is for the encoder to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf, isnan
from typing import Any, NamedTuple

from kaizenml.features.encoding.encoder import fetcher
from kaizenml.features.signature import Field
from kaizenml.registry.runtimes import Prediction
from kaizenml.rollouts import conditions
from kaizenml.rollouts.assign import slot
from kaizenml.rollouts.snapshot import Rule
from kaizenml.training.model_file import ModelSpec

_NAMED = 3  # inputs in a reason
_LONGEST_REASON = 300
Row = Mapping[str, Any]
Look = Callable[[Row], str | None]


class By(NamedTuple):
    """Who decided a row, and why it was not simply the arm's model."""

    decided_by: str
    reason: str | None
    release: str | None = None
    """Who decided, where that is not the arm's release."""
    propensity: float | None = None
    """How probable it was that the row would be decided like this, where chance had a hand in it."""


MODEL = By("model", None)


class Bound(NamedTuple):
    """A rule bound to an arm."""

    rule: Rule
    naive: Callable[[Row], tuple[Prediction, str]]

    def answer(self, row: Row) -> tuple[Prediction, str]:
        """Return the answer and how it came about; of a rule that names a release, the naive one for when that cannot answer."""
        if self.rule.answer == "constant":
            return Prediction(self.rule.value, None), "constant answer"
        if self.rule.answer == "refuse":
            return Prediction(None, None), "refused"
        return self.naive(row)


class Hit(NamedTuple):
    """A row that a rule takes from the model; ``tried``: chance gives it back to the model, to learn from what comes of it."""

    bound: Bound
    why: str
    tried: bool

    def said(self, how: str) -> str:
        """Return the reason that is answered and journaled."""
        share = self.propensity
        told = f"{how} (probability {share:g}): {self.why}" if share is not None else f"{how}: {self.why}"
        return told if len(told) <= _LONGEST_REASON else told[: _LONGEST_REASON - 3] + "..."

    @property
    def propensity(self) -> float | None:
        """The probability with which the row was decided as it is; None where chance had no hand in it."""
        explore = self.bound.rule.explore
        return None if not explore else (explore if self.tried else 1000 - explore) / 1000


class ArmRules:
    """The rules of an endpoint, bound to one arm.

    Parameters
    ----------
    rules : in order.
    endpoint : its name, for the draw of what is tried.
    spec : the arm's model.

    Raises
    ------
    InvalidSettings : a condition cannot be read.
    """

    def __init__(self, rules: Sequence[Rule], endpoint: str, spec: ModelSpec) -> None:
        all_bound = [Bound(rule, _naive(rule, spec)) for rule in rules]
        self._looks = [(look, bound) for bound in all_bound for look in _looks(bound.rule, spec)]
        self._doubting = next((bound for bound in all_bound if bound.rule.confidence is not None), None)
        self._floor = self._doubting.rule.confidence or 0.0 if self._doubting else 0.0
        self._draw = f"{endpoint}\0explore"  # another draw than the one for arms: the two are independent
        self.doubts = self._doubting is not None

    def hits(self, rows: Sequence[Row], unit: str | None, ids: Sequence[str]) -> list[Hit | None] | None:
        """Return for each row the rule that takes it from the model; None where no row is taken.

        Parameters
        ----------
        rows : inputs with the features of the arm's views.
        unit : who is drawn for a try; None: each row by its id.
        ids : the rows'.
        """
        found: list[Hit | None] | None = None
        for position, row in enumerate(rows):
            for look, bound in self._looks:
                why = look(row)
                if why is not None:
                    if found is None:
                        found = [None] * len(rows)
                    found[position] = self._hit(bound, why, unit or ids[position])
                    break
        return found

    def doubt(self, predictions: Sequence[Prediction], unit: str | None, ids: Sequence[str]) -> list[Hit | None] | None:
        """Return for each answer of the model the rule that takes it back for want of confidence; None where there is none."""
        found: list[Hit | None] | None = None
        bound = self._doubting
        if bound is None:
            return None
        for position, prediction in enumerate(predictions):
            shares = prediction.probabilities
            if shares is not None and (most := max(shares)) < self._floor:
                if found is None:
                    found = [None] * len(predictions)
                found[position] = self._hit(bound, f"confidence {most:.3g} is below {self._floor:g}", unit or ids[position])
        return found

    def named(self, hits: Sequence[Hit | None] | None) -> set[str]:
        """Return the releases that may be asked for these rows."""
        names = {hit.bound.rule.release for hit in hits or () if hit is not None}
        if self._doubting is not None:
            names.add(self._doubting.rule.release)
        return {name for name in names if name is not None}

    def _hit(self, bound: Bound, why: str, drawn: str) -> Hit:
        explore = bound.rule.explore
        return Hit(bound, why, explore > 0 and slot(self._draw, drawn) < explore)


def outside(spec: ModelSpec, limit: float) -> Look:
    """Return what says which inputs of a row lie outside what training saw, and by how much; None when none does.

    A number is outside when it is beyond the smallest or largest value seen, by more than ``limit`` times the width between them;
    a missing value when training never saw one. The farthest comes first.
    """
    bounds = [_bound(field, limit) for field in spec.signature.fields]
    watched = [bound for bound in bounds if bound.solid or bound.highest < inf]
    if not watched:
        return lambda row: None
    numbers = [bound for bound in watched if bound.highest < inf]
    limits = [(bound.lowest, bound.highest, bound) for bound in numbers]
    fetch = fetcher([bound.name for bound in numbers]) if numbers else lambda row: ()
    others = [bound for bound in watched if bound.highest == inf]
    fetch_others = fetcher([bound.name for bound in others]) if others else lambda row: ()

    def look(row: Row) -> str | None:
        odd: Sequence[_Bound] = ()
        try:
            for value, (lowest, highest, bound) in zip(fetch(row), limits, strict=True):
                if value is None:
                    if bound.solid:
                        odd = (*odd, bound)
                elif not lowest <= value <= highest:
                    odd = (*odd, bound)
            if None in fetch_others(row):
                odd = (*odd, *others)
            if not odd:
                return None
        except (KeyError, TypeError):  # an input of a view that is not there, or text: looked at one by one
            odd = watched
        found = sorted((told for bound in odd if (told := _beyond(bound, row.get(bound.name)))), key=lambda one: -one[0])
        return _listed([said for _, said in found]) if found else None

    return look


def unknown(spec: ModelSpec, names: Sequence[str] | None = None) -> Look:
    """Return what says which categories of a row have a level that training did not see; of ``names`` or of any input."""
    columns = [column for column in spec.encoder.columns if column.kind == "category" and (names is None or column.name in names)]
    if not columns:
        return lambda row: None
    fetch = fetcher([column.name for column in columns])
    levels = [frozenset((*column.levels, None)) for column in columns]

    def look(row: Row) -> str | None:
        try:
            for value, seen in zip(fetch(row), levels, strict=True):
                if value not in seen:
                    break
            else:
                return None
        except (KeyError, TypeError):
            pass
        new = [c.name for c, seen in zip(columns, levels, strict=True) if type(value := row.get(c.name)) is str and value not in seen]
        return "new level: " + _listed([f"{name} {_short(row[name])}" for name in new]) if new else None

    return look


class _Bound(NamedTuple):
    """What training saw of an input: ``lowest`` and ``highest`` are ``limit`` times the width beyond ``low`` and ``high``."""

    name: str
    low: float
    high: float
    lowest: float
    highest: float
    solid: bool  # never missing


def _bound(field: Field, limit: float) -> _Bound:
    low, high = field.minimum, field.maximum
    if field.kind not in ("number", "integer") or low is None or high is None:
        return _Bound(field.name, -inf, inf, -inf, inf, not field.nullable)  # time goes on, whatever training saw
    slack = limit * _width(low, high)
    return _Bound(field.name, low, high, low - slack, high + slack, not field.nullable)


def _beyond(bound: _Bound, value: Any) -> tuple[float, str] | None:
    """Return by how many widths of the range a value is outside, and the words for it; None when it is not."""
    if value is None or (type(value) is float and isnan(value)):
        return (inf, f"{bound.name} is missing, which it never was in training") if bound.solid else None
    if bound.highest == inf or not isinstance(value, int | float) or bound.lowest <= value <= bound.highest:
        return None  # what is no number is for the encoder to refuse
    try:
        by = (bound.low - value if value < bound.low else value - bound.high) / _width(bound.low, bound.high)
    except OverflowError:
        by = inf
    return by, f"{bound.name} {_short(value)} is outside {bound.low:g} to {bound.high:g} by {by:.2g} of that range"


def _listed(told: list[str]) -> str:
    return ", ".join(told[:_NAMED]) + (f", and {len(told) - _NAMED} more" if len(told) > _NAMED else "")


def _looks(rule: Rule, spec: ModelSpec) -> list[Look]:
    looks: list[Look] = []
    if rule.when is not None:
        condition = conditions.read(rule.when)
        looks.append(lambda row: condition.text if condition.test(row) else None)
    if rule.unknown:
        looks.append(unknown(spec, None if rule.unknown is True else rule.unknown))
    if rule.outside is not None:
        looks.append(outside(spec, rule.outside))
    return looks


def _naive(rule: Rule, spec: ModelSpec) -> Callable[[Row], tuple[Prediction, str]]:
    usual = Prediction(spec.naive.value, spec.naive.probabilities)
    segments = next((segments for segments in spec.segments if segments.column == rule.by), None)
    if segments is None:
        how = "naive answer" if rule.by is None else f"naive answer (this release holds none by {rule.by})"
        return lambda row: (usual, how)
    column = segments.column
    answers: dict[Any, Prediction] = {
        {"true": True, "false": False}.get(level, level) if _is_truth(spec, column) else level: Prediction(naive.value, naive.probabilities)
        for level, naive in segments.answers.items()
    }

    def naive(row: Row) -> tuple[Prediction, str]:
        own = answers.get(row.get(column))
        return (usual, f"naive answer ({column} has none of its own)") if own is None else (own, f"naive answer by {column}")

    return naive


def _is_truth(spec: ModelSpec, column: str) -> bool:
    return any(field.name == column and field.kind == "boolean" for field in spec.signature.fields)


def _width(low: float, high: float) -> float:
    return (high - low) or abs(high) or 1.0


def _short(value: Any) -> str:
    text = f"{value:g}" if type(value) is float else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
