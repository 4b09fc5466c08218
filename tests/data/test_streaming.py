"""Additions that come in pieces: the same rows, kinds, hashes and quarantine as at once, in bounded memory, and all of it or nothing."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from kaizenml.context import Context
from kaizenml.data import contract_file, hashing, ingest, operations, part_writer, seen, staged, store, tables
from kaizenml.data.intake import files, sources, streams
from kaizenml.data.kinds import normalise
from kaizenml.errors import ContractBroken, InvalidData

HEAD = "id,x\n"


@pytest.fixture
def small(monkeypatch):
    """Makes everything that is large small, so that a hundred rows are many pieces, files and blocks."""
    for module in (streams, files):
        monkeypatch.setattr(module, "WHOLE_BYTES", 100)
    monkeypatch.setattr(streams, "_CHUNK", 150)
    monkeypatch.setattr(files, "_PIECE_BYTES", 200)
    monkeypatch.setattr(part_writer, "_HELD_BYTES", 300)
    monkeypatch.setattr(part_writer, "_FILE_BYTES", 1000)
    monkeypatch.setattr(ingest, "_KEYS_AT_ONCE", 0)
    monkeypatch.setattr(seen, "_IN_MEMORY", 10)


def column(*values: object, times: int = 60) -> str:
    """A CSV whose column x has the first value on ``times`` rows, then the next one ..."""
    spread = [str(value) for value in values for _ in range(times)]
    return HEAD + "".join(f"{row},{value}\n" for row, value in enumerate(spread))


FILES = {
    "whole numbers": column(1, 22),
    "fractions come late": column(1, 2.5),
    "text comes late": column(1, 2.5, "abc"),
    "text after whole numbers": column(1, "b"),
    "a code with zeros comes late": column(12, "007"),
    "booleans become text": column("true", "maybe"),
    "missing at first": column("", 3),
    "missing at last": column(3, ""),
    "another word for missing": column(3, "-"),
    "dates": column("2026-01-02", "2026-02-03T04:05:06Z"),
    "days that only a later row tells from months": column("01/02/2026", "25/02/2026"),
    "months that only a later row tells from days": column("01/02/2026", "02/25/2026"),
    "dates that nothing tells": column("01/02/2026", "03/04/2026"),
    "dates in two ways": column("25/02/2026", "02/25/2026"),
    "lines within quotes": HEAD + "".join(f'{row},"a,\n""q""\nb"\n' for row in range(60)),
    "CRLF": column(1, 2.5).replace("\n", "\r\n"),
    "old Mac lines": column(1, 2.5).replace("\n", "\r"),
    "no end of line at the end": column(1, 2).rstrip("\n"),
    "semicolons and decimal commas": column("1,5", "2,75").replace(",", ";", 1).replace("\n", "\n").replace(",1,5", ";1,5").replace(",2,75", ";2,75"),
}


QUICK = ("fractions come late", "text comes late", "days that only a later row tells from months", "dates in two ways", "lines within quotes")
CASES = [pytest.param(text, "csv", id=name, marks=[] if name in QUICK else [pytest.mark.slow]) for name, text in FILES.items()]
CASES += [pytest.param(FILES["fractions come late"], f"csv.{packed}", id=packed) for packed in ("gz", "zst")]


@pytest.mark.parametrize(("text", "ending"), CASES)
def test_a_file_in_pieces_is_read_as_it_is_at_once(ctx: Context, small, text: str, ending: str):
    path = ctx.root / f"rows.{ending}"
    raw = text.encode()
    path.write_bytes(gzip.compress(raw) if ending.endswith("gz") else pa.compress(raw, "zstd", asbytes=True) if ending.endswith("zst") else raw)
    whole = sources.table_of(raw, "rows.csv", ".csv", "rows.csv")
    version = operations.add(ctx, "t", str(path))
    assert tables.read(ctx, "t").equals(normalise(whole).replace_schema_metadata(None))
    assert len(tables.part_files(tables.folder(ctx, "t"))[1]) > 1, "it came in pieces"
    at_once = operations.add(ctx, "u", table=whole)
    assert (version.columns, version.hash) == (at_once.columns, at_once.hash)
    assert version.profile["x"]["missing"] == at_once.profile["x"]["missing"]
    tables.verify(ctx, "t")


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["parquet", "arrow", "jsonl"])
def test_other_formats_come_in_pieces_too(ctx: Context, small, ending: str):
    rows = pa.table({"id": range(200), "x": [None] * 100 + [0.5] * 100, "day": ["2026-01-02"] * 199 + ["never"], "n": [1] * 150 + [2] * 50})
    path = ctx.root / f"rows.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(rows, path)
    elif ending == "arrow":
        pyarrow.feather.write_feather(rows, str(path))
    else:
        lines = [{name: value for name, value in row.items() if value is not None} for row in rows.to_pylist()]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    version = operations.add(ctx, "t", str(path), key="id")
    assert version.columns == {"id": "integer", "x": "number", "day": "category", "n": "integer"} or ending == "jsonl"
    assert tables.read(ctx, "t", rows.column_names).equals(normalise(rows))
    tables.verify(ctx, "t")


CHECKS = """
[[checks]]
name = "late ones cost nothing"
sql = "select a._row from rows a, (select max(id) last from rows) b where a.id > b.last - 5 and x > 0"

