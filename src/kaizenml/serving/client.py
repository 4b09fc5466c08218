"""A small client of the data plane, with a kept connection. Standard library and msgspec only."""

from __future__ import annotations

import http.client
import socket
import ssl
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from kaizenml.access.loopback import is_loopback
from kaizenml.errors import KaizenError, Unavailable, UsageError, from_document

_encode = msgspec.json.Encoder().encode


class Client:
    """Asks an endpoint and tells it outcomes. One connection, for one thread; use as a context manager or close it.

    Parameters
    ----------
    url : where the server listens, for example ``http://127.0.0.1:8080``.
    timeout_s : how long to wait for an answer.
    token : sent as a bearer token when given.
    tls : whose certificates to believe, for https; default those of the machine's authorities (and of ``SSL_CERT_FILE``).

    >>> with Client("http://127.0.0.1:8080") as client:  # doctest: +SKIP
    ...     client.predict("shop", [{"price": 3.0}])["predictions"][0]["value"]
    False
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8080", *, timeout_s: float = 30.0, token: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not the address of a server", remedy="write http://127.0.0.1:8080", values={"found": url})
        if token and parts.scheme == "http" and not is_loopback(parts.hostname):
            warnings.warn(f"the token goes to {parts.hostname} in the clear, for everybody on the way to read; write https://", stacklevel=2)
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._connection = (
            http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=tls)
            if parts.scheme == "https"
            else http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        )
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})

    def predict(self, endpoint: str, rows: Sequence[Mapping[str, Any]], unit: str | None = None) -> dict[str, Any]:
        """Ask for predictions. Never repeated silently: a prediction that was answered is journaled.

        Parameters
        ----------
        rows : one mapping of input name to value per row.
        unit : what keeps its arm while releases compete, for example a customer.

        Returns
        -------
        ``{"predictions": [{"id", "value", "probabilities", ...}], "release", "lineage", ...}``

        Raises
        ------
        KaizenError : what the server refused, as its own class; Unavailable when it cannot be reached.
        """
        document: dict[str, Any] = {"inputs": rows} if unit is None else {"inputs": rows, "unit": unit}
        found: dict[str, Any] = self.request("POST", f"/predict/{quote(endpoint, safe='')}", document)
        return found

    def outcomes(self, endpoint: str, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Tell what became of predictions: ``[{"id", "value", "at"?}]``. Idempotent, so it is repeated once when the connection breaks."""
        document = {"outcomes": outcomes}
        found: dict[str, Any] = self.request("POST", f"/outcomes/{quote(endpoint, safe='')}", document, repeat=True)
        return found

    def push(self, view: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Push newest values of a feature view: ``{"view", "rows", "kept", "late"}``."""
        found: dict[str, Any] = self.request("POST", f"/features/{quote(view, safe='')}", {"rows": rows})
        return found

    def ready(self) -> dict[str, Any]:
        """Return what the server says of itself; Unavailable when it is not ready."""
        found: dict[str, Any] = self.request("GET", "/health/ready", repeat=True)
        return found

    def request(self, method: str, path: str, document: Any = None, *, repeat: bool = False) -> Any:
        """Send one request and return the decoded answer, or raise the error it tells."""
        body = None if document is None else _encode(document)
        if self._connection.sock is not None and _closed(self._connection.sock):
            self._connection.close()  # the server ended an idle connection; nothing was sent on it, so nothing is repeated
        for last in (False, True) if repeat else (True,):
            try:
                self._connection.request(method, self._prefix + path, body, self._headers)
                answer = self._connection.getresponse()
                status, raw = answer.status, answer.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                broken = isinstance(error, ConnectionError | http.client.RemoteDisconnected)
                if last or not broken:
                    raise self._unreachable(error) from error
        return _decoded(status, raw, self.url)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unreachable(self, error: Exception) -> KaizenError:
        text = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLCertVerificationError):
            what = f"the certificate of {self.url} is not believed: {error.verify_message}"
            return Unavailable(what, remedy="SSL_CERT_FILE=CA.pem names an authority of your own", values={"url": self.url})
        return Unavailable(f"{self.url} does not answer: {text}", remedy="kaizen serve, or look whether it listens there", values={"url": self.url})


def _closed(connection: socket.socket) -> bool:
    """Tell whether the other end has closed an idle connection."""
    waiting = connection.gettimeout()
    try:
        connection.setblocking(False)
        return connection.recv(1, socket.MSG_PEEK) == b""
    except (BlockingIOError, InterruptedError, ValueError):  # ValueError: TLS cannot peek
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(waiting)


def _decoded(status: int, raw: bytes, url: str) -> Any:
    try:
        document = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        document = None
    if status < 400 and document is not None:
        return document
    if isinstance(document, dict) and isinstance(document.get("error"), dict):
        raise from_document(document["error"])
    raise Unavailable(f"{url} answered {status} without a document", remedy="look whether it is a kaizenml server", values={"status": status})
