"""A worker's application in this process: asked as a server asks it, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kaizenml.serving import worker
from kaizenml.serving.app import App
from kaizenml.settings import ServeSettings


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return msgspec.json.decode(self.body)


class Asker:
    """Asks an application, whose loop runs only while it is asked."""

    def __init__(self, app: App, runner: asyncio.Runner) -> None:
        self.app = app
        self._runner = runner

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        raw = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        named = {"host": "127.0.0.1:8080", "content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
        scope = {
            "type": "http", "method": method, "path": path, "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8080), "scheme": "http",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in named.items()],
        }  # fmt: skip
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": raw}

        async def send(message: Any) -> None:
            sent.append(message)

        self._runner.run(self.app(scope, receive, send))
        head, rest = sent
        return Answer(head["status"], {name.decode(): value.decode() for name, value in head["headers"]}, rest["body"])


@contextmanager
def running(state: Path, settings: ServeSettings | None = None) -> Iterator[Asker]:
    """Start the application on a state folder, and stop it in order."""
    app = worker.build(state, settings or ServeSettings())
    with asyncio.Runner() as runner:
        runner.run(app.watcher.start())
        yield Asker(app, runner)
        runner.run(app._stop())
