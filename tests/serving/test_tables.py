"""NPY and Arrow bodies get the answers of our own form; what lies about its size, or is broken, is refused with the reason."""

from __future__ import annotations

import http.client
import io
import json
import struct
import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
import serving_bundles as bundles
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.context import Context
from kaizenml.errors import InvalidInput, TooLarge
from kaizenml.serving.client import Client
from kaizenml.serving.dialects import arrow, npy
from kaizenml.serving.journaling import predictions
from kaizenml.serving.journaling.drain import drain
from kaizenml.serving.protocol import Limits

NPY, ARROW = "application/x-npy", "application/vnd.apache.arrow.stream"
ROWS = [bundles.GOOD, {"price": None, "size": "L", "count": 7, "gift": False, "ordered": "2026-03-04T08:00:00Z"}]
KINDS = [("price", "<f8"), ("size", "<U3"), ("count", "<i4"), ("gift", "?"), ("ordered", "<M8[s]")]
NAMED = np.array([tuple({**row, "price": row["price"] or np.nan, "ordered": row["ordered"][:-1]}.values()) for row in ROWS], KINDS)
TABLE = pa.table({
    "price": [3.0, None], "size": pa.array(["M", "L"]).dictionary_encode(), "count": [2, 7], "gift": [True, False], "ordered": NAMED["ordered"],
})  # fmt: skip
LIMITS = Limits()


def saved(array: np.ndarray, **how) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **how)
    return file.getvalue()


def streamed(table: pa.Table, **options) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.fixture
def server(ctx: Context):
    bundles.route(ctx.state, bundles.write_bundle(ctx.state))
    with bundles.served("--state", str(ctx.state), log=ctx.state / "log") as (_, url):
        yield url


def ask(url: str, path: str, body: bytes, kind: str, **headers: str):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request("POST", path, body, {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}})
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    return answer, json.loads(raw) if answer.headers["content-type"] == "application/json" else raw


@pytest.mark.slow
def test_tables_go_in_and_come_out_and_are_journaled_as_rows(server, ctx) -> None:
    with Client(server) as client:
        said = client.predict("shop", ROWS)["predictions"]
    expected = [one["probabilities"] for one in said]
    bodies = [
        (saved(NAMED), NPY), (streamed(TABLE), ARROW), (streamed(TABLE, compression="zstd"), ARROW), (streamed(TABLE, compression="lz4"), ARROW),
        (streamed(TABLE.set_column(1, "size", pa.array(["M", "L"], pa.string_view()))), ARROW),
    ]  # fmt: skip
    for body, kind in bodies:
        answer, document = ask(server, "/predict/shop", body, kind, x_kaizen_unit="somebody")
        assert (answer.status, [one["probabilities"] for one in document["predictions"]]) == (200, expected)
        answer, raw = ask(server, "/invocations", body, kind, accept=f"{NPY}, application/json")
        table = np.load(io.BytesIO(raw), allow_pickle=False)
        assert (table["probabilities"].tolist(), table["value"].tolist()) == (expected, [one["value"] for one in said])
        assert (answer.headers["x-kaizen-release"], answer.headers["x-amzn-invoked-production-variant"]) == ("shop@1", "champion")
        answer, raw = ask(server, "/predict/shop", body, kind, accept=ARROW)
        found = pa.ipc.open_stream(raw).read_all()
        assert found["probabilities"].to_pylist() == expected
        assert json.loads(found.schema.metadata[b"lineage"])["code"] == "abc123"
    answer, raw = ask(server, "/predict/shop", json.dumps({"inputs": ROWS}).encode(), "application/json", accept=ARROW)
    assert pa.ipc.open_stream(raw).read_all()["probabilities"].to_pylist() == expected
    answer, document = ask(server, "/predict/shop", saved(NAMED[["price", "size"]].astype(KINDS[:2])), NPY)
    assert (answer.status, "count is absent" in document["error"]["message"]) == (422, True)
    drain(ctx)
    kept = predictions.read(ctx, "shop").to_pylist()
    assert len(kept) == 2 * (1 + 3 * len(bodies) + 1)
    assert {(row["x_price"], row["x_size"], row["x_count"], row["x_gift"], row["x_ordered"].isoformat()) for row in kept} == {
        (3.0, "M", 2.0, True, "2026-03-01T12:30:00+00:00"), (None, "L", 7.0, False, "2026-03-04T08:00:00+00:00"),
    }  # fmt: skip
    assert {row["unit"] for row in kept} == {None, "somebody"}


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3)), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((2, 3), ">f4"), np.ones((2, 3), "i2")], ids=str
)
def test_a_plain_array_holds_the_columns_in_order(array) -> None:
    found = npy.read(saved(array), ["a", "b", "c"], LIMITS)
    assert [list(row.values()) for row in found] == array.tolist()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not NPY"), (b"\x93NUMPY\x09\x00" + b"\0" * 40, "not NPY"), (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"\0" * 40, "claims 2,147,483,647"),
        (saved(np.array([{}], object), allow_pickle=True), "not taken"), (saved(np.zeros((2, 2))), "the model takes"), (saved(np.zeros(())), "takes"),
        (saved(np.zeros((0, 3))), "empty"), (saved(np.zeros((2, 3)))[:-1], "claims 48 bytes"), (saved(np.zeros((2, 3))) + b"x", "has 49"),
        (saved(np.zeros((2, 3)), ).replace(b"(2, 3)", b"(2,-3)"), "shape"), (saved(np.zeros(3, "V8")), "not taken"),
        (saved(np.zeros(2, [("a", "f8", (2,))])), "not taken"), (saved(np.array([(b"\xff",)], [("a", "S1")])), "not Unicode"),
        (saved(np.array([("\ud800",)], [("a", "U1")])), "not Unicode"),
        (saved(np.array([(0x110000,)], [("a", "<u4")])).replace(b"<u4", b"<U1"), "not Unicode"),
        (saved(np.array([(2**61,)], [("a", "M8[D]")]).view([("a", "M8[D]")])), "beyond the year"),
        (saved(np.array([(7,)], [("a", "u1")])).replace(b"|u1", b"|b1"), "neither 0 nor 1"),
    ],
)  # fmt: skip
def test_what_is_no_plain_npy_is_refused(body, said) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        npy.read(body, ["a", "b", "c"], LIMITS)
    assert refused.value.remedy


