"""What a person may do to an endpoint from the console: each says what it will do, asks once, and is recorded with its reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from kaizenml.charts import percent
from kaizenml.context import Context
from kaizenml.errors import NotFound, UsageError
from kaizenml.loop import operations as loop
from kaizenml.releases import operations as releases
from kaizenml.rollouts import operations as rollouts
from kaizenml.rollouts.rollout import WHOLE, Rollout


class Choice(NamedTuple):
    """Something to choose or fill in before the act; without ``options`` it is a text field."""

    name: str
    label: str
    value: str
    options: list[tuple[str, str]]


class Question(NamedTuple):
    """The confirmation of one act."""

    heading: str
    effect: str
    button: str
    danger: bool = False
    why_required: bool = False
    choices: tuple[Choice, ...] = ()
    revision: int | None = None  # what the asker saw; a change in between is a conflict, not a surprise


class Offer(NamedTuple):
    """A button."""

    verb: str
    label: str
    danger: bool = False


def offers(rollout: Rollout) -> list[Offer]:
    """Return the buttons that make sense now, the daily ones first."""
    found = []
    if rollout.challengers:
        found.append(Offer("promote", "Promote"))
    if rollout.previous:
        found.append(Offer("rollback", "Rollback"))
    found.append(Offer("revive", "Revive") if rollout.killed else Offer("kill", "Kill", danger=True))
    return found


def more_offers(rollout: Rollout) -> list[Offer]:
    """Return the buttons that stand on the endpoint's own page only."""
    rare = [Offer("improve", "Improve now"), Offer("challenge", "Try a release")]
    if rollout.challengers:
        rare.append(Offer("withdraw", "Withdraw"))
    return rare


def ask(ctx: Context, endpoint: str, verb: str, given: Mapping[str, str]) -> Question:
    """Say what ``verb`` would do to the endpoint as it is now.

    Raises
    ------
    NotFound : there is no such endpoint or no such act.
    """
    rollout = rollouts.show(ctx, endpoint)
    question = _QUESTIONS.get(verb)
    if question is None:
        raise NotFound(f"{verb!r} is nothing the console can do to an endpoint", remedy=f"one of {', '.join(sorted(_QUESTIONS))}")
    found: Question = question(ctx, rollout, given)
    return found


def act(ctx: Context, endpoint: str, verb: str, given: Mapping[str, str]) -> None:
    """Do it, through the operation that every other face uses."""
    why = given.get("why", "").strip()
    release = given.get("release") or None
    revision = _whole(given.get("revision"))
    if verb == "promote":
        rollouts.promote(ctx, endpoint, release, why=why, revision=revision)
    elif verb == "rollback":
        rollouts.rollback(ctx, endpoint, to=release, why=why, revision=revision)
    elif verb == "kill":  # whatever changed in between: who wants to kill, kills
        rollouts.kill(ctx, endpoint, why=why)
    elif verb == "revive":
        rollouts.revive(ctx, endpoint, why=why)
    elif verb == "withdraw":
        rollouts.withdraw(ctx, endpoint, release or "", why=why, revision=revision)
    elif verb == "challenge":
        rollouts.challenge(ctx, endpoint, release or "", weight=_share(given.get("weight", "")), why=why, revision=revision)
    elif verb == "improve":
        loop.ask(ctx, endpoint, why=why or "asked for in the console")
    else:
        raise NotFound(f"{verb!r} is nothing the console can do to an endpoint", remedy=f"one of {', '.join(sorted(_QUESTIONS))}")


def _promote(_ctx: Context, rollout: Rollout, given: Mapping[str, str]) -> Question:
    options = [(arm.release, f"{arm.release}, now {percent(arm.weight / WHOLE)}") for arm in rollout.challengers]
    if not options:
        raise NotFound(f"{rollout.endpoint} has no challenger to promote", remedy="try a release first")
    chosen = given.get("release") or options[0][0]
    others = [arm for arm in rollout.challengers if arm.release != chosen]
    rest = f" {', '.join(arm.release for arm in others)} keeps its share." if others else ""
    effect = f"{chosen if len(options) == 1 else 'The release you choose'} becomes champion and takes over the traffic of {rollout.champion}.{rest}"
    return Question(
        heading=f"Promote {chosen if len(options) == 1 else 'a challenger'} on {rollout.endpoint}?",
        effect=f"{effect} {rollout.champion} stays ready for a rollback.",
        button="Promote",
        choices=(Choice("release", "Which challenger", chosen, options),) if len(options) > 1 else (Choice("release", "Release", chosen, options),),
        revision=rollout.revision,
    )


