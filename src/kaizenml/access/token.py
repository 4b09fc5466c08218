"""API tokens and the rules about them. Hot path: imports only the standard library and msgspec.

A token is ``kzn_`` + its id + ``_`` + 256 random bits. Only the SHA-256 of the whole text is kept: of a secret that nobody can
guess, a slow hash would protect no better.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import math
import os
import secrets
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal, get_args

import msgspec

from kaizenml.access import buckets
from kaizenml.access.buckets import Buckets
from kaizenml.errors import Conflict, Corrupt, Forbidden, RateLimited, Unauthorized

Scope = Literal["predict", "outcomes", "features", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
FILE = "tokens.json"  # below the project's state folder, in ``serving/``
FORMAT = 1
_PREFIX = "kzn_"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is kept: everything but the secret. Times are the machine's, never a simulated clock's.

    ``admin`` is every scope. ``rate`` is requests a second over all workers; None: as many as can be served.
    """

    name: str
    id: str
    hash: str
    scopes: list[Scope]
    rate: float | None = None
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None

    def valid(self, now: float) -> bool:
        """Tell whether it opens anything at the moment ``now`` (seconds since 1970)."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The file that serving processes read."""

    format: int = FORMAT
    tokens: list[Token]


def make(taken: Collection[str] = ()) -> tuple[str, str]:
    """Return a fresh id and the whole text of its token.

    Parameters
    ----------
    taken : ids of the tokens that are valid; each has a bucket of its own.

    Raises
    ------
    Conflict : there are as many valid tokens as there are buckets.
    """
    full = {buckets.slot(identity) for identity in taken}
    if len(full) >= buckets.SLOTS:
        raise Conflict(f"there are {len(full):,} valid tokens, and no room for more", remedy="kaizen tokens revoke NAME", values={"valid": len(full)})
    while True:
        identity = secrets.token_hex(4)
        if buckets.slot(identity) not in full:
            return identity, f"{_PREFIX}{identity}_{secrets.token_urlsafe(32)}"


def digest(text: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, tokens: Iterable[Token]) -> None:
    """Replace the file, if it is to change."""
    raw = msgspec.json.encode(Kept(tokens=list(tokens)))
    with contextlib.suppress(OSError):  # none yet, or another user's: replaced
        if path.read_bytes() == raw:
            return
    write_private(path, raw)


def write_private(path: Path, raw: bytes) -> None:
    """Replace a file at once, readable by this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)  # one that a killed process left might have other rights
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def read(path: Path) -> list[Token]:
    """Read the tokens; FileNotFoundError when none was ever made.

    Raises
    ------
    Corrupt : it is damaged, or was written by a newer kaizenml.
    """
    raw = path.read_bytes()
    try:
        kept = msgspec.json.decode(raw, type=Kept)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        remedy = "kaizen loop --once writes it afresh, and so does a start of kaizen serve"
        raise Corrupt(f"the file of tokens cannot be read ({error})", remedy=remedy, values={"file": str(path)}) from None
    if kept.format > FORMAT:
        what = f"the file of tokens has format {kept.format}, this server reads up to {FORMAT}"
        raise Corrupt(what, remedy="pip install --upgrade kaizenml", values={"file": str(path), "found": kept.format, "known": FORMAT})
    return kept.tokens


class Keyring:
    """Lets in who shows a valid token, as often as it may.

    Parameters
    ----------
    tokens : those that are kept.
    fixed : tokens with every scope and no limit, as texts by their owner's name: from the environment, and the project owner's.
    rates : counts how often each is used; None: rates are not held.
    """

    def __init__(self, tokens: Iterable[Token], *, fixed: Mapping[str, str] | None = None, rates: Buckets | None = None) -> None:
        self._known = {token.id: token for token in tokens}
        self._fixed = [(name, digest(text)) for name, text in (fixed or {}).items()]
        self._rates = rates

    def check(self, shown: str, scope: Scope | None, *, now: float, tick: float) -> str:
        """Let the owner of a token in, or raise.

        Parameters
        ----------
        shown : the ``Authorization`` header's value; "" when there was none.
        scope : what is to be done; None: anything that some token may.
        now : seconds since 1970, by the machine's clock: a token ends when it says, also while time is simulated.
        tick : seconds of the machine's steady clock, for the rate.

        Returns
        -------
        The token's name.

        Raises
        ------
        Unauthorized : no token, an unknown, expired or revoked one. Which of these is not told.
        Forbidden : the token's scopes do not hold this one.
        RateLimited : more requests than its rate.
        """
        kind, _, text = shown.partition(" ")
        text = text.strip()
        if kind.lower() != "bearer" or not text:
            raise Unauthorized("a token is needed", remedy="send 'Authorization: Bearer TOKEN'; kaizen tokens create NAME makes one")
        hashed = digest(text)
        for name, known in self._fixed:
            if hmac.compare_digest(hashed, known):
                return name
        identity = text[len(_PREFIX) :].partition("_")[0] if text.startswith(_PREFIX) else ""
        token = self._known.get(identity)
        # the comparison runs also for unknown ids, so that time does not tell which ids there are
        fits = hmac.compare_digest(hashed, token.hash if token else "0" * 64)
        if token is None or not fits or not token.valid(now):
            raise Unauthorized("the token is not valid", remedy="kaizen tokens list shows which are; kaizen tokens create NAME makes one")
        if scope is not None and scope not in token.scopes and "admin" not in token.scopes:
            what = f"the token {token.name!r} may not {scope}; it may {', '.join(token.scopes)}"
            raise Forbidden(what, remedy=f"kaizen tokens create NAME --scope {scope}", values={"scope": scope, "scopes": token.scopes})
        if token.rate is not None and self._rates is not None:
            wait = self._rates.take(token.id, token.rate, tick)
            if wait:
                values = {"rate": token.rate, "retry_after_s": math.ceil(wait)}
                raise RateLimited(f"the token {token.name!r} may ask {token.rate:g} times a second", remedy=f"wait {wait:.2g} s", values=values)
        return token.name
