"""Datasets, their contracts and versions."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal["number", "integer", "boolean", "category", "timestamp", "text"]
Trust = Literal["internal", "partner", "public"]
Decision = Literal["drop", "pseudonym", "encrypt", "keep"]


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


class Contract(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The promise of a dataset's source, under version control as ``contracts/NAME.toml``."""

    columns: list[Column]
    key: str | None = None
    time: str | None = None
    subject: str | None = None  # column that says whom a row is about; encrypted columns have a key for each of its values


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the feeds that a dataset's rows come from. Each row keeps its source's name in ``_source``."""

    name: str
    location: str  # a path, a URL, 'python', 'feedback'; with secrets as ${NAME}
    trust: Trust = "internal"
    created_at: float


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A named table with a contract and a history."""

    name: str
    contract: Contract
    source: str  # where rows come from: a path, a query, 'python', 'feedback'
    trust: Trust = "internal"  # the least of its sources'
    created_at: float
    sources: list[Source] = []  # oldest first; rows that were added before rows had a source count as the first one's


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
    key_print: str = ""  # fingerprint of the key behind pseudonyms and encryption, where there are any

    @property
    def ref(self) -> str:
        return f"{self.dataset}@{self.number}"
