"""Folders of immutable files: copied in whole or not at all, and known by the hash of every file in them."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kaizenml.errors import Corrupt, StorageFull
from kaizenml.scratch import Scratch

_ASIDE = ".new"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE


def hash_files(folder: Path) -> dict[str, str]:
    """Return sha256 by path (relative, ``/`` between parts, sorted) of every file below ``folder``."""
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return files


def hash_of(files: dict[str, str]) -> str:
    """Return one hash over names and contents; the same files give the same hash wherever they lie."""
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def compare(found: dict[str, str], expected: dict[str, str], *, folder: Path, what: str, remedy: str) -> None:
    """Compare hashes by path with those that were written down.

    Raises
    ------
    Corrupt : a file is missing, differs, or was added; the message names it.
    """
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            how = "is missing" if name not in found else "was added" if name not in expected else "differs from its hash"
            raise Corrupt(
                f"{what}: {name} {how}",
                remedy=remedy,
                values={"file": str(folder / name), "expected": expected.get(name), "found": found.get(name)},
            )


def copy_files(source: Path, target: Path) -> None:
    """Copy every file below ``source``, durably. Contents are copied, never linked: the source may be deleted or changed."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as reader, to.open("wb") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)
                writer.flush()
                os.fsync(writer.fileno())


def write_file(path: Path, content: bytes) -> None:
    """Write one file durably."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def aside(parent: Path) -> Iterator[Path]:
    """Hand out a fresh hidden folder below ``parent``; whatever is still in it at the end is removed.

    Fill it, then ``settle`` it. What a killed process left behind is swept by the next one.
    """
    try:
        with Scratch(parent, ".", _ASIDE) as folder:
            folder.chmod(0o755)
            yield folder
    except OSError as error:
        # copying a folder gathers what went wrong in words only
        copying = isinstance(error, shutil.Error) and any(f"[Errno {number}]" in str(error) for number in _FULL)
        if error.errno in _FULL or copying:
            what = "the disk is full; nothing was half-written"
            raise StorageFull(what, remedy="free some space and repeat", values={"folder": str(parent)}) from error
        raise


def settle(filled: Path, final: Path) -> None:
    """Move a filled folder to its place at once.

    Call it inside the write transaction that has just chosen ``final``'s number: then a folder that
    already stands there belongs to a process that died before its commit, and nobody refers to it.
    """
    if final.exists():
        shutil.rmtree(final)
    os.replace(filled, final)
    handle = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(filled: Path, final: Path) -> None:
    """Put a filled folder in the place of the one that stands there, and remove that one. Readers find one of the two, whole.

    Where the system cannot exchange two names at once, there is a moment without either; ``restored`` mends what a kill leaves then.
    """
    for name in (filled, final):
        if not name.is_dir():
            raise FileNotFoundError(name)
    if not _exchanged(filled, final):
        old = _old(final)
        os.replace(final, old)
        os.replace(filled, final)
        shutil.rmtree(old)
    for place in (final, final.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def restored(final: Path) -> None:
    """Bring a folder back that an exchange was killed over."""
    old = _old(final)
    if old.is_dir():
        if final.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, final)


def _old(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _exchanged(one: Path, other: Path) -> bool:
    library = ctypes.CDLL(None, use_errno=True)
    rename = getattr(library, "renameat2", None)  # Linux; Python has no word for it
    return rename is not None and rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0
