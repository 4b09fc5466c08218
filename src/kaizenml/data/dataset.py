"""Datasets, their contracts and versions."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kaizenml.data.forgotten import Forgotten

Kind = Literal["number", "integer", "boolean", "category", "timestamp", "text"]
Trust = Literal["internal", "partner", "public"]
Decision = Literal["drop", "pseudonym", "encrypt", "keep"]
Severity = Literal["quarantine", "refuse", "warn"]
"""What a broken promise does: the rows go to quarantine, the whole addition is refused, or it is only told."""


class Personal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a column tells of persons, and what becomes of its values before they are stored.

    ``drop`` stores nothing; ``pseudonym`` stores a keyed hash, the same for equal values, so that it still joins and counts;
    ``encrypt`` stores the value under a key of its row's subject, which forgetting destroys; ``keep`` stores it as it is, for a
    reason and under a person's name. Whatever the decision, no value is shown in profiles, messages or samples.
    """

    kind: str  # email, phone, name, ...; see data/detect.py
    decision: Decision
    reason: str = ""
    by: str = ""  # who decided; empty: proposed by kaizenml


class Column(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a column of a dataset must look like. Rows that break it go to quarantine with the reason."""

    name: str
    kind: Kind
    nullable: bool = True
    minimum: float | None = None
    maximum: float | None = None
    categories: list[str] | None = None  # allowed values; None: any
    unique: bool = False
    personal: Personal | None = None
    severity: Severity = "quarantine"
    holds: str | None = None  # the name by which subjects in it are asked for, where the column has another: "customer_id" of a column "buyer"


class Unique(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Columns that together tell rows apart. Rows in which one of them is missing are not compared."""

    columns: list[str]
    severity: Severity = "quarantine"


class Freshness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How old the newest row may be when rows are added or checked."""

    within: str  # a duration: 36h, 2d
    severity: Severity = "refuse"


class RowLimits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many rows one addition may have."""

    minimum: int | None = None
    maximum: int | None = None
    shrink: float | None = None  # at least this many times the rows of the addition before: 0.5
    grow: float | None = None  # at most this many times
    severity: Severity = "refuse"


class Query(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A check in SQL over ``rows``: the rows of the addition that keep the rest of the contract, with ``_row`` (from 1).

    A query that gives a column ``_row`` names the bad rows; one that gives a single number counts what is wrong; any other one is
    broken by every row that it gives.
    """

    name: str
    sql: str
    severity: Severity | None = None  # None: quarantine where it names rows, else refuse


class Contract(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The promise of a dataset's source, under version control as ``contracts/NAME.toml``."""

    columns: list[Column]
    key: str | list[str] | None = None
    time: str | None = None
    subject: str | None = None  # column that says whom a row is about; encrypted columns have a key for each of its values
    unique: list[Unique] = []
    freshness: Freshness | None = None
    rows: RowLimits | None = None
    checks: list[Query] = []

    @property
    def keys(self) -> list[str]:
        """The columns that identify a row; none when there is no key."""
        return [] if self.key is None else [self.key] if isinstance(self.key, str) else self.key

    @property
    def told_apart(self) -> list[Unique]:
        """Every set of columns that tells rows apart: the key, columns that are unique, columns that are so together."""
        by_name = {column.name: column for column in self.columns}
        found = []
        if self.keys:
            refuse = any(by_name[name].severity == "refuse" for name in self.keys if name in by_name)
            found.append(Unique(columns=self.keys, severity="refuse" if refuse else "quarantine"))
        found += [Unique(columns=[column.name], severity=column.severity) for column in self.columns if column.unique and [column.name] != self.keys]
        return found + self.unique


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the feeds that a dataset's rows come from. Each row keeps its source's name in ``_source``."""

    name: str
    location: str  # a path, a URL, 'python', 'feedback'; with secrets as ${NAME}
    trust: Trust = "internal"
    created_at: float


class Intake(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where ``kaizen data refresh`` looks for new rows, and what was taken from there."""

    location: str
    query: str | None = None
    cursor: str | None = None
    position: str | None = None  # the greatest value of the cursor that was taken
    source_name: str | None = None
    source_column: str | None = None
    partial: bool = False
    taken: dict[str, str] = {}  # files, or the one snapshot, each with a mark that is another one when its content is


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A named table with a contract and a history."""

    name: str
    contract: Contract
    source: str  # where rows come from: a path, a query, 'python', 'feedback'
    trust: Trust = "internal"  # the least of its sources'
    created_at: float
    sources: list[Source] = []  # oldest first; rows that were added before rows had a source count as the first one's


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """What a person decided on rows in quarantine. The rows are gone from there: released into a version, or dropped."""

    dataset: str
    number: int  # of the decision, from 1
    decision: Literal["released", "dropped"]
    rows: dict[int, list[int]]  # of each addition, by its version's number, the numbers of its rows, from 1
    version: str | None = None  # the version that released rows made
    why: str
    by: str
    at: float


class Suspicion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A source that is not internal and stands out from the others. It is told and nothing is dropped: a person decides."""

    source: str
    kind: str  # surprise (labels as if flipped), label (shifted, perhaps in a slice), pairs (values that come together too often)
    value: float
    limit: float  # what the other sources and shuffled ones stay below
    rows: int  # of the source, that were looked at
    about: str  # in words: how much, and where
    slice: dict[str, str] = {}  # column -> value or range, where it is not all rows
    remedy: str = ""


class DatasetVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One immutable version. Its rows are those whose ``_part`` is in ``parts``, on the table's newest state.

    Parts (and not the engine's own time travel) carry the history, so that a person's rows can be
    physically purged from the table while every version stays readable minus those rows.
    """

    dataset: str
    number: int
    parts: list[int]
    rows: int
    hash: str  # of content and schema
    columns: dict[str, Kind]
    source: str
    quarantined: int  # rows of this addition that went to quarantine
    code: str | None  # commit of the project, when it is under version control
    created_at: float
    profile: dict[str, Any] = {}  # per column: count, missing, mean, std, min, max, top values
    sources: dict[str, int] = {}  # rows by the name of their source; empty in versions made before rows had one
    personal: dict[str, Decision] = {}  # columns that tell of persons, dropped ones too, and how their values were stored
    forgotten: list[Forgotten] = []  # how the hash came to be, where rows were forgotten since
    key_print: str = ""  # fingerprint of the key behind pseudonyms and encryption, where there are any
    warnings: dict[str, int] = {}  # rules of severity `warn` that this addition broke, with how many rows
    contract: Contract | None = None  # as it stood when the rows came; None in versions made before it was kept
    suspicions: list[Suspicion] = []  # sources of this addition that stand out from the others
    undecided: dict[str, str] = {}  # columns without a decision that look as if they told of persons, why, and how one is made
    becoming: dict[str, Kind] = {}  # columns that are just being hidden, and the kind that they have as soon as their table holds them so

    @property
    def ref(self) -> str:
        return f"{self.dataset}@{self.number}"
