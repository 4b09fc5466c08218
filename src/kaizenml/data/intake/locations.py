"""Where files lie: folders, globs and object stores. Secrets stay in the environment: locations are recorded as they were written."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from kaizenml.context import Context
from kaizenml.data.intake import object_stores, sources
from kaizenml.data.intake.streams import Located, reachable
from kaizenml.errors import InvalidData, NotFound, UsageError

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_PASSWORD = re.compile(r"(?P<head>[a-zA-Z][\w+.-]*://[^/@\s:]*:)(?P<secret>[^@\s]+)@")
_PARAMETER = re.compile(r"([?&](?:password|passwd|pwd|secret[\w-]*|token|access_key|sas[\w-]*|sig)=)[^&\s]+", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")


def filled_in(text: str) -> str:
    """Put the environment's values in the place of ``${NAME}``.

    Raises
    ------
    UsageError : a variable is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in os.environ:
            raise UsageError(f"the environment has no {name}, which the source asks for", remedy=f"export {name}=...", values={"variable": name})
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def masked(text: str) -> str:
    """Return a text without the passwords that stand in its addresses. ``${NAME}`` is no secret and stays."""

    def hidden(match: re.Match[str]) -> str:
        return f"{match['head']}{match['secret'] if _VARIABLE.fullmatch(match['secret']) else '***'}@"

    text = _PASSWORD.sub(hidden, text)
    return _PARAMETER.sub(lambda match: match[0] if _VARIABLE.search(match[0]) else f"{match[1]}***", text)


def check_no_secret(location: str) -> None:
    """Raise UsageError when a location holds a password, for it would be recorded."""
    if masked(location) != location:
        raise UsageError(
            f"the source {masked(location)} holds a password, and sources are recorded",
            remedy="put it into the environment and write ${NAME} in its place, within single quotes",
            values={"source": masked(location)},
        )


def scheme_of(location: str) -> str | None:
    """Return the scheme of a URL, None for a path."""
    match = re.match(r"([a-zA-Z][\w+.-]*)://", location)
    return match[1].lower() if match else None


def files_at(ctx: Context, location: str) -> list[Located]:
    """Return the files that a location means, by name: one file, those of a folder, or those that a glob fits.

    Raises
    ------
    NotFound : there is none.
    Unavailable : the object store does not answer.
    """
    shown = location
    filesystem, path = _resolve(ctx, filled_in(location), shown)
    folder, pattern = _split(path)
    found = list(_listed(ctx, filesystem, folder, pattern, shown)) if pattern or _is_folder(filesystem, path, shown) else []
    if not found and pattern is None and not _is_folder(filesystem, path, shown):
        return [_one(ctx, filesystem, path, shown)]
    if not found:
        raise NotFound(
            f"{shown} holds no file that can be loaded", remedy=f"give files that end in {', '.join(sources.ENDINGS[:8])}, ...",
            values={"source": shown, "known": list(sources.ENDINGS)},
        )  # fmt: skip
    return found


def is_many(ctx: Context, location: str) -> bool:
    """Whether a location means a folder or a glob, to which files may come."""
    filesystem, path = _resolve(ctx, filled_in(location), location)
    return _split(path)[1] is not None or _is_folder(filesystem, path, location)


def store_of(uri: str, shown: str) -> tuple[Any, str]:
    """Return pyarrow's file system for an address in an object store, and the path in it. Keys and server are as the environment says."""
    with reachable(shown):
        return object_stores.store_of(uri, shown)


def _resolve(ctx: Context, location: str, shown: str) -> tuple[Any, str]:
    scheme = scheme_of(location)
    if scheme in SCHEMES:
        return store_of(location, shown)
    if scheme is not None and scheme != "file":
        raise UsageError(
            f"{masked(shown)} is no address of files: {scheme}:// is not among {', '.join(SCHEMES)}",
            remedy="for a database, give --query too; else download the file",
            values={"scheme": scheme},
        )
    path = Path(location.removeprefix("file://")).expanduser()
    if not path.is_absolute():
        here = folder_of(str(path))
        if not Path(here).exists() and (ctx.root / here).exists():
            path = ctx.root / path
    return None, str(path if path.is_absolute() or not _GLOB.search(str(path)) else path.absolute())


def folder_of(path: str) -> str:
    """Return a path, up to its first wildcard where it has one."""
    return _split(path)[0]


def _split(path: str) -> tuple[str, str | None]:
    """Return the folder of a path before its first wildcard, and the rest; None without a wildcard. A file of that very name goes before."""
    match = _GLOB.search(path)
    if match is None or Path(path).exists():
        return path, None
    folder = path[: match.start()].rpartition("/")[0]
    return folder or ("/" if path.startswith("/") else "."), path[len(folder) + 1 if folder else 0 :]


def _is_folder(filesystem: Any, path: str, shown: str) -> bool:
    if filesystem is None:
        try:
            return Path(path).is_dir()
        except OSError:
            return False
    from pyarrow import fs

    with reachable(shown):
        return bool(filesystem.get_file_info(path).type == fs.FileType.Directory)


def _listed(ctx: Context, filesystem: Any, folder: str, pattern: str | None, shown: str) -> Iterator[Located]:
    from pyarrow import fs

    where = filesystem or fs.LocalFileSystem()
    with reachable(shown):
        infos = where.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    for info in sorted(infos, key=lambda info: str(info.path)):
        relative = str(info.path)[len(folder) :].lstrip("/")
        parts = PurePosixPath(relative).parts
        hidden = any(part.startswith((".", "_")) for part in parts)
        wanted = _fits(relative, pattern) if pattern else not hidden and sources.loadable(PurePath(relative))
        if info.type == fs.FileType.File and wanted:
            yield _located(ctx, filesystem, str(info.path), info)


def _fits(relative: str, pattern: str) -> bool:
    """Whether a path fits a glob: ``*`` stays within a folder, ``**`` does not."""
    return _fits_parts(relative.split("/"), pattern.split("/"))


def _fits_parts(parts: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_fits_parts(parts[skipped:], patterns[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _fits_parts(parts[1:], patterns[1:])


def _one(ctx: Context, filesystem: Any, path: str, shown: str) -> Located:
    from pyarrow import fs

    if filesystem is None:
        sources.check_is_file(Path(path))
        return _located(ctx, None, path, fs.LocalFileSystem().get_file_info(path))
    with reachable(shown):
        info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise NotFound(f"there is no file {shown}", remedy="check the address", values={"file": shown})
    return _located(ctx, filesystem, path, info)


def _located(ctx: Context, filesystem: Any, path: str, info: Any) -> Located:
    if filesystem is None:
        absolute = Path(path).resolve()
        shown = str(absolute.relative_to(ctx.root) if absolute.is_relative_to(ctx.root) else absolute)
    else:
        shown = f"{ {'s3': 's3', 'gcs': 'gs', 'abfs': 'az'}.get(filesystem.type_name, filesystem.type_name) }://{path}"
    if info.size == 0:
        raise InvalidData(f"{shown} is empty (0 bytes)", remedy="give a file with a header and rows", values={"file": shown, "rows": 0})
    return Located(shown, path, filesystem, int(info.size), f"{info.size}:{info.mtime_ns}")