[[checks]]
name = "as many as before"
sql = "select _row from rows where x = (select x from rows where id = 195)"

[[checks]]
name = "even ones"
sql = "select id, x from rows where id % 100 = 4"
severity = "warn"
"""


def with_checks(ctx: Context, name: str, checks: str) -> Path:
    operations.add(ctx, name, table=pa.table({"id": [-1], "x": [0.5], "mail": ["a@b.org"]}), key="id", why="first")
    path = contract_file.path_of(ctx.root, name)
    path.write_text(path.read_text().replace("[[columns]]", f"{checks}\n[[columns]]", 1))
    return path


@pytest.mark.slow
def test_checks_in_sql_see_an_addition_in_pieces_as_a_whole(ctx: Context, small):
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    many = pa.table({"id": [*range(200), 7, 198], "x": [row * 0.5 for row in range(197)] + [-1.0, 98.0, -1.0, 3.5, 0.0], "mail": ["c@d.org"] * 202})
    for name in ("whole", "pieces"):
        with_checks(ctx, name, CHECKS)
    one = pyarrow.Table.from_batches(many.to_batches(max_chunksize=1000))
    at_once = operations.add(ctx, "whole", table=one)
    files = len(tables.part_files(tables.folder(ctx, "pieces"))[1])
    in_pieces = operations.add(ctx, "pieces", table=pa.RecordBatchReader.from_batches(many.schema, many.to_batches(max_chunksize=7)))
    assert len(tables.part_files(tables.folder(ctx, "pieces"))[2]) > files, "it came in pieces"
    assert (in_pieces.hash, in_pieces.quarantined, in_pieces.warnings) == (at_once.hash, at_once.quarantined, at_once.warnings)
    assert in_pieces.warnings == {"check 'even ones' found 2": 2}
    kept_out = [operations.quarantine(ctx, name).samples for name in ("whole", "pieces")]
    assert kept_out[0] == kept_out[1]
    # 196 and 199 by the first check; 195 by the second, which finds what the first one left; 7 and 198 came twice
    assert [row["_row"] for row in kept_out[1]] == [196, 197, 199, 201, 202]
    assert not list((ctx.state / "tmp").glob("*")), "what was kept aside is gone"
    tables.verify(ctx, "pieces")
    assert operations.check(ctx, "pieces").reasons == {}
    limit = '\n[[checks]]\nname = "few"\nsql = "select count(*) - 20 from rows"\n'
    path = contract_file.path_of(ctx.root, "pieces")
    path.write_text(path.read_text().replace("\n[[columns]]", f"{limit}\n[[columns]]", 1))
    later = pa.table({"id": range(300, 360), "x": [0.5] * 60, "mail": [None] * 60})
    with pytest.raises(ContractBroken, match="check 'few' found 35"):
        operations.add(ctx, "pieces", table=pa.RecordBatchReader.from_batches(later.schema, later.to_batches(max_chunksize=7)))
    assert operations.show(ctx, "pieces").version.number == 2


@pytest.mark.slow
def test_only_what_checks_read_is_kept_aside_and_goes_though_its_process_was_killed(ctx: Context, small, monkeypatch):
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'kaizenml[duckdb]'")
    with_checks(ctx, "t", CHECKS)
    seen: list[str] = []

    def killed(self) -> None:
        seen.extend(pyarrow.parquet.read_schema(self._scratch.path / "rows.parquet").names)
        os.close(self._scratch._held[1])

    monkeypatch.setattr(staged.Staged, "close", killed)
    rows = pa.table({"id": range(60), "x": [0.5] * 60, "mail": ["c@d.org"] * 60})
    operations.add(ctx, "t", table=pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=7)))
    assert set(seen) == {"_row", "id", "x"}, "no address is in a file that no check asks for"
    monkeypatch.undo()
    left = list((ctx.state / "tmp").iterdir())
    assert left, "as if the process had been killed"
    operations.add(ctx, "t", table=pa.table({"id": [1000], "x": [0.0], "mail": ["e@f.org"]}))
    assert not list((ctx.state / "tmp").iterdir())


def test_a_stream_of_record_batches_is_taken_though_it_can_be_read_only_once(ctx: Context, small):
    rows = pa.table({"id": [*range(100), 3], "x": [0.5] * 101})
    operations.add(ctx, "t", table=pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=7)), key="id")
    assert tables.read(ctx, "t").equals(rows.slice(0, 100))
    assert [(row["_row"], row["_reason"]) for row in operations.quarantine(ctx, "t").samples] == [(101, "id: 3 was there before")]
    assert not list((ctx.state / "tmp").glob("*")), "what was kept aside is gone"


def test_keys_that_come_again_in_later_pieces_or_older_versions_go_to_quarantine(ctx: Context, small):
    first = HEAD + "".join(f"{row},{row}.5\n" for row in range(100))
    (ctx.root / "a.csv").write_text(first + "5,bad\n" + "7,7\n" * 2)
    operations.add(ctx, "t", "a.csv", key="id")
    kept_out = operations.quarantine(ctx, "t").samples
    assert [(row["_row"], row["_reason"]) for row in kept_out] == [(101, "id: 5 was there before")] + [
        (row, "id: 7 was there before") for row in (102, 103)
    ]
    (ctx.root / "b.csv").write_text(HEAD + "".join(f"{row},1\n" for row in range(90, 200)))
    version = operations.add(ctx, "t", "b.csv")
    assert (version.rows, version.quarantined) == (200, 10)
    newest = operations.quarantine(ctx, "t@2").samples
    assert (newest[0]["_row"], newest[0]["_reason"]) == (1, "id: 90 is in t@1 already")
    assert len(tables.read(ctx, "t", ["id"])["id"].unique()) == 200


def test_bad_rows_keep_their_numbers_and_the_first_good_one_of_two_stands(ctx: Context, small):
    operations.add(ctx, "t", table=pa.table({"id": range(1000, 1010), "x": [0.5] * 10}), key="id")
    lines = [f"{row},{row}.5" for row in range(100)]
    lines[3], lines[80] = "80,bad", "3,3.5"
    (ctx.root / "a.csv").write_text(HEAD + "\n".join(lines) + "\n80,1.5\n")
    version = operations.add(ctx, "t", "a.csv")
    assert [(row["_row"], row["_rule"]) for row in operations.quarantine(ctx, "t").samples] == [(4, "x is not a number")]
    assert version.rows == 110


def test_a_column_of_another_kind_is_judged_over_all_pieces(ctx: Context, small):
    operations.add(ctx, "t", table=pa.table({"id": [1], "x": [0.5]}))
    bad_piece = [f"{row},0.5" for row in range(100)] + [f"{row},oops" for row in range(40)] + [f"{row},0.5" for row in range(100)]
    (ctx.root / "a.csv").write_text(HEAD + "\n".join(bad_piece) + "\n")
    assert operations.add(ctx, "t", "a.csv").quarantined == 40
    (ctx.root / "b.csv").write_text(HEAD + "".join(f"{row},oops\n" for row in range(100)))
    with pytest.raises(ContractBroken, match="was number and is now"):
        operations.add(ctx, "t", "b.csv")
    (ctx.root / "c.csv").write_text("id\n" + "1\n" * 100)
    with pytest.raises(ContractBroken, match="'x' is gone"):
        operations.add(ctx, "t", "c.csv")
    assert operations.show(ctx, "t").version.number == 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (column(1) + "70,1,2\n" + column(2)[5:], "line 62 of rows.csv has 3 fields"),
        (column(1) + '70,"open\n' + column(2)[5:] * 8, "opened on line 62 of rows.csv is never closed"),
        (column(1) + "70,\0\n", "NUL byte on line 62"),
        (column(1) + "70,\udcff\n", "not UTF-8: byte 0xff on line 62"),
    ],
)
def test_what_is_wrong_in_a_later_piece_is_told_with_its_line(ctx: Context, small, monkeypatch, text: str, match: str):
    monkeypatch.setattr(streams, "_LONGEST", 2000)
    (ctx.root / "rows.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidData, match=match):
        operations.add(ctx, "t", "rows.csv")
    assert operations.list(ctx) == []
    assert not list((ctx.state / "data").glob("t/**/*.parquet")), "nothing stays of what was written before"


def test_a_packed_file_that_is_cut_off_is_told(ctx: Context, small):
    (ctx.root / "rows.csv.gz").write_bytes(gzip.compress(np.random.default_rng(0).bytes(5000).hex().encode())[:-2000])
    with pytest.raises(InvalidData, match=r"packed file|no CSV|cut off|gzip"):
        operations.add(ctx, "t", "rows.csv.gz")


def test_chunks_of_a_table_come_back_in_their_order(ctx: Context):
    rows = pa.table({"id": range(60_000)})
    operations.add(ctx, "t", table=pa.concat_tables([rows.slice(at, 5000) for at in range(0, 60_000, 5000)]))
    assert tables.read(ctx, "t").equals(rows)
    tables.verify(ctx, "t")


def test_a_part_hashed_whole_by_an_older_kaizenml_is_verified_still(ctx: Context, monkeypatch):
    rows = pa.table({"id": range(5000)})
    operations.add(ctx, "t", table=rows)
    monkeypatch.setattr(hashing, "BLOCK", 1000)  # the same part, had it been of more rows than a block
    tables.verify(ctx, "t")
    assert operations.add(ctx, "u", table=rows).hash != operations.show(ctx, "t").version.hash
    with ctx.catalog.read() as connection:
        assert store.parts(connection, "u")[1].hash.startswith("2:")
    tables.verify(ctx, "u")


MANY = """
import resource, sys
from pathlib import Path
from kaizenml.data import operations, part_writer
from kaizenml.data.intake import streams
from kaizenml.errors import StorageFull
from kaizenml.project import open_project
part_writer._HELD_BYTES = streams._CHUNK = 1 << 18
ctx = open_project(Path(sys.argv[1]), actor="adder")
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    version = operations.add(ctx, "t", sys.argv[2], key="id")
except StorageFull as error:
    print(error)
    sys.exit(9)
