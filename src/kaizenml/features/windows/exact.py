"""Sums of doubles over any range of a column, exact and rounded once, from prefix sums in whole numbers.

A double is a whole number times a power of two. Over a column these fit a few limbs of 32 bits each; limbs are added up in 64-bit
integers, which never round, so the difference of two prefixes is exact: there is nothing to cancel, however long the history. Rounding
to the nearest double, once, gives what ``math.fsum`` gives over the same values.

References
----------
R. M. Neal, Fast exact summation using small and large superaccumulators, 2015.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_BITS = 32
_MASK = np.int64(2**_BITS - 1)


class Limbs:
    """Finite doubles as limbs, with their prefix sums.

    >>> limbs = Limbs(np.array([1e16, 1.0, -1e16, 0.1]))
    >>> limbs.rounded(limbs.between(np.array([0, 0, 3]), np.array([3, 4, 3]))).tolist()
    [1.0, 1.1, 0.0]
    """

    def __init__(self, values: Float64) -> None:
        whole, exponents = parts(values)
        some = whole != 0
        self.base = int(exponents[some].min()) if some.any() else 0
        shift = np.where(some, exponents - self.base, 0)
        limb, rest = np.divmod(shift, _BITS)
        size = np.abs(whole)
        low = (size & _MASK) << rest
        high = (size >> _BITS) << rest
        high += low >> _BITS
        sign = np.sign(whole)
        self.limbs: Int64 = np.zeros((int(limb.max(initial=0)) + 3, len(values)), np.int64)
        places = np.arange(len(values))
        for offset, part in enumerate((low & _MASK, high & _MASK, high >> _BITS)):
            self.limbs[limb + offset, places] = sign * part
        self.prefix: Int64 = np.zeros((len(self.limbs), len(values) + 1), np.int64)
        np.cumsum(self.limbs, axis=1, out=self.prefix[:, 1:])

    def between(self, begin: Int64, end: Int64) -> Int64:
        """Return the limbs of the sums over [begin, end): (limbs, ranges)."""
        found: Int64 = self.prefix[:, end] - self.prefix[:, begin]
        return found

    def rounded(self, sums: Int64) -> Float64:
        """Return sums as the nearest doubles; infinite where they are beyond all doubles."""
        limbs = _carried(sums)
        negative = limbs[-1] < 0
        if negative.any():
            limbs[:, negative] = _carried(-sums[:, negative])
        top = len(limbs) - 1 - np.argmax((limbs != 0)[::-1], axis=0)
        columns = np.arange(limbs.shape[1])
        padded = np.vstack([np.zeros((2, limbs.shape[1]), np.int64), limbs]).astype(np.uint64)
        first, second, third = (padded[top + 2 - back, columns] for back in range(3))
        nonzero = np.cumsum(padded != 0, axis=0)
        below = nonzero[np.maximum(top - 1, 0), columns] > 0  # limbs under the third: they only decide ties
        lead = _BITS - np.frexp(first.astype(np.float64))[1].astype(np.int64)
        lead = np.where(first == 0, 0, lead).astype(np.uint64)
        taken = (first << np.uint64(_BITS) | second) << lead
        rest = third << lead
        taken |= rest >> np.uint64(_BITS)
        taken |= ((rest & np.uint64(_MASK)) != 0) | below  # a bit that says that there is more: rounding needs no other
        with np.errstate(over="ignore"):
            found = np.ldexp(taken.astype(np.float64), self.base + _BITS * (top - 1) - lead.astype(np.int64))
        signed: Float64 = np.where(negative, -found, found)
        return signed


def parts(values: Float64) -> tuple[Int64, Int64]:
    """Return finite doubles as odd whole numbers (or 0) and powers of two: value = whole * 2**exponent."""
    mantissa, exponent = np.frexp(values)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    zeros = np.frexp((whole & -whole).astype(np.float64))[1].astype(np.int64) - 1
    zeros[whole == 0] = 0
    return whole >> zeros, np.where(whole == 0, 0, exponent.astype(np.int64) - 53 + zeros)


def whole_numbers(values: npt.NDArray[Any]) -> tuple[npt.NDArray[np.object_], int]:
    """Return values as Python's whole numbers in units of 2**-shift, and that shift."""
    if values.dtype.kind != "f":
        return values.astype(np.int64).astype(object), 0
    whole, exponents = parts(values)
    shift = max(0, -int(exponents[whole != 0].min(initial=0)))
    scaled = [number << (exponent + shift) for number, exponent in zip(whole.tolist(), exponents.tolist(), strict=True)]
    found = np.empty(len(scaled), object)
    found[:] = scaled
    return found, shift


def _carried(sums: Int64) -> Int64:
    """Bring every limb but the last into 32 bits; the last, which is new, tells the sign."""
    limbs = np.vstack([sums, np.zeros((2, sums.shape[1]), np.int64)])
    for place in range(len(limbs) - 1):
        limbs[place + 1] += limbs[place] >> _BITS
        limbs[place] &= _MASK
    return limbs