def shared(columns: int, rows: int) -> bytes:
    """A stream whose columns all point to the bytes of the first one."""
    text = pa.array(["x" * 500] * rows)
    body = bytearray(streamed(pa.table({f"c{place}": text if place == 0 else pa.array([""] * rows) for place in range(columns)})))
    whole = pa.ipc.open_stream(bytes(body)).read_all()
    assert whole.num_rows == rows
    first = struct.pack("<qq", *_buffers(bytes(body))[1])
    for place in range(1, columns):
        for part in (1, 2):
            offset, length = _buffers(bytes(body))[3 * place + part]
            at = bytes(body).find(struct.pack("<qq", offset, length))
            wanted = first if part == 1 else struct.pack("<qq", *_buffers(bytes(body))[2])
            body[at : at + 16] = wanted
    return bytes(body)


def _buffers(body: bytes) -> list[tuple[int, int]]:
    source = pa.BufferReader(body)
    pa.ipc.read_message(source)
    described = pa.ipc.read_message(source).metadata.to_pybytes()
    root = struct.unpack_from("<I", described)[0]
    table = arrow._follow(described, arrow._slot(described, root, 2))
    vector = arrow._follow(described, arrow._slot(described, table, 2))
    return [struct.unpack_from("<qq", described, vector + 4 + 16 * place) for place in range(struct.unpack_from("<I", described, vector)[0])]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (streamed(pa.table({"a": ["x" * 50_000_000]}), compression="zstd"), "compressed, the stream becomes"),
        (streamed(pa.table({"a": pa.DictionaryArray.from_arrays(np.zeros(9000, "i4"), pa.array(["x" * 2000]))})), "unpacks to 18,000,000"),
        (streamed(pa.table({"a": pa.array(["x" * 2000] * 9000).cast(pa.string_view())}).slice(0, 9000)), "unpacks to 18,000,000"),
        (streamed(pa.table({f"c{place}": pa.nulls(9000) for place in range(1000)})), "unpacks to 9,000,000"),
        (streamed(pa.table({"a": np.zeros(10_001)})), "10,001 rows"),
        (streamed(pa.table({f"c{place}": [1] for place in range(10_001)})), "10,001 columns"),
        (shared(40, 500), "unpacks to 10,000,000"),
    ],
)
def test_an_arrow_stream_that_becomes_too_much_is_refused_before_it_does(body, said) -> None:
    with pytest.raises(TooLarge, match=said) as refused:
        arrow.read(body, LIMITS)
    assert refused.value.remedy


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "cannot be read"), (b"ARROW1\0\0", "cannot be read"), (streamed(TABLE)[:-200], "cannot be read"),
        (streamed(TABLE.slice(0, 0)), "empty"), (streamed(TABLE.select([])), "no columns"),
        (streamed(pa.table({"a": [[1]]})), "not plain"), (streamed(pa.table({"a": [{"b": 1}]})), "not plain"),
        (streamed(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])), "twice"),
        (streamed(pa.table({"a": pa.array([2**62], pa.timestamp("s"))})), "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_plain_arrow_stream_is_refused(body, said) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        arrow.read(body, LIMITS)
    assert refused.value.remedy


def test_times_of_any_unit_and_zone_are_read_as_utc() -> None:
    kinds = [pa.timestamp("ns", "Nowhere/AtAll"), pa.timestamp("s", "+02:00"), pa.timestamp("ms"), pa.date32(), pa.date64()]
    for kind in kinds:
        (row,) = arrow.read(streamed(pa.table({"a": pa.array([0], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)})), LIMITS)
        assert row["a"] == "1970-01-01T00:00:00.000000"


SEEDS = [
    streamed(TABLE), streamed(TABLE, compression="zstd"), streamed(TABLE, compression="lz4"),
    streamed(pa.table({"a": pa.array(["x", None, "yy" * 20], pa.string_view()), "b": pa.array([1, None, 3], pa.uint8())})),
]  # fmt: skip
HITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)), min_size=1, max_size=6)


