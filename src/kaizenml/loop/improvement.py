"""One turn of the wheel: from the reason to retrain to the challenger's fate. Pure rules, no I/O."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kaizenml.monitoring.pairs import Verdict

Step = Literal["collect", "train", "register", "release", "challenge", "watch", "done"]
STEPS: tuple[Step, ...] = ("collect", "train", "register", "release", "challenge", "watch", "done")
Result = Literal["promoted", "withdrawn", "refused", "failed"]


class Improvement(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt to make an endpoint better. ``step`` is what is to be done next; ``revision`` guards against two loops."""

    endpoint: str
    number: int
    step: Step
    trigger: str  # drift, accuracy, schedule, person
    why: str
    diagnosis: str = ""
    search: bool = False  # a full search instead of a refit of the champion's recipe
    after: int = 0  # labelled rows are collected from this cursor ...
    upto: int = 0  # ... up to this one
    dataset: str | None = None
    run: str | None = None
    model: str | None = None
    release: str | None = None
    against: str | None = None  # the champion it has to beat
    result: Result | None = None
    outcome: str = ""  # one sentence: what came of it
    attempts: int = 0  # of the current step
    started_at: float
    step_at: float
    revision: int = 0

    @property
    def token(self) -> str:
        """Names this improvement in everything it makes, so that a repeated step finds what the first try made."""
        return f"{self.endpoint}-{self.number}"

    def moved(self, step: Step, at: float, **changes: Any) -> Improvement:
        """Return the improvement at its next step."""
        return msgspec.structs.replace(self, step=step, step_at=at, attempts=0, revision=self.revision + 1, **changes)

    def ended(self, result: Result, outcome: str, at: float, **changes: Any) -> Improvement:
        """Return the improvement with its end."""
        return self.moved("done", at, result=result, outcome=outcome, **changes)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision to start an improvement looks at."""

    now: float
    killed: bool
    challengers: int
    diagnosis: str  # label
    action: str  # none, retrain, hold, rollback
    cause: str
    new_labelled: int  # labelled rows since the last collection
    min_new_rows: int
    trained_at: float  # of the champion's newest sibling
    ended_at: float  # of the last improvement
    cooldown_s: float
    retrain_after_s: float | None
    asked: str | None  # a person's wish, with the reason


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Begin an improvement."""

    trigger: str
    why: str


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Retraining would not help, or not now; ``why`` says which."""

    why: str


def should_start(facts: Facts) -> Start | Hold:
    """Decide whether to retrain now.

    Retraining answers a *model* that got worse. An upstream failure, odd labels or a killed
    endpoint hold it, whoever asks, because a model learnt from broken data would be worse.
    """
    if facts.killed:
        return Hold(why="the endpoint is killed; revive it first")
    if facts.action == "hold":
        return Hold(why=facts.cause)
    if facts.challengers:
        return Hold(why="a challenger is on trial")
    if facts.asked:
        return Start(trigger="person", why=facts.asked)
    if facts.new_labelled < facts.min_new_rows:
        return Hold(why=f"{facts.new_labelled} labelled rows since the last training, {facts.min_new_rows} are needed")
    if facts.ended_at and facts.now - facts.ended_at < facts.cooldown_s:
        return Hold(why="the last improvement ended too recently")
    if facts.action == "retrain":
        return Start(trigger="accuracy" if facts.diagnosis in ("concept", "shift") else "drift", why=facts.cause)
    if facts.retrain_after_s is not None and facts.now - facts.trained_at >= facts.retrain_after_s:
        return Start(trigger="schedule", why=f"{facts.new_labelled} new labelled rows and the schedule asks for a fresh model")
    return Hold(why="the model does as expected")


Judgement = Literal["promote", "withdraw", "wait"]

MARGIN = 0.05  # of the champion's loss: by how much a refit that is promoted may at most be worse
WEEK = 7  # days with labelled rows, so that each day of the week is among them


def judge(verdict: Verdict, *, refit: bool, age_s: float, max_age_s: float) -> tuple[Judgement, str]:
    """Decide a challenger's fate from the evidence so far.

    The evidence is valid however often one looks, so it is asked at every tick. A challenger has to be shown better: a change
    must earn its place. A refit of the champion's own recipe changes nothing but that it has learnt from newer data, and is
    expected to be a little better; as a champion that grows old is the greater risk, it only has to be shown not worse.

    Parameters
    ----------
    verdict : the challenger against the champion.
    refit : the loop made the challenger by the champion's own recipe from newer data.
    age_s, max_age_s : seconds since it was put on trial, and after which the trial ends.
    """
    if verdict.decision == "better":
        return "promote", "its loss is lower"
    if verdict.decision == "worse":
        return "withdraw", "its loss is higher"
    equal = verdict.low is not None and verdict.low > -MARGIN * verdict.loss
    if refit and equal and verdict.difference >= 0 and verdict.days >= WEEK:
        return "promote", f"the champion's recipe with newer data, and its loss is not higher by {MARGIN:.0%}"
    if age_s >= max_age_s:
        return "withdraw", "no difference was shown in the time allowed, so the champion stays"
    return "wait", "not enough evidence yet"
