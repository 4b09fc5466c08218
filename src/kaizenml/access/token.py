"""API tokens and the rules about them. Hot path: imports only the standard library and msgspec.

A token is ``kzn_`` + its id + ``_`` + 256 random bits. Only the SHA-256 of the whole text is kept: of a secret that nobody can
guess, a slow hash would protect no better.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from kaizenml.errors import Forbidden, RateLimited, Unauthorized

Scope = Literal["predict", "outcomes", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
FILE = "tokens.json"  # below the project's state folder, in ``serving/``
FORMAT = 1
_PREFIX = "kzn_"


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token as it is kept: everything but the secret.

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


def make() -> tuple[str, str]:
    """Return a fresh id and the whole text of its token."""
    identity = secrets.token_hex(4)
    return identity, f"{_PREFIX}{identity}_{secrets.token_urlsafe(32)}"


def digest(text: str) -> str:
    """Return what is kept of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, tokens: Iterable[Token]) -> None:
    """Replace the file at once, readable by this user alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(handle, "wb") as file:
        file.write(msgspec.json.encode(Kept(tokens=list(tokens))))
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def read(path: Path) -> list[Token]:
    """Read the tokens; [] when none was ever made."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Kept).tokens
    except FileNotFoundError:
        return []


class Keyring:
    """Lets in who shows a valid token, as often as it may.

    Parameters
    ----------
    tokens : those that are kept.
    fixed : one more token with every scope, as text (from the environment); None: there is none.
    share : of each token's rate that this process may give: one over the number of workers.
    """

    def __init__(self, tokens: Iterable[Token], *, fixed: str | None = None, share: float = 1.0) -> None:
        self._known = {token.id: token for token in tokens}
        self._fixed = digest(fixed) if fixed else None
        self._share = share
        self._buckets: dict[str, tuple[float, float]] = {}  # token id -> requests left, at

    def renewed(self, tokens: Iterable[Token]) -> Keyring:
        """Return a keyring of other tokens that remembers how often each was used."""
        fresh = Keyring(tokens, share=self._share)
        fresh._fixed, fresh._buckets = self._fixed, self._buckets
        return fresh

    def check(self, shown: str, scope: Scope | None, now: float) -> None:
        """Let the owner of a token in, or raise.

        Parameters
        ----------
        shown : the ``Authorization`` header's value; "" when there was none.
        scope : what is to be done; None: anything that some token may.
        now : seconds since 1970.

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
        if self._fixed is not None and hmac.compare_digest(hashed, self._fixed):
            return
        identity = text[len(_PREFIX) :].partition("_")[0] if text.startswith(_PREFIX) else ""
        token = self._known.get(identity)
        # the comparison runs also for unknown ids, so that time does not tell which ids there are
        fits = hmac.compare_digest(hashed, token.hash if token else "0" * 64)
        if token is None or not fits or not token.valid(now):
            raise Unauthorized("the token is not valid", remedy="kaizen tokens list shows which are; kaizen tokens create NAME makes one")
        if scope is not None and scope not in token.scopes and "admin" not in token.scopes:
            what = f"the token {token.name!r} may not {scope}; it may {', '.join(token.scopes)}"
            raise Forbidden(what, remedy=f"kaizen tokens create NAME --scope {scope}", values={"scope": scope, "scopes": token.scopes})
        if token.rate is not None:
            self._count(token, token.rate * self._share, now)

    def _count(self, token: Token, rate: float, now: float) -> None:
        """Take one request from the token's bucket, which holds a second's worth."""
        size = max(rate, 1.0)
        left, at = self._buckets.get(token.id, (size, now))
        left = min(size, left + max(now - at, 0.0) * rate)
        if left < 1.0:
            wait = (1.0 - left) / rate
            values = {"rate": token.rate, "retry_after_s": math.ceil(wait)}
            raise RateLimited(f"the token {token.name!r} may ask {token.rate:g} times a second", remedy=f"wait {wait:.2g} s", values=values)
        self._buckets[token.id] = (left - 1.0, now)
