"""Releases: what is pinned, and the evidence that it may go to production."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kaizenml.data.forgotten import Forgotten


class Pins(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly what a release is made of."""

    model: str  # name@number
    model_hash: str
    data: list[str]  # dataset name@number, the training dataset first
    data_hashes: list[str]
    features: list[str]  # view name.version
    code: str | None  # commit of the project; ``-dirty`` behind it when files were changed
    libraries: dict[str, str]  # distribution -> version, of what serving and training load
    libraries_hash: str


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """A gate with its evidence. ``naive``, ``champion``, ``poison``, ``parity``, ``load``."""

    name: str
    passed: bool
    summary: str  # one line with numbers
    evidence: dict[str, Any]


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """An immutable pin, ``name@number``. ``hash`` covers pins and model files, not the evidence."""

    name: str
    number: int
    hash: str
    pins: Pins
    gates: list[GateResult]
    state: Literal["passed", "refused"]
    bundle: str  # folder for serving, relative to the project's state
    why: str
    created_at: float
    exclusions: list[int] = []  # of rows, that held when its model was trained

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def failed(self) -> list[GateResult]:
        """The gates that said no (one that was not run, because another had said no, said nothing)."""
        return [gate for gate in self.gates if not gate.passed and "not_run" not in gate.evidence]


class Manifest(Release, frozen=True, kw_only=True):
    """``release.json`` of a bundle: the release, and the hash of every other file beside it. Reads as a Release too."""

    format: int = 1
    files: dict[str, str]  # path in the bundle -> sha256
    forgotten: list[Forgotten] = []  # from ``hash`` to the one its files give now, where values of persons were taken out of them
