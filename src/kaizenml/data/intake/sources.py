"""Files that are read at once: delimited text, Parquet, JSON lines, Arrow, Excel; plain, packed or as the one file of a zip archive."""

from __future__ import annotations

import errno
import gzip
import io
import zipfile
import zlib
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.parquet

from kaizenml.data.intake.delimited import read_delimited, what_it_is
from kaizenml.data.intake.excel import read_excel
from kaizenml.data.intake.json_lines import read_json
from kaizenml.data.kinds import normalise
from kaizenml.data.parse import with_dates
from kaizenml.errors import InvalidData, NotFound, TooLarge, nearest

SEPARATOR = {".csv": None, ".tsv": "\t", ".tab": "\t", ".psv": "|", ".txt": None}
PARQUET = (".parquet", ".pq", ".parq")
ARROW = (".arrow", ".feather", ".ipc")
EXCEL = (".xlsx", ".xlsm", ".xls", ".xlsb", ".ods")
JSON = (".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst", ".zip")
ENDINGS = (*SEPARATOR, *PARQUET, *JSON, *ARROW, *EXCEL)
"""File name endings that can be loaded; ``.gz``, ``.zst`` or ``.zip`` may follow."""

_MOST_BYTES = 16 << 30  # unpacked; a bomb of a few kilobytes must not fill the memory


def load(path: Path, sheet: str | None = None) -> pa.Table:
    """Load a file as a table of typed columns.

    Parameters
    ----------
    path : a file that ends like one of ``ENDINGS``, perhaps packed (``.gz``, ``.zst``, ``.zip`` with one file in it).
    sheet : of a workbook with several.

    Returns
    -------
    A table with the storage types of ``kinds.STORED``; a column without any value has the null type. Column names and the
    order of rows are kept. Times without a zone are taken as UTC. ``kinds.notes_of`` tells how unplain columns were read.

    Raises
    ------
    NotFound : no such file; names the nearest one in the folder.
    InvalidData : a folder, an unknown ending, no rows, or bytes that are not what the ending says, with line and value.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "orders.csv"
    >>> _ = path.write_text("id,price\\n1,9.5\\n2,NA\\n")
    >>> load(path).to_pylist()
    [{'id': 1, 'price': 9.5}, {'id': 2, 'price': None}]
    """
    path = Path(path)
    raw, name, ending = _bytes_of(path)
    if sheet is not None and ending not in EXCEL:
        what = f"{name} is no workbook, and has no sheet {sheet!r}"
        raise InvalidData(what, remedy="leave --query out: it names a sheet, or asks a database", values={"file": str(path)})
    return table_of(raw, name, ending, str(path), sheet)


def table_of(raw: bytes, name: str, ending: str, shown: str, sheet: str | None = None) -> pa.Table:
    """Load the unpacked bytes of a file as ``load`` does; ``shown`` is how it is called in what machines read."""
    if not raw.strip():
        raise InvalidData(f"{name} is empty", remedy="give a file with a header and rows", values={"file": shown, "rows": 0})
    if ending in PARQUET:
        table = with_dates(normalise(_read_parquet(raw, name)))
    elif ending in ARROW:
        table = with_dates(normalise(_read_arrow(raw, name)))
    elif ending in EXCEL:
        table = with_dates(normalise(read_excel(raw, name, sheet)))
    elif ending in JSON:
        table = read_json(raw, name)
    else:
        table = read_delimited(raw, name, separator=SEPARATOR[ending])
    if not table.num_rows:
        raise InvalidData(f"{name} has no rows", remedy="give a file with at least one row", values={"file": shown, "rows": 0})
    return normalise(table)


