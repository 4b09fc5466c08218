"""How the commands reach a server: its address, the token they show, and whose certificate they believe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kaizenml.access import owner
from kaizenml.cli import derived, processes
from kaizenml.serving.connecting.front import TOKEN
from kaizenml.settings import load

if TYPE_CHECKING:
    import ssl

    from kaizenml.serving.client import Client
    from kaizenml.settings import ServeSettings


def client(root: Path, url: str | None, token: str | None) -> Client:
    """Return a client of the server at ``url``, or of this project's own.

    Parameters
    ----------
    root : the project folder.
    url : None for the project's own server; the owner's token is sent to that one alone, and only while it runs.
    token : the text, @FILE, or - for stdin; default ``KAIZEN_TOKEN``.
    """
    from kaizenml.serving.client import Client

    shown = derived.read_text(token).strip() if token else None
    if url:
        return Client(url, token=shown or os.environ.get(TOKEN))
    settings, _sources = load(root)
    state = root / settings.project.state
    own = owner.read(state) if processes.read_address(state) else None
    return Client(address(root), token=shown or own or os.environ.get(TOKEN), tls=believed(root, settings.serve))


def address(root: Path) -> str:
    """Return the URL of the project's predictions: of the server that runs, else what the settings say."""
    settings, _sources = load(root)
    running = processes.read_address(root / settings.project.state)
    serve = settings.serve
    return str(running["predict"]) if running else f"{scheme(serve)}://{reachable(serve.host)}:{serve.port}"


def scheme(serve: ServeSettings) -> str:
    """Return what the server speaks."""
    return "https" if serve.tls_cert else "http"


def believed(root: Path, serve: ServeSettings) -> ssl.SSLContext | None:
    """Return the trust in the project's own certificate; None where it has none."""
    if not serve.tls_cert:
        return None
    from kaizenml.serving.connecting import tls

    return tls.pinned(root / serve.tls_cert)


def reachable(host: str) -> str:
    """Return the name under which this machine reaches its own server, as it stands in a URL."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104  (a comparison, no bind)
