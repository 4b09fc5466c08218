"""The servers that the load gate starts, as the machine lists them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def servers(bundles: Path) -> list[str]:
    """Return the command lines of the servers that run on a bundle in a folder, or on the folder itself."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(bundles) in text and "--bundle" in text:
                found.append(text)
    return found