def tried(read, body: bytes) -> None:
    """Read and make rows; refusals are fine, anything else is not."""
    try:
        rows = read(body)
    except (InvalidInput, TooLarge):
        return
    assert all(isinstance(row, dict) for row in rows)


@given(st.sampled_from(SEEDS), HITS, st.integers(0, 64))
@settings(max_examples=100, deadline=None)
def test_no_broken_stream_breaks_the_reader(seed, hits, cut) -> None:
    body = bytearray(seed)
    for place, value in hits:
        body[int(place * len(body))] = value
    tried(lambda raw: arrow.read(raw, LIMITS), bytes(body[: len(body) - cut]))


@given(st.sampled_from([saved(NAMED), saved(np.zeros((2, 3)))]), HITS, st.integers(0, 8))
@settings(max_examples=80, deadline=None)
def test_no_broken_array_breaks_the_reader(seed, hits, cut) -> None:
    body = bytearray(seed)
    for place, value in hits:
        body[int(place * len(body))] = value
    tried(lambda raw: npy.read(raw, ["a", "b", "c"], LIMITS), bytes(body[: len(body) - cut]))


@pytest.mark.slow
@pytest.mark.parametrize(("reader", "seeds"), [("arrow.read(bytes(body), limits)", SEEDS), ("npy.read(bytes(body), [], limits)", [saved(NAMED)])])
def test_forty_thousand_broken_bodies_break_nothing(tmp_path, reader, seeds) -> None:
    """In a process of its own, so that a crash is seen as such."""
    paths = []
    for number, seed in enumerate(seeds):
        paths.append(str(tmp_path / str(number)))
        (tmp_path / str(number)).write_bytes(seed)
    code = (
        "import random, re, sys, msgspec\n"
        "from kaizenml.errors import KaizenError\n"
        "from kaizenml.serving.dialects import arrow, npy\n"
        "from kaizenml.serving.protocol import Limits\n"
        "seeds = [open(path, 'rb').read() for path in sys.argv[1:]]\n"
        "rng, read, limits = random.Random(7), 0, Limits()\n"
        "for number in range(40_000):\n"
        "    body = bytearray(rng.choice(seeds))\n"
        "    for _ in range(rng.randint(1, 5)):\n"
        "        body[rng.randrange(len(body))] = rng.choice((0, 1, 2, 127, 128, 255, rng.randrange(256)))\n"
        "    try:\n"
        f"        rows = {reader}\n"
        "        read += len(msgspec.json.encode(rows.plain()))\n"  # as the journal keeps it
        "    except KaizenError as error:\n"
        "        assert error.status in (413, 422)\n"
        "assert read > 0\n"
        # not ru_maxrss: that begins with what the process weighed from which this one was started
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 500  # MB
