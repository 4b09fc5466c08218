"""What the year showed: losses by month with intervals, what the loop did and why, one prediction traced, a picture."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.compute as pc

from kaizenml import charts, events
from kaizenml.context import Context
from kaizenml.demo.flights import ASKED_BEFORE
from kaizenml.demo.replay import ENDPOINT, Plan
from kaizenml.releases import operations as releases
from kaizenml.serving import outcomes
from kaizenml.serving.journaling import predictions
from kaizenml.training import model_file

CLIP = 1e-6
SUBJECTS = ("loop", "frozen", "naive")
TOLD = (
    "loop.started", "loop.held", "loop.resumed", "loop.refused", "loop.failed",
    "rollouts.killed", "rollouts.revived", "rollouts.challenged", "rollouts.withdrawn", "rollouts.promoted", "rollouts.rolled_back",
)  # fmt: skip


class Labelled(msgspec.Struct, frozen=True):
    """The labelled year: for every flight with an outcome, what each model had said. Arrays run alongside."""

    day: Any  # datetime64[D]
    truth: Any  # bool
    scores: dict[str, Any]  # loop, frozen, naive: probability of being late


def labelled(ctx: Context, frozen: str) -> Labelled:
    """Join what was answered, what the frozen model said in the shadow, and what came of it."""
    truth = {identity: value for _, identity, value, *_ in outcomes.since(ctx.state, ENDPOINT, 0, 10_000_000)}
    table = predictions.read(ctx, ENDPOINT, columns=["id", "at", "role", "release", "decided_by", "score"])
    live = table.filter(pc.equal(table["role"], "live"))
    # while the frozen release is champion its live answers are its answers: the engine does not run it twice
    said = table.filter(pc.and_(pc.equal(table["release"], frozen), pc.equal(table["decided_by"], "model")))
    frozen_score = dict(zip(said["id"].to_pylist(), said["score"].to_pylist(), strict=True))
    ids = live["id"].to_pylist()
    kept = np.array([identity in truth and identity in frozen_score for identity in ids])
    chosen = [identity for identity, keep in zip(ids, kept, strict=True) if keep]
    naive = model_file.read(ctx.state / releases.show(ctx, frozen).bundle / "model").naive.probabilities
    assert naive is not None  # a classifier has shares
    return Labelled(
        day=(live["at"].to_numpy() + ASKED_BEFORE).astype("datetime64[D]")[kept],  # of the departure
        truth=np.array([truth[identity] for identity in chosen], dtype=bool),
        scores={
            "loop": live["score"].to_numpy()[kept],
            "frozen": np.array([frozen_score[identity] for identity in chosen]),
            "naive": np.full(len(chosen), naive[1]),
        },
    )


def log_losses(score: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the log loss of each row."""
    score = np.clip(score, CLIP, 1 - CLIP)
    losses: np.ndarray = -np.where(truth, np.log(score), np.log1p(-score))
    return losses


