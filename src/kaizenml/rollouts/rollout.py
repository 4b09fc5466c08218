"""The rollout of an endpoint: which releases answer it, and how that may change. Pure: no I/O, no clock."""

from __future__ import annotations

from typing import Literal

import msgspec

from kaizenml.errors import Conflict, UsageError
from kaizenml.rollouts.slots import Slots, allot, count

WHOLE = 1000
"""All traffic, in the steps in which it is shared out (0.1 %)."""


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger with its share of the traffic, in 1/1000, and the slots of units that it has until it leaves."""

    release: str
    weight: int
    number: int = 1  # it is called ``challenger-{number}`` as long as it runs
    slots: Slots = []


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an endpoint. Changes only through the transitions below it; each raises ``revision`` by one."""

    endpoint: str
    revision: int
    champion: str  # release name@number
    challengers: list[Arm] = []
    shadows: list[str] = []  # releases that see all traffic, and stay so whatever becomes of them as arms
    killed: str | None = None  # why
    previous: list[str] = []  # former champions, newest first: where rollback goes

    @property
    def state(self) -> Literal["steady", "canary", "killed"]:
        return "killed" if self.killed else "canary" if self.challengers else "steady"

    @property
    def champion_weight(self) -> int:
        """What the challengers leave, in 1/1000."""
        return WHOLE - sum(arm.weight for arm in self.challengers)

    def arm(self, release: str) -> Arm | None:
        """Return the challenger with this release, or None."""
        return next((arm for arm in self.challengers if arm.release == release), None)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One step in an endpoint's history: who did what and why, and the rollout as it was afterwards."""

    endpoint: str
    revision: int
    verb: str  # deployed, challenged, reweighted, promoted, withdrawn, rolled_back, killed, revived, shadowed, unshadowed
    release: str | None
    at: float
    actor: str
    why: str
    rollout: Rollout


def start(endpoint: str, release: str) -> Rollout:
    """Return the first rollout of an endpoint: one champion with all traffic."""
    return Rollout(endpoint=endpoint, revision=1, champion=release)


def deploy(rollout: Rollout, release: str) -> Rollout:
    """Make ``release`` champion at once, without a trial; challengers keep their shares."""
    if release == rollout.champion:
        raise _conflict(rollout, f"{release} is already champion of {rollout.endpoint}", "kaizen status")
    return _crowned(rollout, release)


def challenge(rollout: Rollout, release: str, weight: int) -> Rollout:
    """Give ``release`` ``weight``/1000 of the traffic; a challenger that is already there gets the new weight.

    The units it has stay with it when its weight grows, and no other challenger loses one of its own.
    """
    if release == rollout.champion:
        raise _conflict(rollout, f"{release} is champion of {rollout.endpoint}; it cannot challenge itself", "kaizen status")
    old = rollout.arm(release)
    if old and old.weight == weight:
        raise _conflict(rollout, f"{release} already has {weight / 10:g} % of {rollout.endpoint}", "kaizen status")
    others = [arm for arm in rollout.challengers if arm is not old]
    free = WHOLE - sum(arm.weight for arm in others) - 1  # the champion keeps at least one slot
    if not 1 <= weight <= free:
        raise _conflict(
            rollout,
            f"{weight / 10:g} % is not to be had on {rollout.endpoint}: challengers have {(WHOLE - free - 1) / 10:g} %, and the champion keeps 0.1 %",
            f"ask for 0.1 % to {free / 10:g} %" if free else "withdraw a challenger first",
            weight=weight,
            free=free,
        )
    taken = [arm.slots for arm in others]
    number = old.number if old else next(n for n in range(1, WHOLE + 1) if all(arm.number != n for arm in others))
    arm = Arm(release=release, weight=weight, number=number, slots=allot(old.slots if old else [], weight, taken, seed=release))
    challengers = [arm if each is old else each for each in rollout.challengers] if old else [*rollout.challengers, arm]
    return _next(rollout, challengers=challengers)


def promote(rollout: Rollout, release: str | None = None) -> Rollout:
    """Make a challenger champion; None means the only one there is. Other challengers keep their shares."""
    if release is None:
        if len(rollout.challengers) != 1:
            names = ", ".join(arm.release for arm in rollout.challengers)
            what = f"{rollout.endpoint} has several challengers: {names}" if names else f"{rollout.endpoint} has no challenger"
            remedy = "name the one to promote" if names else f"kaizen rollouts challenge {rollout.endpoint} RELEASE"
            raise _conflict(rollout, what, remedy)
        release = rollout.challengers[0].release
    elif release == rollout.champion:
        raise _conflict(rollout, f"{release} is already champion of {rollout.endpoint}", "kaizen status")
    elif rollout.arm(release) is None:
        remedy = f"kaizen rollouts challenge {rollout.endpoint} {release}, or without a trial: kaizen rollouts deploy {rollout.endpoint} {release}"
        raise _conflict(rollout, f"{release} does not challenge {rollout.endpoint}", remedy)
    return _crowned(rollout, release)


