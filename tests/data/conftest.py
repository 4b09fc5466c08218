from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaizenml.context import Context
from kaizenml.project import open_project


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "a shop"  # a space, as people's folders have
    folder.mkdir()
    (folder / "kaizen.toml").write_text('[project]\nname = "shop"\n', encoding="utf-8")
    return folder


@pytest.fixture
def ctx(root: Path) -> Iterator[Context]:
    ctx = open_project(root, actor="test")
    yield ctx
    ctx.online.close()
    ctx.catalog.close()