def _rollback(_ctx: Context, rollout: Rollout, given: Mapping[str, str]) -> Question:
    options = [(release, release) for release in rollout.previous]
    if not options:
        raise NotFound(f"{rollout.endpoint} has had no champion before {rollout.champion}", remedy="kill the endpoint if it must not answer")
    arms = ", ".join(arm.release for arm in rollout.challengers)
    return Question(
        heading=f"Roll {rollout.endpoint} back?",
        effect=f"The release below answers all of {rollout.endpoint} again, {rollout.champion} stops answering"
        + (f", and {arms} leaves the trial." if arms else "."),
        button="Roll back",
        danger=True,
        choices=(Choice("release", "Back to", given.get("release") or options[0][0], options),),
        revision=rollout.revision,
    )


def _kill(_ctx: Context, rollout: Rollout, _given: Mapping[str, str]) -> Question:
    return Question(
        heading=f"Kill {rollout.endpoint}?",
        effect=f"Within a second no model answers {rollout.endpoint} any more: every answer is the naive one, marked as such, "
        "until somebody revives it. Requests keep being answered and recorded.",
        button=f"Kill {rollout.endpoint}",
        danger=True,
        why_required=True,
    )


def _revive(_ctx: Context, rollout: Rollout, _given: Mapping[str, str]) -> Question:
    arms = "".join(f", {arm.release} with {percent(arm.weight / WHOLE)}" for arm in rollout.challengers)
    since = f" It was killed because: {rollout.killed}." if rollout.killed else ""
    return Question(
        heading=f"Revive {rollout.endpoint}?",
        effect=f"Within a second the models answer again: {rollout.champion} with {percent(rollout.champion_weight / WHOLE)}{arms}.{since}",
        button="Revive",
    )


def _withdraw(_ctx: Context, rollout: Rollout, given: Mapping[str, str]) -> Question:
    options = [(arm.release, f"{arm.release}, now {percent(arm.weight / WHOLE)}") for arm in rollout.challengers]
    if not options:
        raise NotFound(f"{rollout.endpoint} has no challenger to withdraw", remedy="look at the endpoint again")
    return Question(
        heading=f"Withdraw a challenger from {rollout.endpoint}?",
        effect=f"Its share of the traffic goes back to {rollout.champion}. The release itself stays.",
        button="Withdraw",
        choices=(Choice("release", "Which challenger", given.get("release") or options[0][0], options),),
        revision=rollout.revision,
    )


def _challenge(ctx: Context, rollout: Rollout, given: Mapping[str, str]) -> Question:
    passed = [release.ref for release in releases.list(ctx) if release.state == "passed" and release.ref != rollout.champion]
    if not passed:
        raise NotFound("there is no other release that passed its gates", remedy="kaizen improve, or kaizen train and kaizen releases create")
    newest = given.get("release") or passed[0]
    weight = f"{ctx.settings.loop.canary_weight * 100:g}"
    return Question(
        heading=f"Try a release on {rollout.endpoint}?",
        effect="It answers the share below, always the same units. The rest stays as it is, and every answer of one release is "
        "compared with what the other would have said.",
        button="Start the trial",
        choices=(
            Choice("release", "Release", newest, [(ref, ref) for ref in passed]),
            Choice("weight", "Share of the traffic, in per cent (0.1 to 99.9)", weight, []),
        ),
        revision=rollout.revision,
    )


def _improve(_ctx: Context, rollout: Rollout, _given: Mapping[str, str]) -> Question:
    return Question(
        heading=f"Improve {rollout.endpoint} now?",
        effect="At its next look the loop trains on everything that was labelled since, sends the release through the gates, and tries it on a small "
        "share of the traffic. Nothing is promoted without evidence.",
        button="Improve",
    )


_QUESTIONS: dict[str, Any] = {
    "promote": _promote, "rollback": _rollback, "kill": _kill, "revive": _revive, "withdraw": _withdraw, "challenge": _challenge, "improve": _improve,
}  # fmt: skip


def _share(text: str) -> float:
    try:
        return round(float(text.replace(",", ".").strip().rstrip("%")) / 100, 6)
    except ValueError:
        raise UsageError(f"{text[:40]!r} is not a number of per cent", remedy="for example 5", values={"found": text[:40]}) from None


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None
