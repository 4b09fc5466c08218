"""Keys behind pseudonyms and encrypted values. Hot path: imports only the standard library and errors.

The project's key makes pseudonyms: HMAC-SHA256, so that whoever has the table cannot find the value by trying all of them. Each
subject (a customer, a patient) has random bytes of its own beside it; both together are the key of that subject's encrypted
values. Destroying the random bytes makes the values unreadable wherever they are, in backups and copies too.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import math
import os
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from kaizenml import sqlite_file
from kaizenml.errors import Corrupt, InvalidSettings, MissingExtra

if TYPE_CHECKING:
    from kaizenml.context import Context

VARIABLE = "KAIZEN_PSEUDONYM_KEY"
PSEUDONYM = re.compile(r"kzp_[0-9a-f]{32}")
SEALED = re.compile(r"kze_[A-Za-z0-9_-]{38,}={0,2}")
_SHORTEST = 32  # characters of a key from the environment
_BATCH = 500  # SQLite takes so many values in one question, and more


class Keys:
    """The keys of one project.

    Parameters
    ----------
    project : the project's secret.
    subjects : the file with the subjects' random bytes; made when the first is needed.
    """

    def __init__(self, project: bytes, subjects: Path) -> None:
        self._project = project
        self._subjects = subjects
        self.fingerprint = self._mac("fingerprint", b"")[:8].hex()
        self._pseudonym = self._mac("pseudonym", b"")

    def pseudonym(self, text: str) -> str:
        """Return the pseudonym of a value; the same for the same value in every column, and of a pseudonym itself."""
        if text.startswith("kzp_") and PSEUDONYM.fullmatch(text):
            return text
        return "kzp_" + hmac.digest(self._pseudonym, text.encode("utf-8", "surrogatepass"), "sha256")[:16].hex()

    def pseudonym_of(self, value: Any) -> str | None:
        """Return the pseudonym of a plain value as requests hold it: 42 and 42.0 are "42"; None and "" stay missing."""
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool):
            return self.pseudonym("true" if value else "false")
        if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 2.0**53:
            value = int(value)
        return self.pseudonym(str(value))

    def identity(self, column: str, value: str) -> bytes:
        """Return what a subject is filed under: nobody reads the value from it without the project's key."""
        return self._mac("subject", f"{column}\0{self.pseudonym(value)}".encode("utf-8", "surrogatepass"))

    def of_subjects(self, column: str, values: Iterable[str], *, create: bool = True) -> dict[str, bytes]:
        """Return the keys of subjects by their values.

        Parameters
        ----------
        column : the subject column's name; equal values of equally named columns are one subject in all datasets.
        values : whom; raw or as pseudonyms.
        create : make the keys that are not there; else these are left out.
        """
        identities = {self.identity(column, value): value for value in values}
        if not identities or not (create or self._subjects.exists()):
            return {}
        found: dict[bytes, bytes] = {}
        with self._opened() as connection, sqlite_file.transaction(connection) if create else contextlib.nullcontext():
            wanted = list(identities)
            if create:
                connection.executemany("INSERT OR IGNORE INTO subjects VALUES (?, ?)", ((one, secrets.token_bytes(32)) for one in wanted))
            for low in range(0, len(wanted), _BATCH):
                block = wanted[low : low + _BATCH]
                marks = ",".join("?" * len(block))
                found |= dict(connection.execute(f"SELECT id, salt FROM subjects WHERE id IN ({marks})", block))  # noqa: S608  (question marks only)
        return {value: self._mac("encrypt", found[one]) for one, value in identities.items() if one in found}

    def sign(self, message: bytes) -> str:
        """Return the proof that whoever holds the project's key has seen this message."""
        return self._mac("sign", message).hex()

    def digest(self, text: str) -> str:
        """Return what a value can be recognised by, with the project's key and not without."""
        return self._mac("digest", text.encode("utf-8", "surrogatepass")).hex()

    def digests(self, column: str, texts: Iterable[str]) -> list[bytes]:
        """Return ``digest`` of ``COLUMN=VALUE`` for each value, as bytes: certificates name subjects by it."""
        begun = hmac.new(self._project, b"digest\0" + f"{column}=".encode("utf-8", "surrogatepass"), "sha256")
        return _each(begun, texts)

    def marks(self, column: str, texts: Iterable[str]) -> list[bytes]:
        """Return by what forgotten subjects of a column are recognised, for each value: keyed BLAKE2b, 16 bytes.

        Whole columns are looked through at each addition, and this takes a third of an HMAC's time.
        """
        begun = hashlib.blake2b(f"{column}\0".encode("utf-8", "surrogatepass"), key=self._mac("marks", b""), digest_size=16)
        return _each(begun, texts)

    def destroy(self, column: str, value: str) -> bool:
        """Destroy a subject's key; return whether there was one. Its bytes are overwritten in the file."""
        if not self._subjects.exists():
            return False
        with self._opened() as connection, sqlite_file.transaction(connection):
            return connection.execute("DELETE FROM subjects WHERE id = ?", (self.identity(column, value),)).rowcount > 0

    def _mac(self, purpose: str, message: bytes) -> bytes:
        return hmac.digest(self._project, purpose.encode() + b"\0" + message, "sha256")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Open the subjects' file."""
        if not self._subjects.exists():
            self._subjects.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._subjects, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite_file.connect(self._subjects, wait_s=60.0)
        try:
            # no write-ahead log: it would hold on to a key that was destroyed
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE IF NOT EXISTS subjects (id BLOB PRIMARY KEY, salt BLOB NOT NULL) WITHOUT ROWID")
            yield connection
        finally:
            connection.close()


