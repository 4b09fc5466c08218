"""How this kaizenml was installed, told in a way that installs the same one on another machine."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import msgspec

import kaizenml

FOLDER = "vendor"
"""Where a wheel goes; not ``wheels``, which the usual .gitignore for Python leaves out."""
_LEFT_OUT = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
"""What an installer wrote about one machine."""
_BEGINNING = (1980, 1, 1, 0, 0, 0)  # of zip's time: the same installation always gives the same bytes


class Requirement(msgspec.Struct, frozen=True, kw_only=True):
    """One line of requirements.txt, and the files that it needs in the project."""

    line: str
    files: dict[str, bytes] = {}


def requirement() -> Requirement:
    """Return what installs this kaizenml elsewhere.

    The installer noted where it came from (PEP 610, direct_url.json). From an index, a version control system or the web it can
    come again. From a folder or file of this machine it cannot: then it is packed into a wheel that goes along.
    """
    try:
        distribution = metadata.distribution("kaizenml")
    except metadata.PackageNotFoundError:  # run from its source, never installed
        return Requirement(line=f"kaizenml=={kaizenml.__version__}")
    line = line_for(json.loads(distribution.read_text("direct_url.json") or "null"), distribution.version)
    if line is not None:
        return Requirement(line=line)
    name, content = pack(distribution)
    return Requirement(line=f"./{FOLDER}/{name}", files={f"{FOLDER}/{name}": content})


def line_for(origin: dict[str, object] | None, version: str) -> str | None:
    """Return the requirement that installs from ``origin`` (direct_url.json; None: an index); None where only this machine has it.

    >>> line_for({"url": "https://example.org/ml.git", "vcs_info": {"vcs": "git", "commit_id": "0a1b"}}, "1.2")
    'kaizenml @ git+https://example.org/ml.git@0a1b'
    >>> line_for({"url": "file:///home/me/ml", "dir_info": {}}, "1.2") is None
    True
    """
    if origin is None:
        return f"kaizenml=={version}"
    # a password in an address is nobody else's
    url = re.sub(r"^(\w+://)[^/@]*:[^/@]*@", r"\1", str(origin.get("url", "")))
    if not re.match(r"(https?|ssh)://", url):
        return None
    within = f"#subdirectory={origin['subdirectory']}" if origin.get("subdirectory") else ""
    source = origin.get("vcs_info")
    if isinstance(source, dict):
        return f"kaizenml @ {source['vcs']}+{url}@{source['commit_id']}{within}"
    return f"kaizenml @ {url}{within}"


def pack(distribution: metadata.Distribution) -> tuple[str, bytes]:
    """Return the name and the bytes of a wheel that holds kaizenml as it runs here (the binary distribution format, PEP 427).

    Parameters
    ----------
    distribution : the installed kaizenml; an editable one too, whose files lie in a checkout.
    """
    info = f"kaizenml-{distribution.version}.dist-info"
    package = Path(kaizenml.__file__).parent
    found = {f"kaizenml/{file.relative_to(package).as_posix()}": file.read_bytes() for file in package.rglob("*") if _belongs(file)}
    for entry in distribution.files or []:
        inside = PurePosixPath(entry.as_posix())
        if inside.parts[0] == info and inside.name not in _LEFT_OUT and not inside.name.startswith("uv_"):
            found[str(inside)] = Path(str(distribution.locate_file(entry))).read_bytes()
    record = [f"{path},sha256={_digest(content)},{len(content)}" for path, content in sorted(found.items())]
    found[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in sorted(found.items(), key=lambda item: (item[0].startswith(info), item[0])):
            wheel.writestr(_entry(path), content, zipfile.ZIP_DEFLATED)
    return f"kaizenml-{distribution.version}-py3-none-any.whl", packed.getvalue()


def _belongs(file: Path) -> bool:
    return file.is_file() and "__pycache__" not in file.parts and file.suffix not in (".pyc", ".so")


def _entry(path: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(path, _BEGINNING)
    entry.external_attr = 0o644 << 16
    return entry


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
