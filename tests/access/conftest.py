"""A project without data: tokens need none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaizenml.context import Context
from kaizenml.project import open_project


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "kaizen.toml").write_text('[project]\nname = "shop"\n')
    found = open_project(tmp_path, actor="maria")
    yield found
    found.online.close()
    found.catalog.close()
