"""The routing snapshot: one small file from which the serving engine knows everything. Hot path: imports only msgspec."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import msgspec

FORMAT = 2  # 2: with rules. A snapshot without any says 1, so that servers that know no rules go on reading it
LENT = "rule"  # the arm of a row that another release than the unit's arm decided, because a rule names it
FILE = "snapshot.json"  # below the project's state folder, in ``serving/``
AWAY = "catalog.away"  # beside it while the catalog cannot be read, as the loop has found; why stands in it
COPY = "snapshot.copy.json"  # the same again beside it, for a worker that starts while the first is damaged or gone


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer carries along."""

    model: str
    data: str
    features: list[str]
    code: str | None
    hash: str


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A release that answers or shadows. ``weight`` in 1/1000 of the units (0.1 % steps)."""

    release: str
    bundle: str  # relative to the project's state
    weight: int
    arm: str  # champion, challenger-1, ..., shadow, rule
    lineage: Lineage
    slots: list[tuple[int, int]] = []  # a challenger's units, as ranges of 0..1000; the champion has the rest


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """When the model is not to decide a row, and what answers then. The first rule that holds decides; ``confidence`` is looked at last."""

    when: str | None = None  # a condition over the inputs
    unknown: bool | list[str] = False  # a category's level was not seen in training: of any input, or of these
    outside: float | None = None  # an input beyond what training saw, by more than this many widths of the range seen
    confidence: float | None = None  # the largest probability is below this
    answer: Literal["naive", "constant", "refuse", "release"] = "naive"
    by: str | None = None  # naive: the answer of the row's segment by this input
    value: Any = None  # constant: what is answered
    release: str | None = None  # release: who answers
    explore: int = 0  # 1/1000 of the units whose rows the model answers in spite of the rule, to learn from what comes of it


class EndpointRoute(msgspec.Struct, frozen=True, kw_only=True):
    """How one endpoint answers now. Weights of ``arms`` sum to 1000.

    ``paired``: while arms compete, every arm that did not answer runs as a shadow of the one that
    did, so that each labelled row compares them on the same input.
    """

    endpoint: str
    revision: int
    arms: list[Route]  # champion first
    shadows: list[Route] = []
    paired: bool = False
    killed: str | None = None  # why; answers are naive while it is set
    rules: list[Rule] = []  # in order
    others: list[Route] = []  # older releases that rules name
    problem: str | None = None  # why the rules in kaizen.toml are not those above: the last good ones stay in force
    hidden: list[str] = []  # what features are looked up by and stored as pseudonyms now, whatever was so when a release was made
    key_print: str = ""  # fingerprint of the key of these


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All routes of a project."""

    format: int = 1
    revision: int  # sum of the endpoints' revisions: grows with every change
    written_at: float
    endpoints: dict[str, EndpointRoute]


def write(path: Path, snapshot: Snapshot) -> None:
    """Replace the snapshot at once, and its copy before it: readers see the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = msgspec.json.encode(snapshot)
    for target in (path.with_name(COPY), path):
        fresh = path.with_name(f".{target.name}.{os.getpid()}")
        with fresh.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, target)


def read(path: Path) -> Snapshot:
    """Read a snapshot; FileNotFoundError when none was written yet."""
    return msgspec.json.decode(path.read_bytes(), type=Snapshot)