def withdraw(rollout: Rollout, release: str) -> Rollout:
    """Take a challenger out; its units return to the champion, nobody else's move."""
    if rollout.arm(release) is None:
        known = [arm.release for arm in rollout.challengers]
        remedy = f"withdraw {known[0]}" if known else "kaizen status"
        raise _conflict(rollout, f"{release} does not challenge {rollout.endpoint}", remedy, challengers=known)
    return _next(rollout, challengers=[arm for arm in rollout.challengers if arm.release != release])


def rollback(rollout: Rollout, to: str | None = None) -> Rollout:
    """Return to the champion before this one, or to ``to``; every challenger leaves, so that all traffic is on one known release.

    The champion that is left does not become a place to roll back to.
    """
    if to == rollout.champion:
        raise _conflict(rollout, f"{to} is already champion of {rollout.endpoint}", "kaizen status")
    if to is None and not rollout.previous:
        remedy = f"kaizen rollback {rollout.endpoint} --to RELEASE, or stop it answering with the model: kaizen kill {rollout.endpoint}"
        raise _conflict(rollout, f"{rollout.endpoint} has had no champion before {rollout.champion}", remedy)
    target = to or rollout.previous[0]
    older = rollout.previous[rollout.previous.index(target) + 1 :] if target in rollout.previous else rollout.previous
    return _next(rollout, champion=target, previous=list(older), challengers=[])


def kill(rollout: Rollout, why: str) -> Rollout:
    """Let no model answer any more: answers are naive until ``revive``. Killing twice changes only the reason."""
    return _next(rollout, killed=why or "killed by hand")


def revive(rollout: Rollout) -> Rollout:
    """Let the models answer again, with the weights as they are now."""
    if rollout.killed is None:
        raise _conflict(rollout, f"{rollout.endpoint} is not killed", "kaizen status")
    return _next(rollout, killed=None)


def shadow(rollout: Rollout, release: str) -> Rollout:
    """Let ``release`` see all traffic from now on, whoever answers it: a yardstick that no promotion moves."""
    if release in rollout.shadows:
        raise _conflict(rollout, f"{release} is already a shadow of {rollout.endpoint}", "kaizen status")
    return _next(rollout, shadows=[*rollout.shadows, release])


def unshadow(rollout: Rollout, release: str) -> Rollout:
    """Let a shadow see no more traffic."""
    if release not in rollout.shadows:
        raise _conflict(rollout, f"{release} is no shadow of {rollout.endpoint}", "kaizen status", shadows=rollout.shadows)
    return _next(rollout, shadows=[each for each in rollout.shadows if each != release])


def permille(weight: float) -> int:
    """Read a share of 0.001 to 0.999 in steps of 0.001.

    >>> permille(0.05)
    50
    """
    steps = round(weight * WHOLE) if 0.0 < weight < 1.0 else 0
    if not 1 <= steps < WHOLE or abs(weight * WHOLE - steps) > 1e-6:
        what = f"{weight!r} is not a share of traffic: 0.001 to 0.999, in steps of 0.001 (0.1 %)"
        raise UsageError(what, remedy="for example 0.05 for 5 %", values={"weight": weight})
    return steps


def check(rollout: Rollout) -> None:
    """Assert what holds in every state; a failure is a fault of ours."""
    slots = [slot for arm in rollout.challengers for low, high in arm.slots for slot in range(low, high)]
    arms = [rollout.champion, *(arm.release for arm in rollout.challengers)]
    laws = {
        "the champion has traffic": bool(rollout.champion) and rollout.champion_weight >= 1,
        "weights are slots": all(arm.weight >= 1 and arm.weight == count(arm.slots) for arm in rollout.challengers),
        "no slot is held twice": len(slots) == len(set(slots)) and all(0 <= slot < WHOLE for slot in slots),
        "no release is two arms": len(arms) == len(set(arms)),
        "no arm number is given twice": len({arm.number for arm in rollout.challengers}) == len(rollout.challengers),
        "no release shadows twice": len(rollout.shadows) == len(set(rollout.shadows)),
        "the champion is not its own past": rollout.champion not in rollout.previous and len(rollout.previous) == len(set(rollout.previous)),
    }
    broken = [law for law, holds in laws.items() if not holds]
    assert not broken, (broken, rollout)


def _crowned(rollout: Rollout, release: str) -> Rollout:
    former = [rollout.champion, *(each for each in rollout.previous if each not in (release, rollout.champion))]
    challengers = [arm for arm in rollout.challengers if arm.release != release]
    return _next(rollout, champion=release, previous=former, challengers=challengers)


def _next(rollout: Rollout, **changes: object) -> Rollout:
    after = msgspec.structs.replace(rollout, revision=rollout.revision + 1, **changes)
    check(after)
    return after


def _conflict(rollout: Rollout, what: str, remedy: str, **values: object) -> Conflict:
    return Conflict(what, remedy=remedy, values={"endpoint": rollout.endpoint, "champion": rollout.champion, **values})
