"""Models by name and number."""

from __future__ import annotations

import msgspec

from kaizenml.data.forgotten import Forgotten


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A trained or imported model, in the registry for good."""

    name: str
    number: int
    run: str  # id of the run that made it
    folder: str  # relative to the project's state
    hash: str  # sha256 over the folder's files
    created_at: float
    imported: bool = False  # made elsewhere; ``run`` is then the import's token
    forgotten: list[Forgotten] = []  # from ``hash`` to the one its files have now, where values of persons were taken out of them

    @property
    def files_hash(self) -> str:
        """The hash that the files have now."""
        return self.forgotten[-1].after if self.forgotten else self.hash

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"
