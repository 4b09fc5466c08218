"""What stands between the network and the console: who may ask, from where, and how much.

One ASGI layer in front of every route. It answers by itself when the Host is not ours (DNS rebinding), when a
token is needed and missing, when a write comes from another site, and when a body is too large; and it puts the
same protecting headers on every response.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

import msgspec
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kaizenml.access.loopback import is_loopback
from kaizenml.errors import Forbidden, KaizenError, RateLimited, TooLarge, Unauthorized, UsageError

COOKIE = "kaizen_session"
ACTOR = "kaizenml.actor"  # in the request's scope: the name of the API token that was shown, or None
MAX_FORM_BYTES = 64_000
_OPEN = ("/static/", "/login", "/health")  # what needs no token

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; img-src 'self' data:"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # same-origin and not no-referrer: with the latter browsers send "Origin: null" on our own forms
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class Guard:
    """The rules of one console process.

    ``names`` are the host names under which it may be asked (loopback names always may). ``token`` is None only where
    nobody but this machine's user can reach it. ``admits`` takes an Authorization header's value and returns the name of the API
    token with the scope admin in it, or raises.
    """

    names: frozenset[str] = frozenset()
    token: str | None = None
    max_body_bytes: int = 8_000_000
    admits: Callable[[str], str] | None = None
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def knows_host(self, header: str) -> bool:
        """Say whether a Host header names this server."""
        name = _host_name(header)
        return name in ("localhost", "127.0.0.1", "::1") or name in self.names or ("*" in self.names and bool(name))

    def form_token(self) -> str:
        """Return the token that every form of this process carries; other sites cannot read it."""
        return hmac.new(self.secret, b"form", hashlib.sha256).hexdigest()

    def form_fits(self, shown: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(shown.encode(), self.form_token().encode())

    def session(self) -> str:
        """Return the cookie that proves the token was shown; it dies with the process."""
        return hmac.new(self.secret, b"session" + (self.token or "").encode(), hashlib.sha256).hexdigest()

    def token_fits(self, shown: str) -> bool:
        """Compare in constant time."""
        return self.token is not None and hmac.compare_digest(shown.encode(), self.token.encode())

    def enter(self, headers: Headers) -> str | None:
        """Let a request in that carries the token, as a bearer or through the login cookie, or an API token; or raise.

        Returns
        -------
        The API token's name; None for everybody else.
        """
        if self.token is None:
            return None
        shown = headers.get("authorization", "")
        scheme, _, text = shown.partition(" ")
        if scheme.lower() == "bearer" and self.token_fits(text.strip()):
            return None
        if hmac.compare_digest(_cookie(headers, COOKIE).encode(), self.session().encode()):
            return None
        if shown and self.admits is not None:
            return self.admits(shown)
        raise Unauthorized("a token is needed", remedy="send 'Authorization: Bearer $KAIZEN_TOKEN', or log in at /login")


def guard_for(
    host: str, *, token: str | None, names: Iterable[str] = (), max_body_bytes: int = 8_000_000, admits: Callable[[str], str] | None = None
) -> Guard:
    """Build the rules for a bind address.

    Raises
    ------
    UsageError : the address or a public name can be reached from outside and no token protects it.
    """
    named = frozenset(name.lower().strip("[]") for name in names)
    if (named or not is_loopback(host)) and not token:
        raise UsageError(
            f"the console would be open to everybody who reaches {', '.join(sorted(named)) or host}",
            remedy="set KAIZEN_TOKEN to a long random text (python -c 'import secrets; print(secrets.token_urlsafe(32))'), or bind 127.0.0.1",
            values={"host": host},
        )
    if not is_loopback(host) and not named:
        named = frozenset({"*"})  # the token protects; which of its names the machine is called by is unknown
    return Guard(names=named, token=token or None, max_body_bytes=max_body_bytes, admits=admits)


class Protect:
    """The ASGI layer that holds the guard's rules."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app = app
        self.guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"

        async def protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                outgoing = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    outgoing.setdefault(name, value)
                outgoing.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refuses(scope, path, headers)
        if refusal is not None:
            await _answer(refusal, path, scope, protected)
            return
        most = self.guard.max_body_bytes if path.startswith("/api/") else MAX_FORM_BYTES
        if _length(headers) > most:
            await _answer(_too_large(most), path, scope, protected)
            return
        counted = _Counted(receive, most)
        try:
            await self.app(scope, counted, protected)
        except TooLarge as error:  # a body without a length that grew past the limit
            await _answer(error, path, scope, protected)

    def _refuses(self, scope: Scope, path: str, headers: Headers) -> KaizenError | None:
        if not self.guard.knows_host(headers.get("host", "")):
            return Forbidden("this server does not answer under that name", remedy="open it as http://127.0.0.1, or name it with --public-host")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _same_site(headers):
            return Forbidden("a page of another site tried to change something here", remedy="do it in the console itself")
        if not path.startswith(_OPEN):
            try:
                scope[ACTOR] = self.guard.enter(headers)
            except KaizenError as error:
                return error
        return None


class _Counted:
    """Stops reading a body at the limit, also when no length was announced."""

    def __init__(self, receive: Receive, most: int) -> None:
        self.receive, self.most, self.seen = receive, most, 0

    async def __call__(self) -> Message:
        message = await self.receive()
        self.seen += len(message.get("body", b""))
        if self.seen > self.most:
            raise _too_large(self.most)
        return message


async def _answer(error: KaizenError, path: str, scope: Scope, send: Send) -> None:
    location = None
    if isinstance(error, Unauthorized) and scope["method"] == "GET" and not path.startswith("/api/"):
        location = f"{scope.get('root_path', '')}/login"
    headers = [(b"content-type", b"application/json"), *([(b"location", location.encode())] if location else [])]
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, RateLimited):
        headers.append((b"retry-after", str(error.values.get("retry_after_s", 1)).encode()))
    await send({"type": "http.response.start", "status": 303 if location else error.status, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode({"error": error.document()})})


def _too_large(most: int) -> TooLarge:
    return TooLarge(f"the body is larger than {most:,} bytes", remedy="send less at once", values={"limit_bytes": most})


def _same_site(headers: Headers) -> bool:
    """Browsers say where a write comes from; what says nothing is no browser."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()


def _length(headers: Headers) -> int:
    text = headers.get("content-length", "0")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 1 << 62


def _host_name(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""