@overload
def open_keys(state: Path, environ: Mapping[str, str] | None = None) -> Keys: ...
@overload
def open_keys(state: Path, environ: Mapping[str, str] | None = None, *, create: bool) -> Keys | None: ...
def open_keys(state: Path, environ: Mapping[str, str] | None = None, *, create: bool = True) -> Keys | None:
    """Open a project's keys, making them when there are none.

    Parameters
    ----------
    state : the project's state folder; the key lies there in ``keys/project.key``, readable by its user alone.
    environ : where ``KAIZEN_PSEUDONYM_KEY`` stands before that file; default the process's own. Set to what the file holds, it is the
        same key.
    create : make a key where there is none; else None is returned then.

    Raises
    ------
    InvalidSettings : the variable's value is too short to be a secret.
    Corrupt : the file is damaged.
    """
    given = (os.environ if environ is None else environ).get(VARIABLE)
    subjects = state / "keys" / "subjects.db"
    if given is not None:
        if len(given) < _SHORTEST:
            raise InvalidSettings(
                f"{VARIABLE} has {len(given)} characters; a key needs {_SHORTEST} at least",
                remedy="python -c 'import secrets; print(secrets.token_hex(32))' makes one",
                values={"characters": len(given), "least": _SHORTEST},
            )
        return Keys(hashlib.sha256(given.strip().encode()).digest(), subjects)
    file = state / "keys" / "project.key"
    return Keys(_kept(file), subjects) if create or file.exists() else None


def _each(begun: Any, texts: Iterable[str]) -> list[bytes]:
    """Return the digest of each text behind what the hash has taken so far."""
    found = []
    for text in texts:
        one = begun.copy()
        one.update(text.encode("utf-8", "surrogatepass"))
        found.append(one.digest())
    return found


def destroy(ctx: Context, subject_column: str, value: str) -> bool:
    """Destroy the key of a subject's encrypted values; return whether there was one.

    Parameters
    ----------
    subject_column : the column that says whom a row is about, such as ``customer_id``.
    value : whom, as it reads; raw or as a pseudonym.
    """
    return open_keys(ctx.state).destroy(subject_column, value)


def seal(key: bytes, text: str) -> str:
    """Encrypt a value with AES-256-GCM; a sealed one is returned as it is."""
    if text.startswith("kze_") and SEALED.fullmatch(text):
        return text
    nonce = secrets.token_bytes(12)
    return "kze_" + base64.urlsafe_b64encode(nonce + _cipher(key).encrypt(nonce, text.encode("utf-8", "surrogatepass"), None)).decode()


def unseal(key: bytes, text: str) -> str:
    """Decrypt a sealed value.

    Raises
    ------
    Corrupt : it was sealed with another key, or changed.
    """
    from cryptography.exceptions import InvalidTag

    try:
        raw = base64.urlsafe_b64decode(text.removeprefix("kze_"))
        return _cipher(key).decrypt(raw[:12], raw[12:], None).decode("utf-8", "surrogatepass")
    except (InvalidTag, ValueError) as error:
        remedy = "restore the folder keys/ of the state folder that belongs to this data"
        raise Corrupt("an encrypted value cannot be read with its subject's key", remedy=remedy) from error


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        remedy = 'pip install "kaizenml[pii]", or decide pseudonym or drop'
        raise MissingExtra("cryptography is not installed here, and encrypted columns need it", remedy=remedy) from None
    return AESGCM(key)


if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def _kept(path: Path) -> bytes:
    """Return the key in the file, made if there is none; of two processes that make it, both get the same."""
    with contextlib.suppress(FileNotFoundError):
        return _decoded(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return _decoded(path)


def _decoded(path: Path) -> bytes:
    text = path.read_bytes().strip()
    if not re.fullmatch(rb"[0-9a-f]{64}", text):
        remedy = f"restore {path} from a backup: pseudonyms made with it cannot be made again without it"
        raise Corrupt(f"{path} holds no key", remedy=remedy, values={"file": str(path)})
    return hashlib.sha256(text).digest()
