"""What the data plane answers to good and bad requests, over a real socket."""

from __future__ import annotations

import http.client
import json
import socket
from urllib.parse import urlsplit

import pytest
import serving_bundles as bundles

from kaizenml.errors import InvalidInput, NotFound, TooLarge, Unavailable
from kaizenml.serving.client import Client
from kaizenml.serving.journaling import journal
from kaizenml.serving.journaling.drain import _decode

GOOD = bundles.GOOD


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    state = tmp_path_factory.mktemp("project") / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    with bundles.served("--state", str(state), log=state / "log") as (_, url):
        yield url, state


@pytest.fixture
def client(server):
    with Client(server[0]) as found:
        yield found


def _raw(url: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.request(method, path, body, {"content-type": "application/json"} if headers is None else headers)
    answer = connection.getresponse()
    raw = answer.read()
    connection.close()
    return answer, json.loads(raw) if raw.startswith(b"{") else raw


def test_an_answer_carries_its_lineage_and_its_record_stands_in_the_journal(server, client):
    answer = client.predict("shop", [GOOD, {**GOOD, "price": None, "order": "o-7"}], unit="c-1")
    assert answer["release"] == "shop@1"
    assert answer["lineage"] == {"model": "shop@1", "data": "orders@1", "features": [], "code": "abc123", "hash": "hash-of-shop@1"}
    assert answer["classes"] == [False, True]
    for said in answer["predictions"]:
        assert set(said) == {"id", "value", "probabilities", "decided_by", "reason", "arm"}
        assert (said["decided_by"], said["reason"], said["arm"]) == ("model", None, "champion")
        assert said["value"] is (said["probabilities"][1] > 0.5)
        assert sum(said["probabilities"]) == pytest.approx(1)
    records = [_decode(f.payload) for s in journal.segments(server[1] / "journal") for f in journal.read(s.path)]
    record = next(r for r in records if r.answers[0].id == answer["predictions"][0]["id"])
    assert (record.release, record.unit, len(record.answers)) == ("shop@1", "c-1", 2)
    assert json.loads(record.body)["inputs"][1]["order"] == "o-7"


@pytest.mark.parametrize(
    ("row", "field", "says"),
    [
        ({"price": "far"}, "price", "is not a number"),
        ({"price": True}, "price", "is not a number"),
        ({"count": 1.5}, "count", "is not a whole number"),
        ({"size": 3}, "size", "is not text"),
        ({"gift": "yes"}, "gift", "is not true or false"),
        ({"ordered": "yesterday"}, "ordered", "is not a time"),
        ({"ordered": 1e18}, "ordered", "is not a time"),
        ({"prise": 3.0}, "prise", "did you mean 'price'"),
        ({"price": [1]}, "price", "not a plain value"),
        ({"price": {"a": 1}}, "price", "not a plain value"),
    ],
)
def test_a_wrong_value_is_named_by_row_field_and_value(client, row, field, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        client.predict("shop", [GOOD, {**GOOD, **row}])
    assert (caught.value.values["row"], caught.value.values["field"]) == (1, field)
    assert caught.value.remedy


def test_a_missing_column_is_named(client):
    with pytest.raises(InvalidInput, match=r"inputs\[0\]\.size is absent"):
        client.predict("shop", [{name: value for name, value in GOOD.items() if name != "size"}])


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 422, "empty"),
        (b"   ", 422, "empty"),
        (b"{", 422, "not JSON"),
        (b"price=1", 422, "the body is not JSON: JSON is malformed"),
        (b"null", 422, "not an object"),
        (b"[]", 422, "not an object"),
        (b"{}", 422, "'inputs' is missing"),
        (b'{"input": []}', 422, "did you mean 'inputs'"),
        (b'{"inputs": []}', 422, "is empty"),
        (b'{"inputs": {}}', 422, "not a list"),
        (b'{"inputs": [1]}', 422, "inputs[0] is a number"),
        (b'{"inputs": [null]}', 422, "inputs[0] is null"),
        (b'{"inputs": [{}]}', 422, "absent"),
        (b'{"inputs": [{"price": NaN}]}', 422, "NaN"),
        (b'{"inputs": [{"price": -Infinity}]}', 422, "Infinity"),
        (b'{"inputs": [{"price": 1e999}]}', 422, "beyond"),
        (b'{"inputs": [{"price": ' + b"9" * 5000 + b"}]}", 422, ""),
        (b'{"inputs": [{"price": "\xff"}]}', 422, "not JSON"),
        (b'{"inputs": [{"price": "\\ud800"}]}', 422, "not JSON"),
        (b'{"inputs": [{"price": 1}], "unit": {}}', 422, "unit is an object"),
        (b'{"inputs": [{"price": 1}], "unit": ""}', 422, "unit is empty"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 413, "nested"),
        (b'{"a": ' * 100_000, 413, "nested"),
        (b'{"inputs": [' + b",".join([b"{}"] * 10_001) + b"]}", 413, "10,001 rows"),
        (b'{"inputs": [{"price": 1}]} {}', 422, "not JSON"),
    ],
)
def test_a_wrong_body_is_never_a_server_error(server, body, status, says):
    answer, document = _raw(server[0], "POST", "/predict/shop", body)
    assert answer.status == status
    assert says in document["error"]["message"]
    assert set(document["error"]) == {"code", "message", "values", "remedy"}
    assert document["error"]["remedy"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/predict/shop", None, 405, "method_not_allowed"),
        ("DELETE", "/outcomes/shop", None, 405, "method_not_allowed"),
        ("POST", "/health/live", None, 405, "method_not_allowed"),
        ("POST", "/predict/shop", {"content-type": "text/csv"}, 415, "unsupported_media"),
        ("POST", "/predict/shop", {"content-type": "application/json", "content-encoding": "gzip"}, 415, "unsupported_media"),
        ("POST", "/predict/shap", None, 404, "not_found"),
        ("POST", "/predict/", None, 404, "not_found"),
        ("POST", "/predict/%00%ff../..", None, 404, "not_found"),
        ("POST", "/predcit/shop", None, 404, "not_found"),
        ("GET", "/", None, 404, "not_found"),
    ],
)
def test_what_is_not_here_is_refused_with_a_document(server, method, path, headers, status, code):
    answer, document = _raw(server[0], method, path, b"{}" if method == "POST" else None, headers)
    assert (answer.status, document["error"]["code"]) == (status, code)


