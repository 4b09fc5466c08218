"""What was found in the rows of an addition: counted and described, however many pieces they came in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow.compute as pc

from kaizenml.data import provenance
from kaizenml.data.contract import Checked
from kaizenml.data.dataset import Contract, Severity
from kaizenml.data.keys import Keys
from kaizenml.data.kinds import SOURCE
from kaizenml.data.people import personal
from kaizenml.data.people.left_out import SAID
from kaizenml.data.profile import merge, profile

_SAMPLES = 10


@dataclass(kw_only=True)
class Found:
    """The sum of what checks found. Rows are as they are stored: decisions on personal columns are carried out."""

    contract: Contract
    rows: int = 0  # as given, those aside that were left out
    left_out: int = 0  # of subjects who were forgotten
    good: int = 0
    bad: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # rule broken first, with how many rows
    warnings: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    first_bad: tuple[int, str] | None = None
    samples: list[dict[str, Any]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    undecided: dict[str, str] = field(default_factory=dict)  # columns that look as if they told of persons, and why
    sources: dict[str, int] = field(default_factory=dict)
    newest: datetime | None = None
    profile: dict[str, Any] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)  # that are stored
    hash: str = ""
    keys: Keys | None = None

    def whole(self, rule: str, rows: int, severity: Severity) -> None:
        """Note that a rule is broken that no single row answers for."""
        (self.warnings if severity == "warn" else self.refusals)[rule] += rows

    @property
    def told(self) -> dict[str, int]:
        """What is told and keeps no row out of the version, with how many rows."""
        return dict(self.warnings) | ({SAID: self.left_out} if self.left_out else {})

    def count(self, checked: Checked, rows: int) -> None:
        """Count the next rows, of which there were ``rows``."""
        self.contract = checked.contract
        self.rows += rows
        self.bad += checked.bad.num_rows
        self.warnings.update(checked.warnings)
        self.refusals.update(checked.refusals)
        if checked.bad.num_rows:
            self.reasons.update(checked.bad["_rule"].to_pylist())
            self.first_bad = self.first_bad or (checked.bad["_row"][0].as_py(), checked.bad["_reason"][0].as_py())
            if len(self.samples) < _SAMPLES:
                shown = personal.masked(checked.bad.slice(0, _SAMPLES - len(self.samples)), checked.contract)
                self.samples += shown.to_pylist()

    def describe(self, checked: Checked, notes: dict[str, str]) -> None:
        """Describe the good ones of the next rows; ``notes`` tells how columns were read."""
        good, contract = checked.good, checked.contract
        if SOURCE in good.column_names:
            for name, count in provenance.counted(good[SOURCE]).items():
                self.sources[name] = self.sources.get(name, 0) + count
        if contract.time is not None and contract.time in good.column_names and good.num_rows:
            newest = pc.max(good[contract.time]).as_py()
            self.newest = max(filter(None, [self.newest, newest]), default=None)
        decided = personal.decisions(contract)
        kinds = {column.name: column.kind for column in contract.columns if column.name not in personal.dropped(contract)}
        described = profile(good, kinds, personal.notes(notes, contract), hidden=decided)
        self.profile = merge(self.profile, self.good, described, good.num_rows) if self.profile else described
        self.good += good.num_rows
        self.columns = good.column_names
