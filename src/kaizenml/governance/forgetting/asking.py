"""What was asked to be forgotten, what came of it, and what is decided on releases that have learnt from it."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from kaizenml import events
from kaizenml.context import Context
from kaizenml.data import keys as project_keys
from kaizenml.data.people import left_out
from kaizenml.errors import Conflict, NotFound, UsageError
from kaizenml.features import operations as features
from kaizenml.governance.forgetting import carrying_out as forgetting
from kaizenml.governance.forgetting import certificate, naming
from kaizenml.governance.forgetting import subject as subjects
from kaizenml.governance.forgetting import wish as wishes
from kaizenml.governance.forgetting.certificate import Certificate
from kaizenml.governance.forgetting.subject import Subject
from kaizenml.governance.forgetting.wish import Learnt, Wish
from kaizenml.loop import operations as loop
from kaizenml.rollouts import operations as rollouts
from kaizenml.serving import operations as serving


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of a release that has learnt from someone who was forgotten since."""

    release: str
    decision: Literal["retrain", "keep", "open"]
    reason: str = ""
    by: str = ""
    at: float | None = None


class Forgetting(msgspec.Struct, frozen=True, kw_only=True):
    """A forgetting: done with its certificate, or what it would do."""

    number: int | None  # None: nothing was done
    done: bool
    removed: dict[str, int]  # by place; of a dry run, what would go
    learnt: list[Learnt]
    decisions: list[Decision]
    certificate: Certificate | None = None
    said: str = ""  # what to look at, or to do next


class Readmitted(msgspec.Struct, frozen=True, kw_only=True):
    """Persons whose rows are taken again."""

    subjects: int
    said: str


def carry_out(ctx: Context, wanted: list[Subject], why: str, progress: forgetting.Progress) -> Forgetting:
    """Forget; what an earlier call did not end goes first."""
    forgetting.check_moved(ctx)
    with forgetting.alone(ctx):
        left = wishes.unfinished(ctx.state)
        if not wanted and not left:
            raise UsageError("nothing says whom to forget", remedy="--subject customer_id=42", values={})
        naming.check(ctx, [each for each in wanted if not any(each in wish.subjects for wish in left)])
        made = [forgetting.run(ctx, wish, progress) for wish in left if wish.subjects != wanted]
        mine = next((wish for wish in left if wish.subjects == wanted), None)
        if wanted:
            made.append(forgetting.run(ctx, mine or _asked(ctx, wanted, why), progress))
    progress("done", 1.0)
    return shown(ctx, made[-1])


def settle(ctx: Context, release: str, decision: Literal["retrain", "keep"], why: str) -> list[Decision]:
    """Keep a decision, and ask for what it asks for."""
    listed = {each.release for made in certificate.every(ctx.state) for each in made.learnt}
    if release not in listed:
        values = {"release": release, "known": sorted(listed)}
        raise NotFound(f"no certificate lists the release {release!r}", remedy="kaizen data forgotten", values=values)
    if not why.strip():
        raise UsageError("a decision needs a reason", remedy='--why "..."', values={"release": release})
    with ctx.catalog.write() as connection:
        ctx.record(connection, "data.decided", release, why, decision=decision)
    if decision == "retrain":
        for rollout in rollouts.list(ctx):
            if release in (rollout.champion, *(arm.release for arm in rollout.challengers)):
                loop.ask(ctx, rollout.endpoint, why=f"{release} has learnt from someone who was forgotten")
    return decisions(ctx, sorted(listed))


def _asked(ctx: Context, wanted: list[Subject], why: str) -> Wish:
    numbers = [each.number for each in certificate.every(ctx.state)] + [each.number for each in wishes.unfinished(ctx.state)]
    wish = Wish(number=max(numbers, default=0) + 1, subjects=wanted, why=why, actor=ctx.actor, asked_at=ctx.clock.timestamp())
    wishes.save(ctx.state, wish)
    return wish


