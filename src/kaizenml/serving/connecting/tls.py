"""TLS by file: whether a certificate and its key are fit to serve with, told before anybody asks; and whom our own client believes."""

from __future__ import annotations

import math
import ssl
import stat
from pathlib import Path

from kaizenml.clock import SystemClock
from kaizenml.errors import InvalidSettings, UsageError

_SOON_S = 14 * 86400.0
_EXPIRED, _NOT_YET, _PURPOSE = 10, 9, 26  # OpenSSL's X509_V_ERR_*
_MAKE = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=localhost -keyout key.pem -out cert.pem"


def files(root: Path, cert: str | None, key: str | None) -> tuple[Path, Path]:
    """Return the paths of certificate and key, relative ones from the project's folder.

    Raises
    ------
    InvalidSettings : only one of the two is set.
    """
    if not cert or not key:
        there, absent = ("tls_cert", "tls_key") if cert else ("tls_key", "tls_cert")
        raise InvalidSettings(f"[serve] has {there} and no {absent}", remedy=f"set {absent} as well", values={"set": there, "missing": absent})
    return root / cert, root / key


def check(cert: Path, key: Path) -> list[str]:
    """Raise when one cannot serve with them; return what is worth knowing all the same.

    Both ends of a connection are played here in memory: so the key is shown to fit, and the certificate to be valid now, by the
    same library and rules that clients use.

    Raises
    ------
    UsageError : a file is missing, unreadable or no PEM; the key is encrypted or of another certificate; the certificate is
        expired or not valid yet.
    """
    for path, what in ((cert, "tls_cert"), (key, "tls_key")):
        _check_readable(path, what)
    ends_at = _shake_hands(_server_context(cert, key), cert)
    notes = []
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o007:
        notes.append(f"everybody on this machine may read the TLS key {key}; chmod 600 {key}")
    left = ends_at - SystemClock().timestamp()
    if left < _SOON_S:
        notes.append(f"the TLS certificate {cert} ends in {max(math.ceil(left / 86400), 1)} days")
    return notes


def pinned(cert: Path) -> ssl.SSLContext:
    """Return a client's context that believes this very certificate, under whatever name it is reached: for the owner's own commands."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it need not be its own authority
    try:
        context.load_verify_locations(cafile=cert)
    except (OSError, ssl.SSLError) as error:
        what = f"the certificate {cert} cannot be read: {error}"
        raise UsageError(what, remedy="mend tls_cert under [serve]", values={"file": str(cert)}) from None
    return context


def _check_readable(path: Path, what: str) -> None:
    values = {"setting": f"serve.{what}", "file": str(path)}
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        remedy = f"mend {what} under [serve], or make one: {_MAKE}"
        raise UsageError(f"there is no file {path} ({what})", remedy=remedy, values=values) from None
    except OSError as error:
        raise UsageError(f"{path} ({what}) cannot be read: {error.strerror}", remedy=f"check its rights: ls -l {path}", values=values) from None
    mark = b"CERTIFICATE-----" if what == "tls_cert" else b"PRIVATE KEY-----"
    if b"-----BEGIN " not in raw or mark not in raw:
        told = f"{path} ({what}) holds no {mark.decode().strip('-').lower()} in PEM form"
        raise UsageError(told, remedy="openssl x509 or pkey converts it", values=values)


def _server_context(cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def no_password() -> str:
        raise UsageError(f"the TLS key {key} is encrypted", remedy=f"openssl pkey -in {key} -out plain.pem, readable by this user alone")

    try:
        context.load_cert_chain(cert, key, password=no_password)
    except ssl.SSLError as error:
        values = {"cert": str(cert), "key": str(key), "problem": error.reason}
        if error.reason == "KEY_VALUES_MISMATCH":
            told = f"the TLS key {key} is not of the certificate {cert}"
            raise UsageError(told, remedy="set tls_cert and tls_key to a pair", values=values) from None
        what = f"{cert} and {key} cannot be used for TLS: {error.reason or error}"
        raise UsageError(what, remedy="openssl x509 -in CERT -noout -text; openssl pkey -in KEY -check -noout", values=values) from None
    return context


def _shake_hands(server_context: ssl.SSLContext, cert: Path) -> float:
    """Return when the certificate ends (seconds since 1970)."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = pinned(cert).wrap_bio(to_client, to_server)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    try:
        for end in (client, server, client, server, client):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    except ssl.SSLCertVerificationError as error:
        remedy = {_EXPIRED: "renew it", _NOT_YET: "look at the machine's clock: date", _PURPOSE: "get one for servers (serverAuth)"}
        values = {"file": str(cert), "problem": error.verify_message}
        what = f"the TLS certificate {cert} is not valid: {error.verify_message}"
        raise UsageError(what, remedy=remedy.get(error.verify_code, "openssl x509 -in CERT -noout -text"), values=values) from None
    except ssl.SSLError as error:
        raise UsageError(f"TLS with {cert} fails: {error.reason}", remedy="openssl x509 -in CERT -noout -text", values={"file": str(cert)}) from None
    found = client.getpeercert()
    ends = found.get("notAfter") if found else None
    return ssl.cert_time_to_seconds(str(ends)) if ends else math.inf
