"""Make, list and revoke API tokens.

Their times are the machine's own, for they guard real doors; the record of who made them has the project's time, like every event.
"""

from __future__ import annotations

import builtins

import msgspec

from kaizenml.access import store, token
from kaizenml.access.token import SCOPES, Scope, Token
from kaizenml.clock import SystemClock, parse_duration
from kaizenml.context import Context
from kaizenml.errors import Conflict, UsageError, nearest, not_found
from kaizenml.refs import check_name

__all__ = ["create", "list", "revoke"]


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """A token just made. ``token`` is told this once and kept nowhere."""

    name: str
    token: str
    scopes: builtins.list[Scope]
    rate: float | None
    expires_at: float | None
    note: str = "the token is shown this once; keep it like a password"


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A token without its secret. ``state``: valid, expired or revoked."""

    name: str
    id: str
    scopes: builtins.list[Scope]
    rate: float | None
    state: str
    created_at: float
    expires_at: float | None


def create(
    ctx: Context, name: str, *, scope: builtins.list[str] | None = None, rate: float | None = None, expires: str | None = None, why: str = ""
) -> Granted:
    """Make an API token for a client; serving processes know it within a second.

    Parameters
    ----------
    name : whose it is, for the record.
    scope : what it may do: predict, outcomes, features (push values), or admin (everything, also the control API); default predict and outcomes.
    rate : requests a second at most, over all workers; default as many as can be served.
    expires : how long it is valid, such as 90d; default for ever.
    why : reason, for the record.

    Returns
    -------
    The token. Its text is shown this once; only its hash is kept.

    Raises
    ------
    UsageError : a scope that there is not, a rate or a time that is not above 0.
    Conflict : there is a valid token of this name.

    Examples
    --------
    ``kaizen tokens create checkout --scope predict --rate 200 --expires 90d``
    """
    check_name(name)
    scopes = _scopes(scope)
    if rate is not None and not 0 < rate < float("inf"):
        raise UsageError(f"the rate is {rate}", remedy="--rate 100: requests a second, above 0", values={"rate": rate})
    lasts = parse_duration(expires) if expires else None
    if lasts == 0:
        raise UsageError(f"the token would end at once: {expires}", remedy="--expires 90d", values={"expires": expires})
    now = SystemClock().timestamp()
    ends = None if lasts is None else now + lasts
    with ctx.catalog.write() as connection:
        identity, text = token.make([each.id for each in store.every(connection) if each.valid(now)])
        made = Token(name=name, id=identity, hash=token.digest(text), scopes=scopes, rate=rate, created_at=now, expires_at=ends)
        before = store.find(connection, name)
        if before and before.valid(now):
            raise Conflict(f"there is a valid token {name!r}", remedy=f"kaizen tokens revoke {name}, or another name", values={"name": name})
        if before:
            connection.execute(store.tokens.delete().where(store.tokens.c.id == before.id))
        store.put(connection, made)
        ctx.record(connection, "tokens.created", name, why, id=identity, scopes=scopes, rate=rate, expires_at=ends)
    publish(ctx)
    return Granted(name=name, token=text, scopes=scopes, rate=rate, expires_at=ends)


def list(ctx: Context) -> builtins.list[Listed]:
    """List the API tokens, without their secrets.

    Returns
    -------
    Every token by name, with its scopes, rate and state.

    Examples
    --------
    ``kaizen tokens list``
    """
    now = SystemClock().timestamp()
    with ctx.catalog.read() as connection:
        found = store.every(connection)
    return [
        Listed(
            name=each.name, id=each.id, scopes=each.scopes, rate=each.rate, created_at=each.created_at, expires_at=each.expires_at,
            state="valid" if each.valid(now) else "revoked" if each.revoked_at is not None else "expired",
        )
        for each in found
    ]  # fmt: skip


def revoke(ctx: Context, name: str, *, why: str = "") -> Listed:
    """Revoke an API token; serving processes refuse it within a second.

    Parameters
    ----------
    name : as it was given when the token was made.
    why : reason, for the record.

    Returns
    -------
    The token, revoked.

    Raises
    ------
    NotFound : there is no such token.

    Examples
    --------
    ``kaizen tokens revoke checkout --why "left in a log"``
    """
    with ctx.catalog.write() as connection:
        before = store.find(connection, name)
        if before is None:
            raise not_found("token", name, [each.name for each in store.every(connection)], remedy="kaizen tokens list")
        if before.revoked_at is None:
            before = msgspec.structs.replace(before, revoked_at=SystemClock().timestamp())
            store.put(connection, before)
            ctx.record(connection, "tokens.revoked", name, why, id=before.id)
    publish(ctx)
    return next(each for each in list(ctx) if each.name == name)


def publish(ctx: Context) -> None:
    """Write the file that serving processes read, from the catalog; under its write lock, so the newest state stands.

    A crash before it is mended by the next call: a start of the server, or a turn of the loop.
    """
    with ctx.catalog.write() as connection:
        token.write(ctx.state / "serving" / token.FILE, store.every(connection))


def _scopes(asked: builtins.list[str] | None) -> builtins.list[Scope]:
    found: builtins.list[Scope] = []
    for name in asked or ["predict", "outcomes"]:
        known = next((scope for scope in SCOPES if scope == name), None)
        if known is None:
            close = nearest(name, SCOPES)
            hint = f"; did you mean {close!r}?" if close else ""
            raise UsageError(f"there is no scope {name!r}{hint}", remedy=f"--scope with one or several of {','.join(SCOPES)}", values={"scope": name})
        found.append(known)
    return found
