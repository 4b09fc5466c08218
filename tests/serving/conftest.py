"""Fixtures of serving: a project with a bundle, opened for real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import serving_bundles as bundles

from kaizenml.context import Context
from kaizenml.project import open_project


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    (tmp_path / "kaizen.toml").write_text(bundles.TOML)
    found = open_project(tmp_path, actor="test")
    yield found
    found.online.close()
    found.catalog.close()
