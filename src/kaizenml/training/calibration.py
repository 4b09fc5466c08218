"""Calibration: make 20 % mean 20 %. One slope and one shift, fitted on validation rows, kept only when it helps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kaizenml.training.model_file import Calibration

Floats = npt.NDArray[np.float64]
_TINY = 1e-15  # probabilities are kept this far from 0 and 1 before a logarithm; the runtimes do the same
_STEPS = 50


def apply(calibration: Calibration, probabilities: Floats) -> Floats:
    """Return calibrated probabilities (rows x classes): ``sigmoid(a * logit(p) + b)``, or ``softmax(a * log p)`` for several classes."""
    if calibration.a == 1.0 and calibration.b == 0.0:
        return probabilities
    p = np.clip(probabilities, _TINY, 1 - _TINY)
    if probabilities.shape[1] == 2:
        positive = _sigmoid(calibration.a * (np.log(p[:, 1]) - np.log1p(-p[:, 1])) + calibration.b)
        return np.column_stack([1 - positive, positive])
    powered = np.exp(calibration.a * (np.log(p) - np.log(p.max(axis=1, keepdims=True))))
    return np.asarray(powered / powered.sum(axis=1, keepdims=True), dtype=np.float64)


def fit(probabilities: Floats, y: Floats) -> Calibration:
    """Fit slope and shift to validation rows; the identity unless each half of the rows gains by what the other half taught.

    Parameters
    ----------
    probabilities : rows x classes, in order of time where there is one.
    y : class indices.
    """
    half = len(y) // 2
    if half < 50:
        return Calibration()
    gains = []
    for teach, test in ((slice(None, half), slice(half, None)), (slice(half, None), slice(None, half))):
        taught = _fit(probabilities[teach], y[teach])
        gains.append(_losses(probabilities[test], y[test]) - _losses(apply(taught, probabilities[test]), y[test]))
    gain = np.concatenate(gains)
    if gain.mean() <= gain.std() / np.sqrt(len(gain)) or min(part.mean() for part in gains) <= 0:
        return Calibration()
    return _fit(probabilities, y)


def _fit(probabilities: Floats, y: Floats) -> Calibration:
    return _sigmoid_fit(probabilities, y) if probabilities.shape[1] == 2 else _temperature_fit(probabilities, y)


def _sigmoid_fit(probabilities: Floats, y: Floats) -> Calibration:
    """Newton's method on the log loss, with one pseudo-row's weight pulling towards the identity."""
    p = np.clip(probabilities[:, 1], _TINY, 1 - _TINY)
    x = np.column_stack([np.log(p) - np.log1p(-p), np.ones(len(p))])
    start = np.array([1.0, 0.0])

    def loss(w: Floats) -> float:
        z = x @ w
        return float((np.logaddexp(0.0, z) - y * z).sum() + ((w - start) ** 2).sum() / 2)

    w = start
    for _ in range(_STEPS):
        q = _sigmoid(x @ w)
        gradient = x.T @ (q - y) + (w - start)
        hessian = (x * (q * (1 - q))[:, None]).T @ x + np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = next((part for part in (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.001) if loss(w - part * step) <= loss(w)), 0.0)
        w = w - size * step
        if size * np.abs(step).max() < 1e-9:
            break
    if not np.isfinite(w).all() or w[0] <= 0.05:  # a slope near zero or below would undo the ranking
        return Calibration()
    return Calibration(a=float(w[0]), b=float(w[1]))


def _temperature_fit(probabilities: Floats, y: Floats) -> Calibration:
    """Golden-section search over log a: the log loss is convex in a."""
    low, high, ratio = np.log(0.2), np.log(5.0), (np.sqrt(5.0) - 1) / 2

    def loss(log_a: float) -> float:
        return float(_losses(apply(Calibration(a=float(np.exp(log_a))), probabilities), y).mean())

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(30):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return Calibration(a=float(np.exp((low + high) / 2)))


def _losses(probabilities: Floats, y: Floats) -> Floats:
    chosen = probabilities[np.arange(len(y)), y.astype(np.int64)]
    return np.asarray(-np.log(np.clip(chosen, 1e-7, 1.0)), dtype=np.float64)


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)), dtype=np.float64)
