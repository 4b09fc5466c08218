from __future__ import annotations

import timeit
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.errors import Conflict
from kaizenml.releases.release import Pins, Release
from kaizenml.rollouts import rollout as rules
from kaizenml.rollouts.assign import choose, slot
from kaizenml.rollouts.publishing import derive
from kaizenml.rollouts.rollout import Rollout
from kaizenml.rollouts.slots import allot, count
from kaizenml.rollouts.snapshot import EndpointRoute, Lineage, Route

UNITS = [f"customer-{number}" for number in range(20_000)]


def routed(now: Rollout) -> EndpointRoute:
    names = {now.champion, *(arm.release for arm in now.challengers), *now.shadows}
    return derive([now], {name: released(name) for name in names}, at=0.0).endpoints[now.endpoint]


def released(ref: str) -> Release:
    name, _, number = ref.partition("@")
    pins = Pins(model=ref, model_hash="", data=["d@1"], data_hashes=[""], features=[], code=None, libraries={}, libraries_hash="")
    place = f"releases/{name}/{number}"
    return Release(name=name, number=int(number), hash="", pins=pins, gates=[], state="passed", bundle=place, why="", created_at=0.0)


def arms(now: Rollout) -> list[str]:
    route = routed(now)
    return [route.arms[choose(route, unit)].release for unit in UNITS]


def moved(before: list[str], after: list[str]) -> Counter[tuple[str, str]]:
    return Counter((old, new) for old, new in zip(before, after, strict=True) if old != new)


def test_units_fall_to_arms_by_weight() -> None:
    now = rules.challenge(rules.challenge(rules.start("shop", "shop@1"), "shop@2", 50), "shop@3", 200)
    shares = Counter(arms(now))
    for release, weight in (("shop@1", 0.75), ("shop@2", 0.05), ("shop@3", 0.2)):
        expected = weight * len(UNITS)
        assert abs(shares[release] - expected) < 5 * (expected * (1 - weight)) ** 0.5


def test_a_growing_challenger_keeps_its_units_and_takes_only_from_the_champion() -> None:
    first = rules.challenge(rules.challenge(rules.start("shop", "shop@1"), "shop@2", 50), "shop@3", 100)
    grown = rules.challenge(first, "shop@2", 300)
    assert set(moved(arms(first), arms(grown))) == {("shop@1", "shop@2")}


def test_a_shrinking_or_leaving_challenger_gives_back_only_to_the_champion() -> None:
    first = rules.challenge(rules.challenge(rules.start("shop", "shop@1"), "shop@2", 300), "shop@3", 100)
    assert set(moved(arms(first), arms(rules.challenge(first, "shop@2", 50)))) == {("shop@2", "shop@1")}
    assert set(moved(arms(first), arms(rules.withdraw(first, "shop@2")))) == {("shop@2", "shop@1")}


def test_promotion_moves_only_the_former_champions_units() -> None:
    first = rules.challenge(rules.challenge(rules.start("shop", "shop@1"), "shop@2", 300), "shop@3", 100)
    assert set(moved(arms(first), arms(rules.promote(first, "shop@2")))) == {("shop@1", "shop@2")}


@settings(max_examples=200, deadline=None)
@given(
    weights=st.lists(st.integers(1, 400), min_size=1, max_size=4),
    new=st.integers(1, 400),
    which=st.integers(0, 3),
)
def test_any_change_of_weight_moves_exactly_the_difference(weights: list[int], new: int, which: int) -> None:
    taken: list[list[tuple[int, int]]] = []
    for number, weight in enumerate(weights):
        if sum(weights[: number + 1]) > 999:
            break
        taken.append(allot([], weight, taken, seed=f"shop@{number}"))
    place = which % len(taken)
    others = [each for number, each in enumerate(taken) if number != place]
    new = min(new, 999 - sum(count(each) for each in others))
    if new < 1:
        return
    after = allot(taken[place], new, others, seed=f"shop@{place}")
    before_set, after_set = ({s for low, high in each for s in range(low, high)} for each in (taken[place], after))
    assert len(after_set) == new
    assert len(before_set ^ after_set) == abs(len(before_set) - new)
    assert not after_set & {s for each in others for low, high in each for s in range(low, high)}
    assert after == sorted(after)


def test_slots_are_even_and_unrelated_between_endpoints_and_to_near_names() -> None:
    for units in (UNITS, [str(number) for number in range(20_000)], [f"{number:032x}" for number in range(20_000)]):
        counts = Counter(slot("shop", unit) for unit in units)
        chi_square = sum((counts[s] - 20.0) ** 2 / 20.0 for s in range(1000))
        assert chi_square < 1250  # 999 degrees of freedom: the chance of more is 1e-7
        both = sum(slot("shop", unit) < 100 and slot("cinema", unit) < 100 for unit in units)
        assert 120 < both < 280  # 200 when independent


def test_a_unit_has_the_same_slot_for_ever() -> None:
    assert [slot("shop", unit) for unit in ("customer-1", "customer-2", "é")] == [516, 922, 369]


def test_routes_without_slots_are_shared_out_by_weight() -> None:
    lineage = Lineage(model="m@1", data="d@1", features=[], code=None, hash="h")
    route = EndpointRoute(
        endpoint="shop",
        revision=1,
        arms=[Route(release=f"shop@{n}", bundle="", weight=w, arm="x", lineage=lineage) for n, w in ((1, 850), (2, 50), (3, 100))],
    )
    for unit in UNITS[:2000]:
        point = slot("shop", unit)
        assert choose(route, unit) == (1 if point < 50 else 2 if point < 150 else 0)


def test_choosing_takes_about_a_microsecond() -> None:
    route = routed(rules.challenge(rules.challenge(rules.start("shop", "shop@1"), "shop@2", 50), "shop@3", 200))
    best = min(timeit.repeat(lambda: choose(route, "customer-123456"), number=5000, repeat=20)) / 5000
    assert best < 5e-6  # 0.4 us on a quiet machine
    print(f"choose: {best * 1e6:.2f} us")


STEPS = st.lists(
    st.tuples(st.sampled_from(["challenge", "challenge", "withdraw", "promote", "deploy", "rollback"]), st.integers(1, 6), st.integers(1, 999)),
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
def test_every_change_moves_as_few_units_as_its_weights_allow(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is done, and in whatever order: the units that change their release are exactly those that a release gained."""
    now = rules.start("shop", "shop@1")
    before = by_slot(now)
    for verb, number, weight in steps:
        release = f"shop@{number}"
        changes = {
            "challenge": lambda: rules.challenge(now, release, weight),  # noqa: B023  (called at once)
            "withdraw": lambda: rules.withdraw(now, release),  # noqa: B023
            "promote": lambda: rules.promote(now, release),  # noqa: B023
            "deploy": lambda: rules.deploy(now, release),  # noqa: B023
            "rollback": lambda: rules.rollback(now, release),  # noqa: B023
        }
        try:
            now = changes[verb]()
        except Conflict:
            continue
        after = by_slot(now)
        had, has = Counter(before), Counter(after)
        gained = sum(max(0, has[each] - had[each]) for each in has)
        assert sum(old != new for old, new in zip(before, after, strict=True)) == gained
        before = after


UNIT_OF_SLOT = {slot("shop", unit): unit for unit in UNITS}  # a unit in every slot


def by_slot(now: Rollout) -> list[str]:
    route = routed(now)
    return [route.arms[choose(route, UNIT_OF_SLOT[number])].release for number in range(1000)]
