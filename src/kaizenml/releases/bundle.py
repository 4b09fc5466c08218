"""The bundle: a folder with everything that serving a release needs, and the manifest that says what must be in it.

``release.json`` (the manifest), ``model/``, ``example.json`` (real request rows), ``card.md``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.errors import Corrupt, NotFound
from kaizenml.registry import files
from kaizenml.releases.release import Manifest, Pins

MANIFEST = "release.json"
MODEL = "model"
EXAMPLE = "example.json"
CARD = "card.md"
FORMAT = 1


def content_hash(pins: Pins, files: dict[str, str]) -> str:
    """Return the release's hash: over pins and files, not over evidence, names or times. Equal content, equal hash."""
    return hashlib.sha256(msgspec.json.encode([pins, sorted(files.items())], order="deterministic")).hexdigest()


def fill(folder: Path, model: Path, example: list[dict[str, Any]]) -> None:
    """Copy the model into a fresh bundle and put the example beside it."""
    files.copy_files(model, folder / MODEL)
    files.write_file(folder / EXAMPLE, msgspec.json.format(msgspec.json.encode(example), indent=1) + b"\n")


def hashed(folder: Path) -> dict[str, str]:
    """Return the hash of every file that the release's own hash covers: the model and the example."""
    covered = files.hash_files(folder)
    return {name: digest for name, digest in covered.items() if name not in (MANIFEST, CARD)}


def seal(folder: Path, manifest: Manifest, card: str) -> Manifest:
    """Write card and manifest; return the manifest with the hashes of all other files."""
    files.write_file(folder / CARD, card.encode())
    whole = {name: digest for name, digest in files.hash_files(folder).items() if name != MANIFEST}
    sealed = msgspec.structs.replace(manifest, files=whole)
    files.write_file(folder / MANIFEST, written(sealed))
    return sealed


def written(manifest: Manifest) -> bytes:
    """Return a manifest as it stands in its file."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def read(folder: Path) -> Manifest:
    """Read a bundle's manifest.

    Raises
    ------
    NotFound : there is no bundle.
    Corrupt : ``release.json`` is not a manifest, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise NotFound(f"there is no release in {folder}", remedy="kaizen releases list", values={"folder": str(folder)}) from None
    except msgspec.DecodeError as error:
        raise Corrupt(f"{path} is not a release: {error}", remedy="restore it from a backup, or release again", values={"file": str(path)}) from None
    if found.format > FORMAT:
        raise Corrupt(f"{path} has format {found.format}; this kaizenml reads up to {FORMAT}", remedy="pip install --upgrade kaizenml")
    return found


def verify(folder: Path) -> Manifest:
    """Hash every file of a bundle again, and the release's own hash from pins and files.

    Raises
    ------
    NotFound : there is no bundle.
    Corrupt : a file differs, is missing or was added; the message names it.
    """
    manifest = read(folder)
    remedy = f"restore {folder} from a backup, or roll back to another release"
    found = {name: digest for name, digest in files.hash_files(folder).items() if name != MANIFEST}
    files.compare(found, manifest.files, folder=folder, what=f"release {manifest.ref}", remedy=remedy)
    covered = {name: digest for name, digest in manifest.files.items() if name != CARD}
    digest = content_hash(manifest.pins, covered)
    expected = manifest.forgotten[-1].after if manifest.forgotten else manifest.hash
    if digest != expected:
        raise Corrupt(
            f"release {manifest.ref}: {MANIFEST} was changed; its pins and files do not give its hash",
            remedy=remedy,
            values={"file": str(folder / MANIFEST), "expected": expected, "found": digest},
        )
    return manifest
