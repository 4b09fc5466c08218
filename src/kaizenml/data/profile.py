"""The profile of a version: for each column what a person wants to know first. Profiles of parts merge, so an addition costs only itself."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kaizenml.data.dataset import Kind

QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_TOP = 20
_TELLING_NOTHING = ("kind", "count", "missing", "distinct", "shortest", "longest")


def profile(table: pa.Table, kinds: dict[str, Kind], notes: dict[str, str] | None = None, *, hidden: Iterable[str] = ()) -> dict[str, Any]:
    """Describe each column.

    Parameters
    ----------
    table : rows in storage types.
    kinds : kind of each column to describe; a column that is not in the table counts as missing throughout.
    notes : sentences on how columns were read, kept under ``note``.
    hidden : columns that tell of persons; of these only counts and lengths are told.

    Returns
    -------
    By column: ``kind``, ``count`` (values), ``missing``, ``distinct``; for numbers ``mean``, ``std`` (of the values, n in the
    denominator), ``min``, ``max``, ``quantiles`` (at ``QUANTILES``); for booleans ``true``; for instants ``min`` and ``max`` (ISO 8601);
    for categories and text ``top`` (the most frequent values with their counts) and the lengths ``shortest`` and ``longest``. JSON-able.
    """
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        column = table[name] if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])
        entry = _column(column, kind)
        if notes and name in notes:
            entry["note"] = notes[name]
        found[name] = entry
    return without_values(found, hidden)


def without_values(described: dict[str, Any], hidden: Iterable[str]) -> dict[str, Any]:
    """Leave out of a profile what shows values of the columns ``hidden``: extremes, quantiles, means, frequent values, notes."""
    aside = set(hidden)
    return {name: {word: entry[word] for word in _TELLING_NOTHING if word in entry} if name in aside else entry for name, entry in described.items()}


def merge(first: dict[str, Any], first_rows: int, second: dict[str, Any], second_rows: int) -> dict[str, Any]:
    """Describe two sets of rows as one.

    Counts, missing, mean, std, min and max are exact. Quantiles are those of the mixture of the two described
    distributions; ``top`` adds the counts that both kept; ``distinct`` is the larger of the two, a lower bound.
    """
    merged = {}
    for name in [*first, *(name for name in second if name not in first)]:
        if name not in second:
            merged[name] = first[name] | {"missing": first[name]["missing"] + second_rows}
        elif name not in first:
            merged[name] = second[name] | {"missing": second[name]["missing"] + first_rows}
        else:
            merged[name] = _merged(first[name], second[name])
    return merged


def spread(quantiles: Sequence[float], steps: int) -> tuple[list[float], list[float]]:
    """Turn quantiles (at ``QUANTILES``) into shares over ``steps`` of equal width between those at 0.01 and 0.99, and their edges.

    Both are empty where there is no width.
    """
    low, high = quantiles[QUANTILES.index(0.01)], quantiles[QUANTILES.index(0.99)]
    if not math.isfinite(high - low) or high <= low:
        return [], []
    edges = [low + (high - low) * i / steps for i in range(steps + 1)]
    below = [_share_below(edge, quantiles) for edge in edges]
    below[0] = 0.0  # what equals the first edge belongs to the first step
    return [max(b - a, 0.0) for a, b in itertools.pairwise(below)], edges


def _share_below(value: float, quantiles: Sequence[float]) -> float:
    at = bisect_right(quantiles, value)
    if at in (0, len(quantiles)):
        return float(at > 0)
    left, right = quantiles[at - 1], quantiles[at]
    return QUANTILES[at - 1] + (QUANTILES[at] - QUANTILES[at - 1]) * (value - left) / ((right - left) or 1.0)


def _column(column: pa.ChunkedArray, kind: Kind) -> dict[str, Any]:
    count = len(column) - column.null_count
    entry: dict[str, Any] = {"kind": kind, "count": count, "missing": column.null_count}
    if not count:
        return entry | {"distinct": 0}
    if kind in ("number", "integer"):
        return entry | _numbers(column, whole=kind == "integer")
    if kind == "boolean":
        true = pc.sum(column).as_py()
        return entry | {"distinct": int(0 < true < count) + 1, "true": true}
    entry["distinct"] = pc.count_distinct(column).as_py()
    if kind == "timestamp":
        ends = pc.min_max(column).as_py()
        return entry | {"min": ends["min"].isoformat(), "max": ends["max"].isoformat()}
    counts = pc.value_counts(column.drop_null())
    # the text breaks ties, so that equal tables have equal profiles
    frequent = sorted(_largest(counts), key=lambda item: (-item[1], item[0]))[:_TOP]
    lengths = pc.min_max(pc.utf8_length(column)).as_py()
    return entry | {"top": [[value[:200], times] for value, times in frequent], "shortest": lengths["min"], "longest": lengths["max"]}


def _largest(counts: Any) -> list[tuple[str, int]]:
    times = counts.field("counts").to_numpy(zero_copy_only=False)
    if len(times) > 10_000:
        # nothing rarer than the 20th most frequent can be among the 20; of the many that tie with it, the first will do
        floor = np.partition(times, -_TOP)[-_TOP]
        places = np.concatenate([np.flatnonzero(times > floor), np.flatnonzero(times == floor)[:_TOP]])
        counts = counts.take(pa.array(places))
        times = times[places]
    return list(zip(counts.field("values").to_pylist(), times.tolist(), strict=True))


def _numbers(column: pa.ChunkedArray, *, whole: bool) -> dict[str, Any]:
    values = column.drop_null().to_numpy()
    ordered = np.sort(values)  # a third of what counting different values by a hash table takes, and quantiles are read off it
    distinct = 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
    lowest, highest = ordered[0], ordered[-1]
    wide, spread_out = values.astype(np.float64), ordered.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # sums of numbers near 1e308 overflow; they are told as None
        mean, std = float(wide.mean()), float(wide.std())
        scale = _scale(wide)
        quantiles = (np.quantile(spread_out * scale, QUANTILES) / scale).tolist()
    return {
        "distinct": distinct,
        "mean": mean if math.isfinite(mean) else None,
        "std": std if math.isfinite(std) else None,
        "min": int(lowest) if whole else float(lowest),
        "max": int(highest) if whole else float(highest),
        "quantiles": quantiles,
    }


def _merged(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    if not first["count"] or not second["count"] or first["kind"] != second["kind"]:
        # of two kinds the newer one stands; the older rows are told again when the version is read
        chosen, other = (first, second) if not second["count"] else (second, first)
        return chosen | {"missing": chosen["missing"] + other["missing"], "count": chosen["count"] + other["count"]}
    entry = second | {name: first[name] + second[name] for name in ("count", "missing")}
    entry["distinct"] = max(first["distinct"], second["distinct"])
    if note := second.get("note") or first.get("note"):
        entry["note"] = note
    if "min" in first and "min" in second:
        entry |= {"min": min(first["min"], second["min"]), "max": max(first["max"], second["max"])}
    if "true" in first and "true" in second:
        entry["true"] = first["true"] + second["true"]
        entry["distinct"] = int(0 < entry["true"] < entry["count"]) + 1
    if "top" in first and "top" in second:
        entry |= _merged_text(first, second)
    if "mean" in first and "mean" in second and first["mean"] is not None and second["mean"] is not None:
        entry |= _merged_numbers(first, second)
    return entry


def _merged_text(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    times: dict[str, int] = dict(map(tuple, first["top"]))
    for value, count in second["top"]:
        times[value] = times.get(value, 0) + count
    top = sorted(times.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
    return {
        "top": [list(item) for item in top],
        "distinct": max(first["distinct"], second["distinct"], len(times)),
        "shortest": min(first["shortest"], second["shortest"]),
        "longest": max(first["longest"], second["longest"]),
    }


def _scale(values: np.ndarray) -> float:
    """Return what to multiply by so that differences and slopes do not overflow; a power of two, so that no digit is lost."""
    return 2.0**-128 if np.abs(values).max() > 1e250 else 1.0


def _merged_numbers(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    m, n = first["count"], second["count"]
    w, v = m / (m + n), n / (m + n)
    apart = second["mean"] - first["mean"]
    mean = first["mean"] + apart * v
    std = math.inf
    if first["std"] is not None and second["std"] is not None:
        std = math.hypot(math.sqrt(w) * first["std"], math.sqrt(v) * second["std"], math.sqrt(w * v) * apart)
    # both described distributions as 200 points each, weighted by their rows
    steps = (np.arange(200) + 0.5) / 200
    with np.errstate(over="ignore", invalid="ignore"):
        known = np.array([first["quantiles"], second["quantiles"]])
        scale = _scale(known)
        points = np.concatenate([np.interp(steps, QUANTILES, values) for values in known * scale])
        weights = np.repeat([w / 200, v / 200], 200)
        order = np.argsort(points, kind="stable")
        heights = np.cumsum(weights[order]) - weights[order] / 2
        quantiles = np.interp(QUANTILES, heights, points[order]) / scale
    quantiles[0] = min(first["quantiles"][0], second["quantiles"][0])
    quantiles[-1] = max(first["quantiles"][-1], second["quantiles"][-1])
    return {"mean": mean if math.isfinite(mean) else None, "std": std if math.isfinite(std) else None, "quantiles": quantiles.tolist()}