def _bytes_of(path: Path) -> tuple[bytes, str, str]:
    """Return the unpacked bytes, the file's name and its ending."""
    check_is_file(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes.pop() if suffixes and suffixes[-1] in _PACKED else None
    ending = suffixes[-1] if suffixes else ""
    try:
        raw = path.read_bytes()
    except PermissionError:
        raise InvalidData(f"{path} may not be read by this user", remedy=f"chmod u+r {path}", values={"file": str(path)}) from None
    except OSError as error:
        raise InvalidData(
            f"{path} cannot be read: {error.strerror}", remedy="check the disk", values={"file": str(path), "errno": error.errno}
        ) from error
    if not raw:
        raise InvalidData(f"{path} is empty (0 bytes)", remedy="give a file with a header and rows", values={"file": str(path), "rows": 0})
    name = path.name
    if packed == ".zip":
        raw, name = _unzip(raw, path)
        ending = PurePath(name).suffix.lower()
    elif packed == ".gz":
        raw = _gunzip(raw, path)
    elif packed == ".zst":
        raw = _unzstd(raw, path)
    _check_ending(path, ending, raw)
    if not raw.strip():
        raise InvalidData(f"{name} is empty", remedy="give a file with a header and rows", values={"file": str(path), "rows": 0})
    return raw, name, ending


def check_is_file(path: Path) -> None:
    """Raise what is wrong with a path that should be a file, naming the nearest one."""
    try:
        if path.is_dir():
            inside = sorted(entry.name for entry in path.iterdir() if loadable(entry))
            what = f"; it holds {', '.join(inside[:5])}" if inside else ""
            raise InvalidData(
                f"{path} is a folder, not a file{what}",
                remedy=f"name a file, such as {path / (inside[0] if inside else 'rows.csv')}",
                values={"found": inside[:50]},
            )
        if path.exists():
            return
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise NotFound("that file name is too long to exist", remedy="name a file", values={"file": str(path)[:200]}) from None
        raise
    folder = path.parent
    entries = sorted(entry.name for entry in folder.iterdir() if loadable(entry)) if folder.is_dir() else []
    close = nearest(path.name, entries)
    hint = f"; did you mean {close!r}?" if close else (f"; {folder}/ holds {', '.join(entries[:5])}" if entries else "")
    if not folder.is_dir():
        hint = f"; the folder {folder} does not exist either"
    remedy = f"name {folder / close}" if close else "check the path; it is relative to the folder you are in"
    raise NotFound(f"there is no file {path}{hint}", remedy=remedy, values={"file": str(path), "nearest": close, "known": entries[:50]})


def loadable(entry: PurePath) -> bool:
    """Whether a file's name ends in a way that tells how to read it."""
    suffixes = [suffix.lower() for suffix in entry.suffixes]
    return bool(suffixes) and (suffixes[-1] in ENDINGS or suffixes[-1] in _PACKED)


def _check_ending(path: Path, ending: str, raw: bytes) -> None:
    if ending in ENDINGS:
        return
    kind = what_it_is(raw)
    found = f"{path.name} ends in {ending!r}" if ending else f"{path.name} has no ending"
    raise InvalidData(
        f"{found}, which does not tell how to read it{f'; it looks like {kind}' if kind else ''}",
        remedy=f"end it in {', '.join(ENDINGS)}, perhaps followed by .gz, .zst or .zip",
        values={"file": str(path), "found": ending, "known": list(ENDINGS)},
    )


def _gunzip(raw: bytes, path: Path) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            return _bounded(file.read(_MOST_BYTES + 1), path)
    except EOFError:
        raise InvalidData(
            f"{path} is cut off: its gzip stream ends early", remedy="copy or download it again", values={"size_bytes": len(raw)}
        ) from None
    except (OSError, zlib.error) as error:
        raise InvalidData(f"{path} is not a sound gzip file: {error}", remedy="copy or download it again", values={"size_bytes": len(raw)}) from None


def _unzstd(raw: bytes, path: Path) -> bytes:
    try:
        with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as file:
            return _bounded(file.read(_MOST_BYTES + 1), path)
    except (OSError, pa.ArrowException) as error:
        raise InvalidData(f"{path} is not a sound zstd file: {error}", remedy="copy or download it again", values={"size_bytes": len(raw)}) from None


def _unzip(raw: bytes, path: Path) -> tuple[bytes, str]:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            # archives made on a Mac carry a shadow of each file
            names = [entry for entry in archive.namelist() if not entry.endswith("/") and not entry.startswith("__MACOSX/")]
            if len(names) != 1:
                raise InvalidData(
                    f"{path} holds {len(names)} files{': ' + ', '.join(names[:5]) if names else ''}; one is needed",
                    remedy="unpack it and name one",
                    values={"found": names[:50]},
                )
            with archive.open(names[0]) as file:
                return _bounded(file.read(_MOST_BYTES + 1), path), PurePath(names[0]).name
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        raise InvalidData(
            f"{path} is not a sound zip archive, or is locked: {error}", remedy="copy or download it again", values={"size_bytes": len(raw)}
        ) from None


def _bounded(raw: bytes, path: Path) -> bytes:
    if len(raw) > _MOST_BYTES:
        raise TooLarge(
            f"{path} unpacks to more than {_MOST_BYTES >> 30} GiB", remedy="split it, or convert it to Parquet", values={"limit_bytes": _MOST_BYTES}
        )
    return raw


def _read_arrow(raw: bytes, name: str) -> pa.Table:
    for read in (pa.ipc.open_file, pa.ipc.open_stream):
        try:
            return read(pa.BufferReader(raw)).read_all()
        except (pa.ArrowException, OSError) as error:
            reason = str(error)[:300]
    kind = what_it_is(raw)
    looks = f": it looks like {kind}" if kind and kind != "an Arrow file" else ", or is cut off"
    raise InvalidData(f"{name} is not a sound Arrow file{looks}", remedy="write it again", values={"size_bytes": len(raw), "reason": reason})


def _read_parquet(raw: bytes, name: str) -> pa.Table:
    try:
        return pyarrow.parquet.read_table(pa.BufferReader(raw))
    except (pa.ArrowException, OSError) as error:
        kind = what_it_is(raw)
        if raw.startswith(b"PAR1") and not raw.endswith(b"PAR1"):
            what = f"{name} is cut off: its Parquet footer is missing"
        else:
            what = f"{name} is not a sound Parquet file{f': it looks like {kind}' if kind and kind != 'a Parquet file' else ''}"
        raise InvalidData(what, remedy="copy or write it again", values={"size_bytes": len(raw), "reason": str(error)[:300]}) from error