def auc(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the area under the ROC curve (ties count half)."""
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return float("nan")
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def interval(values: np.ndarray, day: np.ndarray) -> tuple[float, float, float]:
    """Return mean and 95 % interval; flights of one day share their weather, so days are the sampling units."""
    mean = float(values.mean())
    _, inverse = np.unique(day, return_inverse=True)
    days = int(inverse.max()) + 1
    residuals = np.bincount(inverse, weights=values - mean)
    half = 1.96 * float(np.sqrt((residuals**2).sum() * days / max(days - 1, 1))) / len(values)
    return mean, mean - half, mean + half


def months(year: Labelled) -> list[dict[str, Any]]:
    """Return one document a month, and one for the whole time ("all") at the end."""
    month = year.day.astype("datetime64[M]")
    rows = []
    for name in [*np.unique(month), None]:
        chosen = np.ones(len(month), bool) if name is None else month == name
        rows.append(_period("all" if name is None else str(name), year, chosen))
    return rows


def _period(name: str, year: Labelled, chosen: np.ndarray) -> dict[str, Any]:
    truth, day = year.truth[chosen], year.day[chosen]
    losses = {subject: log_losses(year.scores[subject][chosen], truth) for subject in SUBJECTS}
    estimates = {subject: interval(loss, day) for subject, loss in losses.items()}
    gain = interval(losses["frozen"] - losses["loop"], day)
    return {
        "month": name,
        "rows": int(chosen.sum()),
        "log_loss": {subject: round(estimate[0], 5) for subject, estimate in estimates.items()},
        "auc": {subject: round(auc(year.scores[subject][chosen], truth), 5) for subject in SUBJECTS},
        "log_loss_interval": {subject: [round(bound, 5) for bound in estimate[1:]] for subject, estimate in estimates.items()},
        "gain_over_frozen": [round(bound, 5) for bound in gain],
    }


def actions(ctx: Context) -> list[dict[str, Any]]:
    """Return what happened and why, one line each, oldest first."""
    with ctx.catalog.read() as connection:
        found = [event for event in events.read(connection) if event.kind in TOLD]
    diagnosis, told = "", []
    for event in found:
        diagnosis = str(event.data.get("diagnosis") or "") if event.kind.startswith("loop.") else ""
        told.append(
            {
                "at": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="minutes"),
                "what": f"{event.kind.partition('.')[2]} {event.data.get('release') or event.subject}".replace("_", " "),
                "why": event.why,
                "diagnosis": diagnosis,
                "by": event.actor,
                "kind": event.kind,
            }
        )
    return told


def picture(year: Labelled, done: list[dict[str, Any]], plan: Plan, folder: Path) -> Path:
    """Draw the year as SVG, and as PNG beside it; return the SVG's path."""
    marks = [
        charts.Mark(datetime.fromisoformat(action["at"]), action["what"].partition(" ")[2], "good", f"{action['what']}: {action['why']}")
        for action in done
        if action["kind"] == "rollouts.promoted"
    ]
    marks.append(charts.Mark(plan.bad_release, "bad release", "bad", "a release learnt from swapped labels, rolled back by the canary"))
    marks.append(charts.Mark(plan.kill[0], "killed", "bad", "an operator killed the endpoint for some hours"))
    spans = [charts.Span(plan.flood[0], plan.flood[1], "weather feed null")]
    losses = charts.line(
        _weekly(year), title="log loss by week", y_label="log loss by week, lower is better", marks=marks, spans=spans,
        width=1100, height=330, margins=(60, 130), readout=False,
    )  # fmt: skip
    gained = charts.line(
        [_gained(year)], title="gain on the frozen model", y_label="log loss saved against the model frozen in March, added up over all flights",
        include=[0.0], width=1100, height=200, margins=(60, 130), readout=False,
    )  # fmt: skip
    svg = charts.stack(
        [losses, gained],
        title="Nine months in production: will this flight arrive more than 15 minutes late?",
        about="Weekly log loss of the loop, of the model frozen in March and of the naive answer; below, what the loop saved.",
    )
    path = folder / "year.svg"
    path.write_text(svg, encoding="utf-8")
    path.with_suffix(".png").write_bytes(charts.png(svg))
    return path


def _weekly(year: Labelled) -> list[charts.Series]:
    week = year.day.astype("datetime64[W]")
    weeks = [name for name in np.unique(week) if (week == name).sum() >= 1000]
    series = []
    for subject, label, colour in (("naive", "naive", 0), ("frozen", "frozen in March", 2), ("loop", "the loop", 1)):
        loss = log_losses(year.scores[subject], year.truth)
        spread = [interval(loss[week == name], year.day[week == name]) for name in weeks]
        banded = subject == "loop"
        series.append(
            charts.Series(
                name=label,
                x=[_moment(name) for name in weeks],
                y=[item[0] for item in spread],
                low=[item[1] for item in spread] if banded else None,
                high=[item[2] for item in spread] if banded else None,
                colour=colour,
                dashed=subject == "naive",
            )
        )
    return series


def _gained(year: Labelled) -> charts.Series:
    saved = log_losses(year.scores["frozen"], year.truth) - log_losses(year.scores["loop"], year.truth)
    days, inverse = np.unique(year.day, return_inverse=True)
    total = np.cumsum(np.bincount(inverse, weights=saved))
    return charts.Series(name="saved", x=[_moment(day) for day in days[::3]], y=total[::3].tolist(), colour=1)


def _moment(day: np.datetime64) -> datetime:
    return datetime.fromisoformat(str(day.astype("datetime64[D]"))).replace(tzinfo=UTC)
