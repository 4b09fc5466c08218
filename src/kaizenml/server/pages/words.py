"""Events in the words of people."""

from __future__ import annotations

from typing import NamedTuple

from kaizenml.charts import percent
from kaizenml.events import Event

_SAID = {
    "rollouts.deployed": ("{release} deployed to {subject}", "good"),
    "rollouts.challenged": ("{release} tried on {share} of {subject}", "warn"),
    "rollouts.reweighted": ("{release} now gets {share} of {subject}", "warn"),
    "rollouts.promoted": ("{release} promoted on {subject}", "good"),
    "rollouts.withdrawn": ("{release} withdrawn from {subject}", "quiet"),
    "rollouts.rolled_back": ("{subject} rolled back to {release}", "bad"),
    "rollouts.killed": ("{subject} killed", "bad"),
    "rollouts.revived": ("{subject} revived", "good"),
    "rollouts.shadowed": ("{release} sees the traffic of {subject} as a shadow", "quiet"),
    "rollouts.unshadowed": ("{release} no longer shadows {subject}", "quiet"),
    "loop.asked": ("Improvement of {subject} asked for", "quiet"),
    "loop.started": ("Improvement {subject} started", "warn"),
    "loop.held": ("Retraining of {subject} held", "warn"),
    "loop.resumed": ("Retraining of {subject} no longer held", "good"),
    "loop.refused": ("Improvement {subject} refused", "bad"),
    "loop.failed": ("Improvement {subject} failed", "bad"),
    "loop.promoted": ("Improvement {subject} ended well", "good"),
    "loop.withdrawn": ("Improvement {subject} came to nothing", "quiet"),
    "data.added": ("Rows added: {subject}", "quiet"),
    "training.trained": ("Run {subject} trained", "quiet"),
    "registry.registered": ("Model {subject} registered", "quiet"),
    "releases.passed": ("Release {subject} passed its gates", "good"),
    "releases.refused": ("Release {subject} refused by a gate", "bad"),
    "monitoring.opened": ("Alert on {subject}", "warn"),
    "monitoring.closed": ("Alert on {subject} over", "good"),
}
# work in between, and what the rollout's own event says better: for the audit page
_QUIET = ("loop.stepped", "loop.promoted", "loop.withdrawn", "features.", "registry.", "training.", "data.")


class Told(NamedTuple):
    """An event as it is read out."""

    seq: int
    at: float
    text: str
    why: str
    tone: str
    actor: str


def told(event: Event) -> Told:
    """Say what happened."""
    pattern, tone = _SAID.get(event.kind, ("", "quiet"))
    if event.data.get("severity") == "note":  # worth knowing, nothing to do
        pattern, tone = pattern.replace("Alert", "Note"), "quiet"
    release = str(event.data.get("release") or "")
    weight = event.data.get("weight")
    share = percent(weight) if isinstance(weight, float | int) else "a share"
    if pattern and ("{release}" not in pattern or release):
        text = pattern.format(release=release, subject=event.subject, share=share)
    else:
        noun, _, verb = event.kind.partition(".")
        text = f"{event.subject} {verb.replace('_', ' ')} ({noun})"
    return Told(event.seq, event.at, text, event.why, tone, event.actor)


def matters(event: Event) -> bool:
    """Say whether an event belongs on a page for everybody, and not only into the audit."""
    return not event.kind.startswith(_QUIET)