def test_the_nearest_endpoint_is_named(client):
    with pytest.raises(NotFound, match="did you mean 'shop'"):
        client.predict("shp", [GOOD])


def test_json_with_a_charset_is_taken(server):
    answer, _ = _raw(server[0], "POST", "/predict/shop", json.dumps({"inputs": [GOOD]}).encode(), {"content-type": "Application/JSON; charset=utf-8"})
    assert answer.status == 200


def test_a_body_of_ten_megabytes_is_refused_and_the_server_goes_on(server, client):
    with pytest.raises(TooLarge, match="limit is 8,000,000"):
        client.predict("shop", [{**GOOD, "size": "x" * 10_000_000}])
    assert client.predict("shop", [GOOD])["predictions"]


def test_a_chunked_body_is_limited_while_it_streams(server):
    connection = http.client.HTTPConnection(urlsplit(server[0]).netloc, timeout=20)
    pieces = iter([b'{"inputs": [{"size": "'] + [b"x" * 100_000] * 100 + [b'"}]}'])
    connection.request("POST", "/predict/shop", pieces, {"content-type": "application/json"}, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "too_large"
    connection.close()


def test_a_body_far_beyond_the_limit_is_refused_by_its_announced_length(server):
    parts = urlsplit(server[0])
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as connection:
        connection.sendall(b"POST /predict/shop HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100000000000\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(10_000), b""))  # nobody waits for the body
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"100,000,000,000 bytes" in answer


def test_a_client_that_leaves_in_the_middle_harms_nobody(server, client):
    parts = urlsplit(server[0])
    for piece in (
        b"POST /predict/shop HTTP/1.1\r\n",
        b"POST /predict/shop HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{",
        b"\x00\x01garbage\r\n\r\n",
    ):
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(piece)
    assert client.predict("shop", [GOOD])["predictions"]


def test_a_batch_gives_what_single_rows_give(client):
    rows = [{**GOOD, "price": price / 7, "size": size} for price in range(-20, 20) for size in ("M", "S", None, "unseen")]
    batch = client.predict("shop", rows)["predictions"]
    assert [said["probabilities"] for said in batch] == [client.predict("shop", [row])["predictions"][0]["probabilities"] for row in rows]


def test_outcomes_are_taken_and_wrong_ones_refused(server, client):
    made = [said["id"] for said in client.predict("shop", [GOOD] * 3)["predictions"]]
    taken = client.outcomes(
        "shop", [{"id": made[0], "value": True}, {"id": made[1], "value": False, "at": "2100-01-01T00:00:00Z"}, {"id": "x", "value": True}]
    )
    assert {name: taken[name] for name in ("accepted", "late", "early", "duplicate", "conflicting", "unknown")} == {
        "accepted": 3, "late": 1, "early": 0, "duplicate": 0, "conflicting": 0, "unknown": 1,
    }  # fmt: skip
    assert client.outcomes("shop", [{"id": made[0], "value": True}])["duplicate"] == 1
    for wrong, says in (
        ({"id": made[2], "value": "maybe"}, "none of the classes"),
        ({"id": made[2]}, "absent"),
        ({"id": 3, "value": True}, "a number"),
    ):
        with pytest.raises(InvalidInput, match=says):
            client.outcomes("shop", [wrong])
    with pytest.raises(NotFound):
        client.outcomes("shap", [{"id": "a", "value": True}])


def test_health_metrics_and_openapi_tell_what_is_served(server, client):
    client.predict("shop", [GOOD])
    assert _raw(server[0], "GET", "/health/live")[1] == {"live": True}
    ready = client.ready()
    assert ready["ready"]
    assert ready["endpoints"]["shop"]["champion"] == "shop@1"
    answer, text = _raw(server[0], "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = dict(line.rsplit(" ", 1) for line in text.decode().splitlines() if not line.startswith("#"))
    assert float(lines['kaizen_predictions_total{endpoint="shop",release="shop@1",arm="champion",decided_by="model"}']) >= 1
    count = float(lines['kaizen_predict_seconds_count{endpoint="shop",release="shop@1"}'])
    assert count == float(lines['kaizen_predict_seconds_bucket{endpoint="shop",release="shop@1",le="+Inf"}']) >= 1
    assert "shap" not in text.decode()  # names that do not exist make no series
    document = client.request("GET", "/openapi.json")
    assert set(document["components"]["schemas"]["shop.Row"]["required"]) == set(GOOD)


@pytest.mark.slow
def test_a_port_that_is_taken_names_who_holds_it(server, tmp_path):
    port = urlsplit(server[0]).port
    state = tmp_path / ".kaizen"
    state.mkdir()
    process = bundles.start("--state", str(state), "--port", str(port), log=tmp_path / "log")
    assert process.wait(20) == 1
    assert process.stdout is not None
    process.stdout.close()
    said = (tmp_path / "log").read_text()
    assert f"port {port} of 127.0.0.1 is taken by python" in said
    assert "--port" in said


@pytest.mark.slow
def test_a_server_that_is_not_there_is_unavailable():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(Unavailable, match="does not answer"):
        Client(url).outcomes("shop", [])
