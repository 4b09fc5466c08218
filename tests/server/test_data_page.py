"""The data pages, asked in process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa

from kaizenml.data import operations as data
from kaizenml.project import open_project
from kaizenml.server import app


def asked(console: Any, path: str) -> str:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": [(b"host", b"127.0.0.1")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    asyncio.run(console(scope, receive, send))
    assert sent[0]["status"] == 200
    return b"".join(message.get("body", b"") for message in sent).decode()


def test_the_pages_show_each_source_with_its_trust_and_rows(tmp_path: Path):
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "shop"\n')
    ctx = open_project(tmp_path, actor="test")
    data.add(ctx, "orders", table=pa.table({"x": [0.5, 1.5]}))
    data.add(ctx, "orders", table=pa.table({"x": [2.5]}), source_name="feed7", trust="public", origin="the partner's feed")
    console = app.create(ctx)
    overview, one = asked(console, "/data"), asked(console, "/data/orders")
    assert "feed7 <small>(public) the partner&#39;s feed" in overview
    for name, trust, rows in (("main", "internal", 2), ("feed7", "public", 1)):
        shown = f'<th scope="row">{name}</th><td data-name="Trust">{trust}</td><td class="num" data-name="Rows">{rows}</td>'
        assert shown in one
    ctx.online.close()
    ctx.catalog.close()
