"""Bytes on their way in: of a local or remote file, unpacked, cut where records end."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from kaizenml.errors import InvalidData, NotFound, TooLarge, Unavailable

CODECS = {".gz": "gzip", ".zst": "zstd"}
WHOLE_BYTES = 32 << 20
"""Files of no more bytes than this, unpacked, are read at once."""

_CHUNK = 8 << 20
_LONGEST = 256 << 20  # of one record; what a quote that is never closed may take


class Located(NamedTuple):
    """A file that is there."""

    shown: str
    """How it is called in messages and records: without secrets, relative to the project where it can be."""
    path: str
    """Its path in the file system."""
    filesystem: Any
    """pyarrow's file system; None for this machine's."""
    size: int
    mark: str
    """Another one when the content is another one: size and time of change."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def open(self) -> pa.NativeFile:
        """Open the file for random access."""
        with reachable(self.shown):
            return pa.OSFile(self.path, "rb") if self.filesystem is None else self.filesystem.open_input_file(self.path)


class reachable:  # noqa: N801  (a context manager that reads as one)
    """Tell errors of file systems as what they are."""

    def __init__(self, shown: str) -> None:
        self._shown = shown

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        shown = self._shown
        if isinstance(error, FileNotFoundError):
            raise NotFound(f"there is no file {shown}", remedy="check the path", values={"file": shown}) from None
        if isinstance(error, PermissionError):
            raise InvalidData(f"{shown} may not be read by this user", remedy="check its permissions, or the keys", values={"file": shown}) from None
        if isinstance(error, OSError) and not isinstance(error, pa.ArrowException):
            code = error.errno
            words = os.strerror(code) if code else str(error)[:300]
            if code in (errno.EIO, errno.EISDIR, errno.ENOTDIR):
                raise InvalidData(f"{shown} cannot be read: {words}", remedy="check the disk", values={"file": shown}) from error
            if any(word in str(error).lower() for word in ("truncated", "decompress", "zlib", "zstd")):
                raise InvalidData(f"{shown} is no sound packed file: {words}", remedy="copy or download it again", values={"file": shown}) from None
            remedy = "check the address, the network and the keys; repeat"
            raise Unavailable(f"{shown} cannot be reached: {words}", remedy=remedy, values={"file": shown}) from error


class Bytes:
    """The unpacked bytes of a file, from its first one on."""

    def __init__(self, at: Located, codec: str | None) -> None:
        self._at = at
        self._file = at.open()
        with reachable(at.shown):
            self._stream = pa.CompressedInputStream(self._file, codec) if codec else self._file

    def read(self, size: int) -> bytes:
        """Return the next bytes, ``size`` of them unless the file ends."""
        parts: list[bytes] = []
        left = size
        with reachable(self._at.shown):
            while left:
                part = self._stream.read(left)
                if not part:
                    break
                parts.append(part)
                left -= len(part)
        return b"".join(parts)

    @property
    def done(self) -> float:
        """Return the share of the file that was read, 0 to 1."""
        return min(self._file.tell() / self._at.size, 1.0) if self._at.size else 1.0

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        self._file.close()


def records(head: bytes, rest: Bytes, shown: str, *, quotes: bool) -> Iterator[tuple[bytes, float]]:
    """Cut bytes where records end.

    Parameters
    ----------
    head : the first bytes; ``rest`` gives those that follow.
    quotes : whether an end of line within quotes ends no record, as in delimited text.

    Returns
    -------
    Chunks of whole records, each with the share of the file that was read. The last one may lack its end of line.

    Raises
    ------
    TooLarge : a record of more than 256 MiB.
    """
    ends = b"\n" if b"\n" in head else b"\r"
    first = io.BytesIO(head)
    held = b""
    while True:
        more = first.read(_CHUNK) or rest.read(_CHUNK)
        if not more:
            break
        cut = _last_end(held, ends, quotes)
        if cut:
            yield held[:cut], rest.done
            held = held[cut:] + more
            continue
        held += more
        if len(held) > _LONGEST:
            yield held, rest.done  # whoever reads it says what is wrong: a quote that is never closed
            raise TooLarge(
                f"a record of {shown} is longer than {_LONGEST >> 20} MiB", remedy="mend the file; a quote may not be closed", values={"file": shown}
            )
    if held:
        yield held, 1.0


def _last_end(held: bytes, ends: bytes, quotes: bool) -> int:
    """Return where the last whole record ends, 0 where there is none."""
    total = held.count(b'"') if quotes else 0
    behind, at = 0, len(held)
    while True:
        end = held.rfind(ends, 0, at)
        if end < 0:
            return 0
        behind += held.count(b'"', end, at) if total else 0
        if (total - behind) % 2 == 0:
            return end + 1
        at = end
