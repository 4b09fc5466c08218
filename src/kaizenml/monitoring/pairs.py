"""Paired differences: two releases on the same labelled rows. Sums by hour that merge by addition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from kaizenml.monitoring import sequential
from kaizenml.monitoring.live import HOURS

PairState = npt.NDArray[np.float64]
"""(24, 3): rows, sum of (loss of ``one`` - loss of ``other``), sum of its squares."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the challenger is better than the release it is compared with. Valid however often one asks.

    ``difference`` is the mean loss of ``against`` minus that of ``challenger`` on the same labelled rows: positive is good for
    the challenger. ``low`` and ``high`` are its bounds, None while there is too little to tell.
    """

    challenger: str
    against: str
    decision: Literal["better", "worse", "undecided"]
    difference: float
    low: float | None
    high: float | None
    loss: float  # mean loss of ``against`` on these days
    rows: int
    blocks: int  # hours with labelled rows
    days: int
    level: float  # chance of a wrong decision, over all looks
    needed_rows: int | None  # in all, should the difference stay what it is; None: cannot be told, or decided
    why: str  # one sentence


def fold(difference: npt.NDArray[np.float64], hours: npt.NDArray[np.int64]) -> PairState:
    """Sum differences of one day by hour (0..23)."""
    return np.stack(
        [np.bincount(hours, weights=weights, minlength=HOURS)[:HOURS] for weights in (np.ones(len(difference)), difference, np.square(difference))],
        axis=1,
    )


def judge(challenger: str, against: str, days: Mapping[str, PairState], *, sign: float, loss: float, level: float) -> Verdict:
    """Judge from the sums of all days.

    ``sign`` is 1 where they hold loss of ``against`` minus loss of ``challenger``, else -1; ``loss`` is the mean loss of ``against``.
    """
    ordered = [days[day] for day in sorted(days)]
    hours = np.concatenate(ordered) if ordered else np.zeros((0, 3))
    groups = np.repeat(np.arange(len(ordered)), HOURS)
    seen = sequential.interval(sign * hours[:, 1], hours[:, 0], level=level, groups=groups)
    decision: Literal["better", "worse", "undecided"] = "better" if seen.low > 0 else "worse" if seen.high < 0 else "undecided"
    if decision == "undecided" and not np.isfinite(seen.low):
        # a gross harm is not watched for days: hours alone, at twice the radius, since they may move together
        early = sequential.interval(sign * hours[:, 1], hours[:, 0], level=level)
        if early.mean + 2.0 * (early.high - early.mean) < 0:
            decision, seen = "worse", early
    open_ended = not np.isfinite(seen.low)
    needed = sequential.needed_rows(seen) if decision == "undecided" else None
    return Verdict(
        challenger=challenger, against=against, decision=decision, difference=seen.mean,
        low=None if open_ended else seen.low, high=None if open_ended else seen.high, loss=loss, rows=seen.rows, blocks=seen.blocks,
        days=int(sum(state[:, 0].sum() > 0 for state in ordered)), level=level, needed_rows=needed,
        why=_sentence((challenger, against), decision, seen, needed),
    )  # fmt: skip


def _sentence(releases: tuple[str, str], decision: str, seen: sequential.Interval, needed: int | None) -> str:
    challenger, against = releases
    if seen.rows == 0:
        return f"no labelled row was answered by both {challenger} and {against} yet"
    shown = f"{abs(seen.mean):.4f} {'lower' if seen.mean >= 0 else 'higher'} on {seen.rows:,} labelled rows"
    if decision != "undecided":
        return f"the loss of {challenger} is {shown} than that of {against} (from {seen.low:+.4f} to {seen.high:+.4f})"
    if not np.isfinite(seen.low):
        return f"the loss of {challenger} is {shown} than that of {against}: too few hours or days to judge"
    more = f"; some {needed:,} rows would decide" if needed else ""
    return f"the loss of {challenger} is {shown} than that of {against}, which chance may explain{more}"
