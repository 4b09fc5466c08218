"""Operations on the record of predictions and outcomes."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow.compute as pc

from kaizenml.context import Context
from kaizenml.errors import InvalidInput
from kaizenml.serving import ids, outcomes
from kaizenml.serving.journaling import drain as journal
from kaizenml.serving.journaling import predictions

__all__ = ["counts", "drain", "trace"]


def drain(ctx: Context) -> journal.Drained:
    """Bring what the journal holds into the datasets of predictions.

    The loop does it by itself; call it to see the newest answers at once.

    Returns
    -------
    How many records and rows came in, and how long it took (seconds).

    Raises
    ------
    StorageFull : no room left; nothing was half-written.

    Examples
    --------
    >>> drain(ctx).rows  # doctest: +SKIP
    930
    """
    return journal.drain(ctx)


def counts(ctx: Context, endpoint: str) -> dict[str, Any]:
    """Count an endpoint's answers, shadows' answers and outcomes, the newest included.

    Parameters
    ----------
    endpoint : its name.

    Returns
    -------
    ``rows`` (answered), ``shadow_rows``, ``without_lineage`` (answered rows whose release is not on record),
    ``decided_by`` and ``releases`` (rows by each), ``outcomes`` (kept, early, late, unknown, conflicting).

    Examples
    --------
    >>> counts(ctx, "shop")["rows"]  # doctest: +SKIP
    12000
    """
    journal.drain(ctx)
    table = predictions.read(ctx, endpoint, columns=["role", "release", "decided_by"])
    live = table.filter(pc.equal(table["role"], "live"))
    releases = {row["values"]: row["counts"] for row in live["release"].value_counts().to_pylist()}
    known = {release for release in releases if release and (ctx.state / "releases" / release.replace("@", "/") / "release.json").exists()}
    return {
        "endpoint": endpoint,
        "rows": live.num_rows,
        "shadow_rows": table.num_rows - live.num_rows,
        "without_lineage": sum(number for release, number in releases.items() if release not in known),
        "decided_by": {row["values"]: row["counts"] for row in live["decided_by"].value_counts().to_pylist()},
        "releases": releases,
        "outcomes": dict(outcomes.states(ctx.state, endpoint)),
    }


def trace(ctx: Context, prediction: str) -> dict[str, Any]:
    """Trace one prediction to its inputs, release, model, data, features and code, and to what came of it.

    Parameters
    ----------
    prediction : its id, as the answer gave it.

    Raises
    ------
    NotFound : no such prediction is on record.
    InvalidInput : it is not an id.

    Examples
    --------
    >>> trace(ctx, "6553f1000000002a00000000deadbeef")["release"]  # doctest: +SKIP
    'shop@3'
    """
    if not ids.is_id(prediction):
        shown, remedy = prediction[:100], "give the 32 hex digits of an answer's id"
        raise InvalidInput(f"{shown!r} is not a prediction's id", remedy=remedy, values={"found": shown})
    journal.drain(ctx)
    endpoint, table = predictions.find(ctx, prediction)
    rows = table.to_pylist()
    live = next((row for row in rows if row["role"] == "live"), rows[0])
    outcome = outcomes.find(ctx.state, prediction)
    return {
        "id": prediction,
        "endpoint": endpoint,
        "at": live["at"].isoformat(),
        "value": msgspec.json.decode(live["value"]),
        "probabilities": live["probabilities"],
        "decided_by": live["decided_by"],
        "reason": live["reason"],
        "propensity": live.get("propensity"),
        "arm": live["arm"],
        "unit": live["unit"],
        "release": live["release"],
        **_lineage(ctx, live["release"]),
        "inputs": {name[2:]: value for name, value in live.items() if name.startswith("x_")},
        "outcome": None if outcome is None else outcome.value,
        "shadows": {row["release"]: row["score"] for row in rows if row["role"] == "shadow"},
    }


def _lineage(ctx: Context, release: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode((ctx.state / "releases" / release.replace("@", "/") / "release.json").read_bytes())
    except (OSError, msgspec.DecodeError):
        return {"model": None, "data": None, "features": None, "code": None, "hash": None}
    pins = document.get("pins", {})
    return {name: pins.get(name) for name in ("model", "data", "features", "code")} | {"hash": document.get("hash")}
