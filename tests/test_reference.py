"""The reference pages say what the source says."""

from __future__ import annotations

import pytest

from kaizenml import operations, reference


@pytest.mark.parametrize("name", ["operations.md", "settings.md", "errors.md"])
def test_a_reference_page_can_be_made_and_is_whole(name):
    text = reference.pages()[name]
    assert text.startswith("# ")
    if name == "operations.md":
        for operation in operations.all():
            assert f"## {operation}\n" in text
