"""Rules: when an endpoint's model is not to decide a row, and what answers then. From kaizen.toml to the snapshot; pure.

``[[route]]`` are conditions over the inputs, in order; ``[fallback]`` comes last and tells what the model does not know. Everything
is checked here, against the champion's model, so that a serving process meets only rules that it can follow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, cast

from kaizenml.errors import InvalidSettings, KaizenError, nearest
from kaizenml.refs import parse_ref
from kaizenml.rollouts import conditions
from kaizenml.rollouts.rollout import permille
from kaizenml.rollouts.snapshot import Rule
from kaizenml.settings import FallbackSettings, RouteSettings, Settings
from kaizenml.training.model_file import ModelSpec

_PLAIN = ("naive", "constant", "refuse")


def of(settings: Settings, endpoint: str, spec: ModelSpec) -> list[Rule]:
    """Return an endpoint's rules as the settings have them.

    Parameters
    ----------
    settings : kaizen.toml.
    endpoint : its name; a route that names another one is not its.
    spec : the champion's model.

    Raises
    ------
    InvalidSettings : a condition cannot be read, an input does not exist, or an answer is not possible; names place and nearest.
    """
    rules = []
    for number, route in enumerate(settings.route, 1):
        if route.endpoint not in (None, endpoint):
            continue
        place = f"[[route]] {number}"
        condition = conditions.read(route.when)
        _check_inputs(place, condition.inputs, _inputs(spec), text=route.when)
        rules.append(_rule(place, route, spec, when=route.when))
    fallback = settings.fallback
    if fallback != FallbackSettings():
        rules.append(_fallback(fallback, spec))
    return rules


def lent(settings: Settings, endpoint: str) -> dict[str, str]:
    """Return the releases that answer an endpoint's rows by a rule alone, each with the rule's place in kaizen.toml."""
    asked: list[tuple[str, RouteSettings | FallbackSettings]] = [
        (f"[[route]] {number}", route) for number, route in enumerate(settings.route, 1) if route.endpoint in (None, endpoint)
    ]
    found: dict[str, str] = {}
    for place, given in [*asked, ("[fallback]", settings.fallback)]:
        if given.answer not in _PLAIN:
            found.setdefault(_release(place, given.answer), place)
    return found


def check_endpoints(settings: Settings, endpoints: Iterable[str]) -> None:
    """Raise InvalidSettings when a route names an endpoint that does not exist."""
    known = sorted(endpoints)
    for number, route in enumerate(settings.route, 1):
        if known and route.endpoint is not None and route.endpoint not in known:
            raise _wrong(f"[[route]] {number}", "endpoint", route.endpoint, f"there is no endpoint {route.endpoint!r}", known)


def describe(rule: Rule) -> str:
    """Say a rule in one line.

    >>> describe(Rule(when="carrier == 'XX'", by="carrier", explore=20))
    "carrier == 'XX': naive by carrier, explore 2 %"
    """
    reasons = [rule.when] if rule.when else []
    if rule.unknown:
        reasons.append("unknown level" + (f" of {', '.join(rule.unknown)}" if isinstance(rule.unknown, list) else ""))
    if rule.outside is not None:
        reasons.append(f"outside what training saw, by more than {rule.outside:g}")
    if rule.confidence is not None:
        reasons.append(f"confidence below {rule.confidence:g}")
    answer = {"naive": "naive" + (f" by {rule.by}" if rule.by else ""), "constant": f"constant {rule.value!r}", "release": rule.release}
    return f"{'; '.join(reasons)}: {answer.get(rule.answer, rule.answer)}" + (f", explore {rule.explore / 10:g} %" if rule.explore else "")


def _fallback(settings: FallbackSettings, spec: ModelSpec) -> Rule:
    place = "[fallback]"
    if not settings.unknown and settings.outside is None and settings.confidence is None:
        raise InvalidSettings(
            "[fallback] says how to answer, and not when: none of unknown, outside and confidence is set",
            remedy="set unknown = true, outside = 0.5 or confidence = 0.6 under [fallback]",
            values={"section": "fallback"},
        )
    if isinstance(settings.unknown, list):
        categories = [column.name for column in spec.encoder.columns if column.kind == "category"]
        for name in settings.unknown:
            if name not in categories:
                raise _wrong(place, "unknown", name, f"{name!r} is not an input with levels", categories)
    if settings.outside is not None and not (settings.outside >= 0 and math.isfinite(settings.outside)):
        raise _wrong(place, "outside", settings.outside, f"{settings.outside!r} is not a distance", ["0", "0.5"])
    if settings.confidence is not None:
        if spec.signature.task == "regression":
            raise _wrong(place, "confidence", settings.confidence, f"{spec.signature.target!r} is a number, and has none", [])
        if not 0 < settings.confidence <= 1:
            raise _wrong(place, "confidence", settings.confidence, f"{settings.confidence!r} is not a probability", ["0.6"])
    return _rule(place, settings, spec, unknown=settings.unknown, outside=settings.outside, confidence=settings.confidence)


def _rule(place: str, given: RouteSettings | FallbackSettings, spec: ModelSpec, **when: Any) -> Rule:
    answer, value, release = given.answer, given.value, None
    if answer not in _PLAIN:
        release = _release(place, answer)
        answer = "release"
    if given.by is not None:
        if answer != "naive":
            raise _wrong(place, "by", given.by, f"only the naive answer goes by an input, not {given.answer!r}", [])
        known = [segments.column for segments in spec.segments]
        if given.by not in known:
            what = f"the model holds no naive answers by {given.by!r}"
            raise _wrong(place, "by", given.by, what if known else f"{what}, nor by any input: it was trained before there were such", known)
    if (value is not None) != (answer == "constant"):
        what = f"value goes with answer = 'constant', not {given.answer!r}" if value is not None else "answer = 'constant' needs a value"
        raise _wrong(place, "value", value, what, [])
    if answer == "constant":
        value = _constant(place, value, spec)
    explore = 0
    if given.explore:
        try:
            explore = permille(given.explore)
        except KaizenError as error:
            raise _wrong(place, "explore", given.explore, error.what, []) from None
    kind = cast("Literal['naive', 'constant', 'refuse', 'release']", answer)
    return Rule(answer=kind, by=given.by, value=value, release=release, explore=explore, **when)


def _release(place: str, answer: str) -> str:
    try:
        name, number = parse_ref(answer)
    except KaizenError:
        number = None
    if number is None:
        raise _wrong(place, "answer", answer, f"{answer!r} is no answer: naive, constant, refuse, or a release such as shop@1", _PLAIN)
    return f"{name}@{number}"


def _constant(place: str, value: Any, spec: ModelSpec) -> Any:
    if spec.signature.task == "regression":
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _wrong(place, "value", value, f"{value!r} is not a number, as {spec.signature.target!r} is", [])
        return float(value)
    for known in spec.signature.classes:
        if known == value and isinstance(known, bool) == isinstance(value, bool):
            return known
    raise _wrong(place, "value", value, f"{value!r} is not a class of {spec.signature.target!r}", [str(known) for known in spec.signature.classes])


def _inputs(spec: ModelSpec) -> list[str]:
    """Return what a request to this model may hold."""
    signature = spec.signature
    beside = [name for name in (signature.key, signature.unit, signature.time, *(key for view in signature.views for key in view.entities)) if name]
    return list(dict.fromkeys([*(field.name for field in signature.fields), *beside, *spec.encoder.accepts]))


def _check_inputs(place: str, asked: dict[str, int], known: list[str], *, text: str) -> None:
    for name, position in asked.items():
        if name not in known:
            raise _wrong(place, "when", name, f"{text!r}: at character {position + 1}: the model takes no input {name!r}", known)


def _wrong(place: str, key: str, found: Any, what: str, known: Iterable[str]) -> InvalidSettings:
    choices = list(known)
    close = nearest(str(found), choices)
    hint = f"; did you mean {close!r}?" if close else f"; there is {', '.join(choices[:8])}" if choices else ""
    return InvalidSettings(
        f"kaizen.toml, {place}: {what}{hint}",
        remedy=f"mend {key} under {place} in kaizen.toml, then: kaizen rollouts publish",
        values={"place": place, "key": key, "found": found, "nearest": close, "known": choices[:50]},
    )