# not ru_maxrss: that begins with what the process weighed from which this one was started
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(version.rows, int(peak.split()[1]) >> 10)
"""


def large_csv(path: Path, rows: int) -> None:
    numbers = np.random.default_rng(0).random(100_000)
    with path.open("w") as file:
        file.write(HEAD)
        for start in range(0, rows, 100_000):
            file.write("".join(f"{start + place},{number:.15f}{'-' * 20 if rows < 10**6 else ''}\n" for place, number in enumerate(numbers)))


@pytest.mark.slow
def test_a_full_disk_in_the_middle_of_many_pieces_leaves_nothing(ctx: Context):
    large_csv(ctx.root / "rows.csv", 900_000)
    operations.list(ctx)
    done = subprocess.run([sys.executable, "-c", MANY, str(ctx.root), "rows.csv", "3000000"], capture_output=True, text=True, cwd=ctx.root)
    assert done.returncode == 9, done.stderr[-2000:]
    assert "nothing was added" in done.stdout
    assert not [path for path in (ctx.state / "data").rglob("*") if path.is_file() and path.suffix == ".parquet"]
    assert operations.list(ctx) == []


@pytest.mark.slow
def test_kill_9_in_the_middle_of_many_pieces_leaves_nothing_and_the_next_addition_works(ctx: Context):
    large_csv(ctx.root / "rows.csv", 900_000)
    operations.add(ctx, "t", table=pa.table({"id": [-1], "x": ["first"]}), key="id")
    child = subprocess.Popen([sys.executable, "-c", MANY, str(ctx.root), "rows.csv"], cwd=ctx.root, stdout=subprocess.DEVNULL)
    part = ctx.state / "data" / "t" / "_part=2"
    while not list(part.glob("*.parquet")):
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert tables.read(ctx, "t").num_rows == 1
    version = operations.add(ctx, "t", table=pa.table({"id": [-2], "x": ["next"]}))
    assert (version.number, version.rows) == (2, 2)
    tables.verify(ctx, "t")
    assert len(list(part.glob("*.parquet"))) == 1, "what the killed one left is gone"


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_size_of_the_file(ctx: Context):
    large_csv(ctx.root / "rows.csv", 1_500_000)
    done = subprocess.run([sys.executable, "-c", MANY, str(ctx.root), "rows.csv"], capture_output=True, text=True, cwd=ctx.root)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, peak_mb = map(int, done.stdout.split())
    assert rows == 1_500_000
    # the program and its libraries take 200 MB of it; read at once, this file takes more than 700
    assert peak_mb < 450
