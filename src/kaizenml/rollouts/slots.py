"""Slots: the thousand parts into which an endpoint's units fall, and which challenger has which.

Slots are remembered in the rollout instead of being computed from the weights, because only so does
a change of one weight move exactly the units it must: a challenger that grows keeps what it has and
takes from the champion alone, one that leaves gives back to the champion alone, and no other
challenger loses a unit to either.
"""

from __future__ import annotations

import zlib

SLOTS = 1000

Slots = list[tuple[int, int]]
"""Half-open ranges ``[low, high)`` of 0..1000, sorted and disjoint."""


def count(slots: Slots) -> int:
    """Return how many slots there are in the ranges."""
    return sum(high - low for low, high in slots)


def allot(have: Slots, wanted: int, taken: list[Slots], *, seed: str) -> Slots:
    """Return ``wanted`` slots: of those it has as many as possible, and more from those that nobody has taken.

    Where a challenger begins depends on ``seed`` (its release), so that successive trials do not try
    themselves on the same units again and again.

    >>> allot([(990, 1000)], 15, [[(0, 2)]], seed="shop@2")
    [(912, 917), (990, 1000)]
    """
    occupied = {slot for each in taken for low, high in each for slot in range(low, high)}
    own = {slot for low, high in have for slot in range(low, high)}
    begin = zlib.crc32(seed.encode()) % SLOTS
    # a walk round the circle from where this challenger begins: growing appends to it, shrinking cuts its end
    circle = [(begin + step) % SLOTS for step in range(SLOTS)]
    kept = [slot for slot in circle if slot in own][:wanted]
    fresh = [slot for slot in circle if slot not in own and slot not in occupied]
    return _ranges(sorted([*kept, *fresh[: wanted - len(kept)]]))


def _ranges(numbers: list[int]) -> Slots:
    ranges: Slots = []
    for number in numbers:
        if ranges and ranges[-1][1] == number:
            ranges[-1] = (ranges[-1][0], number + 1)
        else:
            ranges.append((number, number + 1))
    return ranges
