"""The certificate: what was searched, what went, what is left to decide. Signed, and without the subject's value."""

from __future__ import annotations

import hmac
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.data.keys import Keys
from kaizenml.errors import Corrupt, NotFound
from kaizenml.governance.forgetting.wish import Learnt

FORMAT = 1
FOLDER = "certificates"  # below the project's state


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A place that was searched, and how much went from it."""

    name: str
    removed: int


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset version, a model or a release whose hash is another one now."""

    what: str
    rows: int
    before: str
    after: str
    signature: str


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """That subjects were forgotten. Who has the project's key can tell whom: ``subjects`` holds their keyed digests."""

    format: int = FORMAT
    number: int
    subjects: list[dict[str, str]]  # column, digest
    asked_at: float
    done_at: float
    by: str
    why: str
    places: list[Place]
    renewed: list[Renewed]
    learnt: list[Learnt]
    keys_destroyed: int
    not_reached: list[str]  # what is not in our hands, in sentences
    signature: str = ""


def signed(certificate: Certificate, keys: Keys) -> Certificate:
    """Return the certificate with its signature."""
    return msgspec.structs.replace(certificate, signature=keys.sign(_covered(certificate)))


def check(certificate: Certificate, keys: Keys) -> None:
    """Raise Corrupt when the certificate is not as it was signed."""
    if not hmac.compare_digest(certificate.signature, keys.sign(_covered(certificate))):
        raise Corrupt(
            f"certificate {certificate.number} was changed, or was signed with another key",
            remedy="restore certificates/ and keys/ of the state folder from a backup",
            values={"certificate": certificate.number},
        )


def write(state: Path, certificate: Certificate) -> None:
    """Keep a certificate, as a document and as text."""
    folder = state / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"json": msgspec.json.format(msgspec.json.encode(certificate), indent=1) + b"\n", "md": text(certificate).encode()}
    for ending, body in texts.items():
        path = folder / f"{certificate.number:04d}.{ending}"
        fresh = path.with_name(f".{path.name}.new")
        with fresh.open("wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)


def every(state: Path) -> list[Certificate]:
    """Return the certificates, oldest first."""
    return [_read(path) for path in sorted((state / FOLDER).glob("[0-9]*.json"))]


def find(state: Path, number: int) -> Certificate:
    """Return one certificate; NotFound when there is none of this number."""
    path = state / FOLDER / f"{number:04d}.json"
    if not path.exists():
        known = [each.number for each in every(state)]
        raise NotFound(f"there is no certificate {number}", remedy="kaizen data forgotten", values={"number": number, "known": known[-50:]})
    return _read(path)


def text(certificate: Certificate) -> str:
    """Write the certificate for people, as Markdown."""
    whom = ", ".join(f"`{each['column']}` {each['digest'][:16]}..." for each in certificate.subjects)
    lines = [
        f"# Certificate {certificate.number} of forgetting", "",
        f"Forgotten: {whom} (keyed digests; the value itself is nowhere any more).", "",
        f"Asked {_time(certificate.asked_at)} by {certificate.by}{f', because: {certificate.why}' if certificate.why else ''}. "
        f"Done {_time(certificate.done_at)}.", "",
        "## What was searched, and what went", "",
        *_table(("place", "removed"), [(place.name, f"{place.removed:,}") for place in certificate.places]), "",
        f"Keys of encrypted values destroyed: {certificate.keys_destroyed}.", "",
        "## What has another hash now", "",
        *(_table(("what", "rows gone", "before", "after"), [(e.what, f"{e.rows:,}", f"`{e.before[:16]}`", f"`{e.after[:16]}`") for e in
                                                            certificate.renewed]) if certificate.renewed else ["Nothing."]), "",
        "## Releases that have learnt from it", "",
        *(_table(("release", "how", "rows"), [(e.release, e.how, f"{e.rows:,}") for e in certificate.learnt]) if certificate.learnt else ["None."]),
        "", "## What is not in kaizenml's hands", "",
        *(f"- {sentence}" for sentence in certificate.not_reached), "",
        f"Signature (HMAC-SHA256 with the project's key): `{certificate.signature}`", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _covered(certificate: Certificate) -> bytes:
    return msgspec.json.encode(msgspec.structs.replace(certificate, signature=""), order="deterministic")


def _read(path: Path) -> Certificate:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Certificate)
    except (OSError, msgspec.DecodeError) as error:
        raise Corrupt(f"{path} is no certificate: {error}", remedy="restore it from a backup", values={"file": str(path)}) from None
    if found.format > FORMAT:
        raise Corrupt(f"{path} has format {found.format}; this kaizenml reads up to {FORMAT}", remedy="pip install --upgrade kaizenml")
    return found


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    return ["| " + " | ".join(map(str, line)) + " |" for line in (head, tuple("---" for _ in head), *rows)]


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
