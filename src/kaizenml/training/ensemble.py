"""Greedy ensemble selection (Caruana et al., ICML 2004): add the member that helps most, with replacement."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
MEMBERS = 5
ROUNDS = 20


def choose(predictions: dict[str, Floats], y: Floats) -> dict[str, float]:
    """Return the weights (they sum to 1) of at most five members that answer the validation rows best together.

    Parameters
    ----------
    predictions : for each member rows x classes probabilities, or rows for regression.
    y : class indices, or numbers.

    >>> import numpy as np
    >>> choose({"high": np.array([2.0, 4.0]), "low": np.array([0.0, 2.0])}, np.array([1.0, 3.0]))
    {'high': 0.5, 'low': 0.5}
    """
    names = list(predictions)
    # what matters of a member is the probability it gave to what happened
    parts = {name: _seen(predictions[name], y) for name in names}
    regression = predictions[names[0]].ndim == 1
    counts = dict.fromkeys(names, 0)
    total = np.zeros(len(y))
    best: tuple[float, dict[str, int]] = (np.inf, dict(counts))
    for size in range(1, ROUNDS + 1):
        open_names = [name for name in names if counts[name] or sum(map(bool, counts.values())) < MEMBERS]
        losses = {name: _loss((total + parts[name]) / size, regression) for name in open_names}
        name = min(losses, key=lambda candidate: losses[candidate])
        counts[name] += 1
        total += parts[name]
        if losses[name] < best[0] - 1e-9:
            best = (losses[name], dict(counts))
    chosen = best[1] if any(best[1].values()) else {names[0]: 1}
    # a member with less than a tenth of the say costs time at every refit and every answer, and changes nothing
    kept = {name: count for name, count in chosen.items() if count >= 0.1 * sum(chosen.values())}
    return {name: count / sum(kept.values()) for name, count in kept.items()}


def _seen(prediction: Floats, y: Floats) -> Floats:
    return prediction - y if prediction.ndim == 1 else prediction[np.arange(len(y)), y.astype(np.int64)]


def _loss(seen: Floats, regression: bool) -> float:
    return float(np.mean(seen**2)) if regression else float(-np.mean(np.log(np.clip(seen, 1e-7, 1.0))))
