"""Models and releases in an object store, where ``[project] objects`` names one: each file under its hash, so nothing there ever changes.

Layout below ``objects``: ``files/SHA256`` holds a file; ``lists/HASH`` names the files of a folder, one ``SHA256  name`` a line, where HASH is
that of ``files.hash_of``. The state folder of each machine is a cache: what it lacks is fetched, and compared with its hash on the way in.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from kaizenml.context import Context
from kaizenml.errors import Corrupt, MissingExtra, NotFound, Unavailable
from kaizenml.registry import files


def keep(ctx: Context, folder: Path) -> None:
    """Bring every file of a folder to the object store; nothing happens where the project has none, or it has the files.

    Call it before the catalog says that the folder exists: then whoever reads the catalog finds the files.
    """
    store = _store(ctx)
    if store is None:
        return
    found = files.hash_files(folder)
    text = _list(found)
    with _Answers():
        for name, digest in found.items():
            if not _has(store, f"files/{digest}"):
                _client().put(store, f"files/{digest}", folder / name)
        _client().put(store, f"lists/{files.hash_of(found)}", text)  # last: a list that is there names files that are there


def replace(ctx: Context, before: Path, after: Path) -> None:
    """Bring the files of ``after`` to the object store and delete those of ``before`` that are not among them, as a forgetting asks.

    Repeatable: call it while ``before`` still stands, so that one who was killed in between calls it again.
    """
    store = _store(ctx)
    if store is None:
        return
    old, new = files.hash_files(before), files.hash_files(after)
    keep(ctx, after)
    with _Answers():
        for name in [*(f"files/{digest}" for digest in set(old.values()) - set(new.values())), f"lists/{files.hash_of(old)}"]:
            if old != new and _has(store, name):
                _client().delete(store, name)


def keeps_versions(ctx: Context) -> bool:
    """Whether the bucket keeps what was deleted or written over, as an older version of the object."""
    store = _store(ctx)
    if store is None:
        return False
    with _Answers():
        told = _client().put(store, "lists/probe", b"")
        _client().delete(store, "lists/probe")
    return told["version"] not in (None, "null")


def fetch(
    ctx: Context, folder: Path, *, known: dict[str, str] | None = None, digest: str | None = None, last: dict[str, bytes] | None = None
) -> bool:
    """Bring a folder that this machine lacks from the object store; return whether it is there now.

    Parameters
    ----------
    folder : below the state folder; one that is there is left as it is.
    known : its files by hash; or ``digest``, the hash of their list.
    last : files to write beside them.

    Raises
    ------
    Corrupt : an object is not what its name says.
    Unavailable : the object store does not answer.
    """
    if folder.is_dir():
        return True
    store = _store(ctx)
    if store is None:
        return False
    with _Answers(), files.aside(folder.parent) as fresh:
        try:
            wanted = _listed(store, digest) if known is None and digest is not None else known or {}
            for name, expected in wanted.items():
                _take(store, expected, fresh / name)
        except FileNotFoundError:
            return False
        for name, content in (last or {}).items():
            files.write_file(fresh / name, content)
        if not folder.is_dir():  # another process may have been quicker
            files.settle(fresh, folder)
    return True


def _take(store: Any, expected: str, target: Path) -> None:
    content = _client().get(store, f"files/{expected}")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in content.stream(min_chunk_size=1 << 20):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    _compare(f"files/{expected}", expected, digest.hexdigest())


def _listed(store: Any, digest: str) -> dict[str, str]:
    text = bytes(_client().get(store, f"lists/{digest}").bytes())
    _compare(f"lists/{digest}", digest, hashlib.sha256(text).hexdigest())
    lines = [line.split("  ", 1) for line in text.decode().splitlines()]
    found = {name: expected for expected, name in lines}
    if strange := [name for name in found if name.startswith("/") or ".." in Path(name).parts]:
        raise Corrupt("a list of files names one outside of its folder", remedy="find out who can write there", values={"file": strange[0]})
    return found


def _list(found: dict[str, str]) -> bytes:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(found.items())).encode()  # as files.hash_of hashes it


def _compare(name: str, expected: str, found: str) -> None:
    if found != expected:
        what = f"the object {name} is not what its name says"
        raise Corrupt(what, remedy="restore it from a backup, and find out who can write there", values={"expected": expected, "found": found})


def _has(store: Any, name: str) -> bool:
    try:
        _client().head(store, name)
    except FileNotFoundError:
        return False
    return True


def _client() -> Any:
    try:
        import obstore
    except ImportError:
        raise MissingExtra("obstore is not installed here, and [project] objects needs it", remedy="pip install 'kaizenml[s3]'") from None
    return obstore


def _store(ctx: Context) -> Any:
    objects = ctx.settings.project.objects
    if objects is None:
        return None
    _client()
    from obstore.store import from_url

    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    patience: Any = {"timeout": "60s", "connect_timeout": "5s", "allow_http": plain}
    with _Answers():
        return from_url(objects, client_options=patience, retry_config={"max_retries": 4})


class _Answers:
    """Turns what the object store says into our errors; a missing object stays FileNotFoundError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        module = type(error).__module__
        if error is None or isinstance(error, FileNotFoundError | Corrupt | NotFound) or not module.startswith("obstore"):
            return
        remedy = "check AWS_ENDPOINT_URL, AWS_REGION, the keys and [project] objects; repeat"
        raise Unavailable("the object store does not answer as it should", remedy=remedy, values={"reason": str(error)[:300]}) from error
