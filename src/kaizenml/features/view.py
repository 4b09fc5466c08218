"""Feature views: versioned definitions of features over a dataset."""

from __future__ import annotations

import hashlib

import msgspec


class FeatureView(msgspec.Struct, frozen=True, kw_only=True):
    """The newest known values of ``columns`` for each value of ``entity``; as features they are named ``{name}_{column}``."""

    name: str
    dataset: str
    entity: str
    columns: list[str]
    at: str | None = None  # event time; None: a timeless look-up
    ttl_s: float | None = None

    @property
    def version(self) -> str:
        """The hash of the definition: change anything and it is another version."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:12]

    @property
    def ref(self) -> str:
        return f"{self.name}.{self.version}"