def let_in(ctx: Context, wanted: list[Subject], why: str) -> Readmitted:
    """Take subjects off the list of those whose rows are left out."""
    if not wanted or not why.strip():
        lacks = "whom" if not wanted else "why"
        raise UsageError(f"nothing says {lacks} to let in again", remedy='--subject customer_id=42 --why "..."', values={"lacks": lacks})
    keys = project_keys.open_keys(ctx.state)
    with forgetting.alone(ctx):
        if any(each in wish.subjects for wish in wishes.unfinished(ctx.state) for each in wanted):
            raise Conflict("one of them is just being forgotten", remedy="end it first: kaizen data forget", values={"subjects": len(wanted)})
        with ctx.catalog.write() as connection:
            for place, each in enumerate(wanted, 1):
                if not left_out.let_in(connection, keys, each.column, subjects.texts(each.value)):
                    raise NotFound(
                        f"rows of subject {place} (a {each.column}) are not left out: nobody of this value was forgotten, or somebody let them in",
                        remedy="name the column and the value as they were forgotten",
                        values={"column": each.column, "place": place},
                    )
            told = [{"column": each.column, "digest": keys.digest(f"{each.column}={each.value}")} for each in wanted]
            ctx.record(connection, "data.readmitted", f"{len(wanted)} subjects", why, subjects=told)
        features.publish(ctx)
    said = "their rows are taken again; what was left out has to be added again"
    return Readmitted(subjects=len(wanted), said=said)


def would(ctx: Context, wanted: list[Subject], why: str) -> Forgetting:
    """Say what a forgetting would remove; nothing is changed but that the journal is drained."""
    if not wanted:
        raise UsageError("nothing says whom to forget", remedy="--subject customer_id=42", values={})
    naming.check(ctx, wanted)
    serving.drain(ctx)
    wish = Wish(number=0, subjects=wanted, why=why, actor=ctx.actor, asked_at=ctx.clock.timestamp())
    forgetting.look(ctx, wish, project_keys.open_keys(ctx.state))
    said = _said(ctx, [each.column for each in wanted], sum(wish.found.values()), [])
    return Forgetting(number=None, done=False, removed=wish.found, learnt=wish.learnt, decisions=[], said=said)


def shown(ctx: Context, made: Certificate) -> Forgetting:
    """Return a forgetting that is done as it is told."""
    removed, decided = {place.name: place.removed for place in made.places}, decisions(ctx, [each.release for each in made.learnt])
    open_ = [each.release for each in decided if each.decision == "open"]
    said = _said(ctx, [each["column"] for each in made.subjects], sum(removed.values()), open_)
    return Forgetting(number=made.number, done=True, removed=removed, learnt=made.learnt, decisions=decided, certificate=made, said=said)


def _said(ctx: Context, columns: list[str], found: int, undecided: list[str]) -> str:
    said = naming.not_kept(ctx, columns)
    if not found:
        said += naming.absent(ctx, columns) or [f"Nothing of theirs was found: is {' or '.join(dict.fromkeys(columns))} written as in the rows?"]
    if undecided:
        said.append(f"Decide on {', '.join(undecided)}: kaizen data decide {undecided[0]} --decision retrain --why ...")
    return " ".join(said)


def decisions(ctx: Context, names: list[str]) -> list[Decision]:
    """Return what is decided on releases; the newest decision on each stands."""
    with ctx.catalog.read() as connection:
        told = {event.subject: event for event in events.read(connection, kind="data.decided")}  # the newest stands
    found = []
    for name in names:
        event = told.get(name)
        if event is None:
            found.append(Decision(release=name, decision="open"))
        else:
            found.append(Decision(release=name, decision=event.data["decision"], reason=event.why, by=event.actor, at=event.at))
    return found


def check_why(why: str, wanted: list[Subject]) -> None:
    """Raise UsageError when a reason, which is kept, names the subject."""
    for each in wanted:
        if re.search(rf"(?<!\w){re.escape(each.value)}(?!\w)", why):
            what = f"the reason names the {each.column} that is to be forgotten, and reasons are kept"
            raise UsageError(what, remedy="say it without", values={"column": each.column})
