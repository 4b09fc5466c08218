"""What stands between the network and a worker: tokens, TLS, a path prefix, and which proxies are believed."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kaizenml.access import owner, token
from kaizenml.access.loopback import is_loopback
from kaizenml.clock import SystemClock
from kaizenml.errors import Corrupt, InvalidSettings, UsageError
from kaizenml.settings import ServeSettings

TOKEN = "KAIZEN_TOKEN"  # noqa: S105  (the variable's name)
_SHORTEST = 16
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_OWN = ("predict", "outcomes", "v2", "endpoints", "invocations", "ping", "health", "metrics", "openapi.json")


class Front(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker is reached. The token is not in it: nothing that may be printed holds a secret."""

    auth: bool = False
    root_path: str = ""
    proxies: str = ""
    tls: tuple[str, str] | None = None


def front_for(settings: ServeSettings, host: str, *, root: Path, environ: Mapping[str, str]) -> Front:
    """Read the settings for a server that listens on ``host``.

    Raises
    ------
    UsageError : a prefix, proxy or file name that cannot be, or a ``KAIZEN_TOKEN`` that is easily guessed or cannot be sent.
    """
    found = None
    if settings.tls_cert or settings.tls_key:
        from kaizenml.serving.connecting import tls

        found = tls.files(root, settings.tls_cert, settings.tls_key)
    front = Front(
        auth=needs_token(settings, host, environ), root_path=_prefix(settings.root_path), proxies=_proxies(settings.trusted_proxies),
        tls=(str(found[0]), str(found[1])) if found else None,
    )  # fmt: skip
    if front.auth:
        fixed_token(environ)
    return front


def needs_token(settings: ServeSettings, host: str, environ: Mapping[str, str]) -> bool:
    """Tell whether tokens are asked for.

    By ``auto`` wherever others than this machine's users can come in, also through a proxy, and where a token was set: as in the console.
    """
    if settings.auth == "auto":
        return not is_loopback(host) or bool(settings.root_path or settings.trusted_proxies or environ.get(TOKEN))
    return settings.auth == "on"


def fixed_token(environ: Mapping[str, str]) -> str | None:
    """Return the token from the environment, where there is one.

    Raises
    ------
    UsageError : it is short, or holds characters that a header cannot carry.
    """
    text = environ.get(TOKEN, "").strip()
    remedy = "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes a good one"
    if text and len(text) < _SHORTEST:
        values = {"length": len(text), "least": _SHORTEST}
        raise UsageError(f"{TOKEN} has {len(text)} characters, and is easily guessed", remedy=remedy, values=values)
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"{TOKEN} holds blanks or characters beyond ASCII, which a header cannot carry", remedy=remedy)
    return text or None


def prepare(front: Front, state: Path, host: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Make ready what workers will read, once for all of them.

    Returns
    -------
    What is said when the server listens: whether it asks for tokens and speaks TLS, and ``notes`` that whoever starts it should read.

    Raises
    ------
    UsageError : certificate and key cannot be served with.
    """
    notes = []
    if front.auth:
        owner.renew(state)
        notes.append(_how_to_ask(state, environ))
    elif not is_loopback(host):
        notes.append(f"everybody who reaches {host} may ask and report outcomes: auth is off under [serve]")
    if front.tls:
        from kaizenml.serving.connecting import tls

        notes += tls.check(Path(front.tls[0]), Path(front.tls[1]))
    for note in notes:
        print(note, file=sys.stderr, flush=True)
    return {"auth": front.auth, "tls": front.tls is not None, "notes": notes}


def _how_to_ask(state: Path, environ: Mapping[str, str]) -> str:
    if environ.get(TOKEN):
        return f"clients show a token: the one in {TOKEN}, or one of their own: kaizen tokens create NAME"
    now = SystemClock().timestamp()
    try:
        valid = sum(each.valid(now) for each in token.read(state / "serving" / token.FILE))
    except (OSError, Corrupt):
        valid = 0
    counted = f" ({valid} valid now)" if valid else "; there is none yet, so only this project's owner can ask"
    return f"clients show a token: kaizen tokens create NAME makes one{counted}"


def _prefix(text: str) -> str:
    prefix = text.rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        what = f"root_path is {text!r}, which is no path prefix"
        raise InvalidSettings(what, remedy='root_path = "/ml" under [serve]: letters, digits and . _ ~ - between slashes', values={"found": text})
    first = prefix[1:].partition("/")[0]
    if first in _OWN:  # with the prefix taken off or not: both are understood, so it must be seen which it is
        what = f"root_path {text!r} begins like the server's own /{first}"
        raise InvalidSettings(what, remedy="take another prefix, such as /ml", values={"found": text, "taken": list(_OWN)})
    return prefix


def _proxies(text: str) -> str:
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            ipaddress.ip_network(part)
        except ValueError:
            what = f"trusted_proxies holds {part!r}, which is no address or network"
            raise InvalidSettings(what, remedy='trusted_proxies = "127.0.0.1, 10.0.0.0/8" under [serve]', values={"found": part}) from None
    return text.strip()
