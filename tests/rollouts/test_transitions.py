from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kaizenml.errors import Conflict, UsageError
from kaizenml.rollouts import rollout as rules
from kaizenml.rollouts.rollout import Rollout, permille

RELEASES = [f"shop@{number}" for number in range(1, 8)]
releases = st.sampled_from(RELEASES)


def started() -> Rollout:
    return rules.start("shop", "shop@1")


class Endpoint(RuleBasedStateMachine):
    """Any sequence of changes, refused ones among them, keeps the laws."""

    def __init__(self) -> None:
        super().__init__()
        self.now = started()
        self.seen = [self.now.revision]

    def attempt(self, change: Callable[[Rollout], Rollout]) -> bool:
        before = self.now
        try:
            self.now = change(before)  # type: ignore[operator]
        except Conflict as error:
            self.now = before
            if not error.remedy:
                raise AssertionError(f"no remedy: {error.what}") from error
            return False
        assert self.now.revision == before.revision + 1
        return True

    @rule(release=releases)
    def deploy(self, release: str) -> None:
        former = self.now.champion
        if self.attempt(lambda now: rules.deploy(now, release)):
            assert (self.now.champion, self.now.previous[0]) == (release, former)

    @rule(release=releases, weight=st.integers(0, 1001))
    def challenge(self, release: str, weight: int) -> None:
        before = self.now
        if self.attempt(lambda now: rules.challenge(now, release, weight)):
            arm = self.now.arm(release)
            assert arm is not None
            assert arm.weight == weight
            for other in before.challengers:
                if other.release != release:
                    assert self.now.arm(other.release) == other  # nobody else loses or gains a unit
            old = before.arm(release)
            if old:
                smaller, larger = sorted((_slots(old.slots), _slots(arm.slots)), key=len)
                assert smaller <= larger

    @rule(release=st.none() | releases)
    def promote(self, release: str | None) -> None:
        former, others = self.now.champion, {arm.release: arm for arm in self.now.challengers}
        if self.attempt(lambda now: rules.promote(now, release)):
            others.pop(self.now.champion)
            assert {arm.release: arm for arm in self.now.challengers} == others
            back = rules.rollback(self.now)
            assert back.champion == former
            assert self.now.champion not in back.previous

    @rule(release=releases)
    def withdraw(self, release: str) -> None:
        if self.attempt(lambda now: rules.withdraw(now, release)):
            assert self.now.arm(release) is None

    @rule(to=st.none() | releases)
    def rollback(self, to: str | None) -> None:
        bad = self.now.champion
        if self.attempt(lambda now: rules.rollback(now, to)):
            assert self.now.champion != bad
            assert self.now.challengers == []
            assert self.now.champion_weight == 1000

    @rule(why=st.text(max_size=5))
    def kill(self, why: str) -> None:
        assert self.attempt(lambda now: rules.kill(now, why))

    @precondition(lambda self: self.now.killed)
    @rule()
    def revive(self) -> None:
        before = self.now
        assert self.attempt(rules.revive)
        assert self.now.challengers == before.challengers

    @rule(release=releases)
    def shadow(self, release: str) -> None:
        if self.attempt(lambda now: rules.shadow(now, release)):
            assert release in self.now.shadows

    @rule(release=releases)
    def unshadow(self, release: str) -> None:
        if self.attempt(lambda now: rules.unshadow(now, release)):
            assert release not in self.now.shadows

    @invariant()
    def laws_hold(self) -> None:
        rules.check(self.now)
        assert self.now.champion_weight + sum(arm.weight for arm in self.now.challengers) == 1000


def _slots(ranges: list[tuple[int, int]]) -> set[int]:
    return {slot for low, high in ranges for slot in range(low, high)}


TestEndpoint = Endpoint.TestCase
TestEndpoint.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_killed_endpoint_stays_killed_through_every_other_change() -> None:
    now = rules.kill(started(), "wrong prices")
    for change in (
        lambda r: rules.deploy(r, "shop@2"),
        lambda r: rules.challenge(r, "shop@3", 50),
        rules.promote,
        lambda r: rules.shadow(r, "shop@4"),
        lambda r: rules.challenge(r, "shop@5", 50),
        lambda r: rules.withdraw(r, "shop@5"),
        rules.rollback,
    ):
        now = change(now)
        assert now.killed == "wrong prices"
        assert now.state == "killed"
    assert rules.revive(now).killed is None


def test_the_release_that_is_rolled_back_is_not_where_the_next_rollback_goes() -> None:
    now = started()
    for release in ("shop@2", "shop@3"):
        now = rules.promote(rules.challenge(now, release, 50))
    now = rules.rollback(now)
    assert (now.champion, now.previous) == ("shop@2", ["shop@1"])
    now = rules.rollback(now)
    assert (now.champion, now.previous) == ("shop@1", [])
    with pytest.raises(Conflict, match="had no champion before"):
        rules.rollback(now)


def test_a_shadow_stays_one_while_others_come_and_go() -> None:
    now = rules.shadow(started(), "shop@1")
    now = rules.promote(rules.challenge(now, "shop@2", 50))
    assert now.shadows == ["shop@1"]


def test_promoting_without_a_name_needs_exactly_one_challenger() -> None:
    with pytest.raises(Conflict, match="has no challenger"):
        rules.promote(started())
    two = rules.challenge(rules.challenge(started(), "shop@2", 50), "shop@3", 50)
    with pytest.raises(Conflict, match=r"several challengers: shop@2, shop@3"):
        rules.promote(two)


def test_an_arm_keeps_its_name_when_another_leaves() -> None:
    now = rules.challenge(rules.challenge(started(), "shop@2", 50), "shop@3", 50)
    now = rules.withdraw(now, "shop@2")
    assert [arm.number for arm in now.challengers] == [2]
    assert rules.challenge(now, "shop@4", 50).arm("shop@4").number == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("share", "steps"), [(0.05, 50), (0.001, 1), (0.999, 999), (0.07, 70), (1 / 3, None), (0.0, None), (1.0, None), (float("nan"), None)]
)
def test_shares_are_read_in_steps_of_a_thousandth(share: float, steps: int | None) -> None:
    if steps is None:
        with pytest.raises(UsageError, match=r"0\.001 to 0\.999"):
            permille(share)
    else:
        assert permille(share) == steps
