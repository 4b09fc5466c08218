"""Folders of immutable files: copied in whole or not at all, and known by the hash of every file in them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kaizenml.errors import Corrupt, StorageFull


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


def check_files(folder: Path, expected: dict[str, str], *, what: str, remedy: str) -> None:
    """Compare every file below ``folder`` with its hash.

    Raises
    ------
    Corrupt : a file is missing, differs, or was added; the message names it.
    """
    found = hash_files(folder)
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
def aside(parent: Path, name: str) -> Iterator[Path]:
    """Hand out a fresh hidden folder below ``parent``; whatever is still in it at the end is removed.

    Fill it, then ``settle`` it. A process that dies leaves it behind under a name that nothing
    reads, and the next one that asks for the same ``name`` starts it afresh.
    """
    folder = parent / f".{name}.new"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the disk is full; nothing was half-written", remedy="free some space and repeat", values={"folder": str(parent)}) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
