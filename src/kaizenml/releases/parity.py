"""The parity gate: what is served is what was trained. Real rows through the serving runtime and through the training code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kaizenml.errors import KaizenError
from kaizenml.features.encoding import vectorised as encoding
from kaizenml.registry import check_rows, importing, runtimes
from kaizenml.registry.trial import Tried
from kaizenml.releases.release import GateResult
from kaizenml.releases.rows import requests
from kaizenml.training import model_file, scoring

TOLERANCE = 1e-9
"""Answers may differ by this (relative for numbers above 1). The two sides add the same float64 terms, at most in another
order over a few hundred trees: about 1e-13. A wrong float32 threshold, level or link shows from 1e-8 upwards."""

SINGLY = 100
"""So many rows go one by one as well, because a lone row takes another path through the runtime than a batch."""


def parity(model: Path, table: pa.Table) -> GateResult:
    """Answer every row of ``table`` both ways and compare.

    Parameters
    ----------
    model : the model folder.
    table : rows of the training frame.

    Returns
    -------
    Passed when every vector is equal bit for bit and every answer within ``TOLERANCE``; else the evidence
    names the first row, column and values that differ.
    """
    spec = model_file.read(model)
    rows = requests(table, spec.signature)
    if not rows:
        return GateResult(name="parity", passed=False, summary="the pinned data has no rows to compare on", evidence={"rows": 0})
    expected_vectors = encoding.encode(spec.encoder, table)
    expected = scoring.predict(model, expected_vectors)
    served = runtimes.load(model)
    try:
        vectors = np.array([served.encode(row, position) for position, row in enumerate(rows)], dtype=np.float32)
        answers = served.answer(rows)
        alone = [served.answer([row])[0] for row in rows[:SINGLY]]
    except KaizenError as error:  # serving refuses a row that the model learnt from
        return GateResult(name="parity", passed=False, summary=f"serving refused a row of the training data: {error.what}", evidence=error.document())
    finally:
        served.close()
    evidence: dict[str, Any] = {"rows": len(rows), "singly": len(alone), "values": int(vectors.size), "tolerance": TOLERANCE}
    wrong = _first_difference(vectors, expected_vectors)
    if wrong:
        row, column = wrong
        evidence |= {
            "row": rows[row],
            "column": spec.encoder.names[column],
            "trained": float(expected_vectors[row, column]),
            "served": float(vectors[row, column]),
        }
        return GateResult(name="parity", passed=False, summary=f"row {row}: {spec.encoder.names[column]} is encoded differently", evidence=evidence)
    for how, found in (("in a batch", answers), ("alone", alone)):
        gap, row = _gap(found, expected[: len(found)], spec.signature.classes)
        evidence[f"largest_difference_{how.split()[-1]}"] = gap
        if gap > TOLERANCE:
            evidence |= {"row": rows[row], "trained": expected[row].tolist(), "served": list(found[row])}
            summary = f"row {row}, asked {how}: the answers differ by {gap:.2g}, more than {TOLERANCE:g}"
            return GateResult(name="parity", passed=False, summary=summary, evidence=evidence)
    worst = max(evidence["largest_difference_batch"], evidence["largest_difference_alone"])
    summary = f"{len(rows)} rows, {vectors.size} values equal to the bit; answers differ by {worst:.1g} at most"
    return GateResult(name="parity", passed=True, summary=summary, evidence=evidence)


def replay(model: Path) -> GateResult:
    """Ask a model that was made elsewhere the rows whose answers came with it, and compare again."""
    origin, check = importing.read(model), check_rows.read(model)
    tolerance = origin.tolerance if origin else TOLERANCE
    served = runtimes.load(model)
    try:
        answers = served.answer(check.rows)
        alone = [served.answer([row])[0] for row in check.rows[:SINGLY]]
    except KaizenError as error:
        summary = f"serving refused a row that came with the model: {error.what}"
        return GateResult(name="parity", passed=False, summary=summary, evidence=error.document())
    finally:
        served.close()
    tried = Tried.of(answers, alone)
    gap, row = importing.largest_difference(tried, check)
    evidence: dict[str, Any] = {"rows": len(check.rows), "singly": len(alone), "tolerance": tolerance, "largest_difference": gap}
    if gap is not None and gap > tolerance:
        evidence |= {"row": check.rows[row], "largest_difference": gap if np.isfinite(gap) else None}
        summary = f"row {row}: the answer differs by {gap:.2g} from the one it gave where it was made"
        return GateResult(name="parity", passed=False, summary=summary, evidence=evidence)
    worst = "the same classes" if gap is None else f"answers differ by {gap:.1g} at most"
    return GateResult(name="parity", passed=True, summary=f"{len(check.rows)} rows asked as where it was made: {worst}", evidence=evidence)


def _first_difference(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> tuple[int, int] | None:
    if found.shape != expected.shape:
        return 0, min(found.shape[1], expected.shape[1]) - 1
    # bits, so that 0.0 and -0.0 differ; one pattern for every NaN, which all mean missing
    bits = [np.where(np.isnan(side), np.float32(np.nan), side).astype(np.float32).view(np.uint32) for side in (found, expected)]
    places = np.argwhere(bits[0] != bits[1])
    return (int(places[0, 0]), int(places[0, 1])) if len(places) else None


def _gap(found: list[runtimes.Prediction], expected: npt.NDArray[np.float64], classes: list[Any]) -> tuple[float, int]:
    """Return the largest difference and its row; infinite where the class is another than the most probable one."""
    if expected.ndim == 1:
        served = np.array([each.value for each in found], dtype=np.float64)
        gaps = np.abs(served - expected) / np.maximum(1.0, np.abs(expected))
    else:
        served = np.array([each.probabilities for each in found], dtype=np.float64)
        gaps = np.abs(served - expected).max(axis=1)
        best = expected.max(axis=1)
        chosen = np.array([expected[row, classes.index(each.value)] for row, each in enumerate(found)])
        gaps = np.where(best - chosen > TOLERANCE, np.inf, gaps)  # equal probabilities may go either way
    gaps = np.where(np.isnan(gaps), np.inf, gaps)
    row = int(gaps.argmax())
    return float(gaps[row]), row
