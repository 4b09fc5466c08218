"""The OpenAPI document says what is taken and answered, all of it; the page says the same to people."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import jsonschema_rs
import msgspec
import pytest
import serving_bundles as bundles
from in_process import running

from kaizenml.errors import KaizenError, _all
from kaizenml.features.signature import DERIVED, Derived, Field
from kaizenml.rollouts import snapshot
from kaizenml.rollouts.snapshot import Rule
from kaizenml.serving import app as app_module
from kaizenml.serving.client import Client
from kaizenml.serving.protocol import MethodNotAllowed
from kaizenml.serving.routing import Routing, load
from kaizenml.serving.telling.docs_page import page
from kaizenml.serving.telling.openapi import document
from kaizenml.serving.telling.openapi_parts import STATUSES
from kaizenml.training import model_file


def _routing(state, **kind) -> Routing:
    bundles.route(state, bundles.write_bundle(state, **kind))
    return load(state, snapshot.read(state / "serving" / snapshot.FILE), Routing())


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project") / ".kaizen"
    bundles.route(folder, bundles.write_bundle(folder, view=True))
    return folder


@pytest.fixture(scope="module")
def ask(state):
    with running(state) as found:
        yield found


@pytest.fixture(scope="module")
def described(ask):
    return ask("GET", "/openapi.json").document


def _validator(described, schema):
    return jsonschema_rs.Draft202012Validator({**schema, "components": described["components"]}, validate_formats=True)


def _operations(described):
    return [(path, method, found) for path, item in described["paths"].items() for method, found in item.items()]


def test_every_path_that_the_server_knows_is_described(described):
    paths = [path.replace("{endpoint}", "shop") for path in app_module._PATHS] + ["/ping", "/invocations", "/v2", "/v2/repository/index"]
    assert [path for path in paths if path not in described["paths"]] == []


def test_every_example_request_is_answered_with_what_is_described(described, ask):
    asked = 0
    for path, method, found in _operations(described):
        content = found.get("requestBody", {}).get("content", {"application/json": {}})["application/json"]
        body = content.get("example")
        if "schema" in content:
            _validator(described, content["schema"]).validate(body)
        answer = ask(method.upper(), path.replace("{version}", "1"), body)
        told = found["responses"].get(str(answer.status))
        assert told is not None, (path, answer)
        told = described["components"]["responses"][told["$ref"].rpartition("/")[2]] if "$ref" in told else told
        kind = answer.headers["content-type"].partition(";")[0]
        if kind == "application/json":
            _validator(described, told["content"][kind]["schema"]).validate(answer.document)
        assert kind in told["content"]
        assert answer.status == (400 if path.endswith("unload") else 404 if path == "/features/{view}" else 200)  # there is no view here
        asked += 1
    assert asked == len(_operations(described)) > 15


def test_tables_are_described_as_they_are_taken_and_answered(described, ask):
    forms = {"application/x-npy", "application/vnd.apache.arrow.stream"}
    body = msgspec.json.encode({"inputs": [bundles.GOOD | {"place": "JFK"}]})
    for path in ("/predict/shop", "/invocations", "/endpoints/shop/invocations"):
        told = described["paths"][path]["post"]
        assert forms < set(told["requestBody"]["content"])
        assert forms < set(told["responses"]["200"]["content"])
    for form in sorted(forms):
        answer = ask("POST", "/predict/shop", body, content_type="application/json", accept=form)
        assert (answer.status, answer.headers["content-type"]) == (200, form)
        assert ask("POST", "/predict/shop", answer.body, content_type=form).status == 422  # the form is taken, the columns are not the model's


def test_every_example_answer_fits_its_schema(described):
    answers = [each for _, _, found in _operations(described) for each in found["responses"].values() if "content" in each]
    for each in [*answers, *described["components"]["responses"].values()]:
        for kind, content in each["content"].items():
            if "example" in content:
                assert kind == "application/json"
                _validator(described, content["schema"]).validate(content["example"])


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True), ({"price": None}, True), ({"price": "far"}, False), ({"count": 2.0}, True), ({"count": 1.5}, False), ({"gift": 1}, True),
        ({"gift": 2}, False), ({"size": "never seen"}, True), ({"size": 3}, False), ({"ordered": "yesterday"}, False), ({"ordered": 1e18}, False),
        ({"order": "o-7"}, True), ({"prise": 3}, False), ({"weather_temp": 20.5}, True),
    ],
)  # fmt: skip
def test_a_row_fits_the_schema_exactly_when_it_is_answered(described, ask, change, fits):
    body = {"inputs": [bundles.GOOD | {"place": "JFK"} | change]}
    schema = described["paths"]["/predict/shop"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert _validator(described, schema).is_valid(body) is fits
    assert ask("POST", "/predict/shop", body).status == (200 if fits else 422)


def test_a_views_entity_may_be_left_out_only_where_its_features_are_there(described, ask):
    schema = described["paths"]["/predict/shop"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for more, fits in (({}, False), ({"weather_temp": 3.0}, True)):
        body = {"inputs": [bundles.GOOD | more]}
        assert _validator(described, schema).is_valid(body) is fits
        assert ask("POST", "/predict/shop", body).status == (200 if fits else 422)


def test_what_an_input_is_computed_from_may_be_left_out_only_where_that_is_there(tmp_path):
    state = tmp_path / ".kaizen"
    made = bundles.write_bundle(state)
    folder = state / made.bundle / "model"
    spec = model_file.read(folder)
    fields = [Field(name="price", kind="number", view=DERIVED), *spec.signature.fields[1:]]
    derived = [
        Derived(name="fee", inputs=["distance", "count"], expression="distance * count", kind="number", takes=["number", "integer"]),
        Derived(name="price", inputs=["fee", "rate"], expression="fee * rate", kind="number", takes=["number", "number"]),
    ]
    signature = msgspec.structs.replace(spec.signature, fields=fields, derived=derived)
    encoder = msgspec.structs.replace(spec.encoder, accepts=["distance", "rate", "fee"])
    model_file.write(folder, msgspec.structs.replace(spec, signature=signature, encoder=encoder))
    bundles.route(state, made)
    bare = {name: value for name, value in bundles.GOOD.items() if name != "price"}
    with running(state) as ask:
        told = ask("GET", "/openapi.json").document
        content = told["paths"]["/predict/shop"]["post"]["requestBody"]["content"]["application/json"]
        assert ask("POST", "/predict/shop", content["example"]).status == 200
        for more, fits in (
            ({}, False), ({"distance": 2.0}, False), ({"distance": 2.0, "rate": 0.5}, True), ({"fee": 4.0, "rate": 0.5}, True),
            ({"price": 1.0}, False), ({"price": 1.0, "fee": 4.0}, True), ({"distance": "far", "rate": 0.5}, False),
        ):  # fmt: skip
            body = {"inputs": [bare | more]}
            assert _validator(told, content["schema"]).is_valid(body) is fits, more
            assert ask("POST", "/predict/shop", body).status == (200 if fits else 422), more


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_outcomes_fit_the_schema_exactly_when_they_are_taken(task, tmp_path):
    bundles.route(tmp_path, bundles.write_bundle(tmp_path, task=task))
    with running(tmp_path) as ask:
        described = ask("GET", "/openapi.json").document
        schema = described["paths"]["/outcomes/shop"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for value in ("low", "high", "lo", 1, 0, 1.5, True, None):
            body = {"outcomes": [{"id": "a", "value": value}]}
            assert (ask("POST", "/outcomes/shop", body).status == 200) is _validator(described, schema).is_valid(body), value


def test_answers_that_rules_decided_are_described(tmp_path):
    first, older = bundles.write_bundle(tmp_path, number=2), bundles.write_bundle(tmp_path, seed=1)
    rules = [Rule(when="price > 100", answer="refuse"), Rule(when="price > 50", answer="release", release="shop@1")]
    bundles.route(tmp_path, first, rules=rules, others=[msgspec.structs.replace(older, arm="rule")])
    body = {"inputs": [bundles.GOOD | {"price": price} for price in (3.0, 60.0, 200.0)]}
    with running(tmp_path) as ask:
        described = ask("GET", "/openapi.json").document
        for path, asked in (("/predict/shop", body), ("/invocations", {"instances": body["inputs"]})):
            answer = ask("POST", path, asked)
            schema = described["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
            _validator(described, schema).validate(answer.document)
            last = answer.document["predictions"][-1]
            assert (last["value"] if isinstance(last, dict) else last) is None
        columns = {name: [row[name] for row in body["inputs"]] for name in bundles.GOOD}
        kinds = {"price": "FP64", "size": "BYTES", "count": "INT64", "gift": "BOOL", "ordered": "BYTES"}
        tensors = [{"name": name, "shape": [3], "datatype": kinds[name], "data": data} for name, data in columns.items()]
        refused = ask("POST", "/v2/models/shop/infer", {"inputs": tensors})
        text = ask("GET", "/metrics").body.decode()
    assert str(refused.status) in described["paths"]["/v2/models/shop/infer"]["post"]["responses"]
    _validator(described, described["components"]["responses"]["V2.409"]["content"]["application/json"]["schema"]).validate(refused.document)
    assert 'kaizen_predictions_total{endpoint="shop",release="shop@1",arm="champion",decided_by="' in text


def test_what_training_has_seen_is_told_and_is_no_bound(tmp_path):
    routing = _routing(tmp_path)
    (arm,) = routing.endpoints["shop"].arms
    field = Field(name="price", kind="number", minimum=0.5, maximum=99.0, nullable=False, examples=[3.0, 9.5])
    fields = [field, *arm.signature.fields[1:]]
    object.__setattr__(arm, "signature", msgspec.structs.replace(arm.signature, fields=fields))
    described = document(routing)
    price = described["components"]["schemas"]["shop.Row"]["properties"]["price"]
    assert price["x-seen"] == {"minimum": 0.5, "maximum": 99.0, "missing": False}
    assert price["examples"] == [3.0, 9.5]
    assert "seen in training from 0.5 to 99" in price["description"]
    assert _validator(described, price).is_valid(100.0)
    assert "0.5 to 99, never missing" in page(routing, described, "http://127.0.0.1:8080")


def test_every_status_of_an_error_that_serving_raises_is_described():
    elsewhere = (202, 501)  # what only operations say
    raised = {kind.status for kind in _all(KaizenError) if kind.status not in elsewhere}
    assert MethodNotAllowed.status in raised
    assert raised <= set(STATUSES)


@pytest.mark.parametrize("path", ["/health/live", "/metrics", "/openapi.json", "/docs", "/ping", "/v2", "/predict/shop", "/v2/models/shop/infer"])
def test_a_method_that_is_not_there_is_told_which_are(ask, described, path):
    (method,) = described["paths"][path]
    for other in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET" if method == "post" else "POST"):
        answer = ask(other, path)
        assert answer.status == 405
        assert answer.headers["allow"] == ("POST" if method == "post" else "GET, HEAD")


def test_the_document_asks_for_a_token_where_one_is_needed(tmp_path):
    routing = _routing(tmp_path)
    assert "security" not in document(routing)
    asked = document(routing, auth=True)
    assert page(routing, asked, "http://127.0.0.1:8080").count("authorization: Bearer TOKEN") == 3
    assert asked["security"] == [{"token": []}]
    assert asked["paths"]["/health/live"]["get"]["security"] == []
    assert asked["components"]["securitySchemes"]["token"] | {"description": ""} == {"type": "http", "scheme": "bearer", "description": ""}


class _Loads(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        fetching = ("src", "srcset", "style") if tag == "a" else ("src", "srcset", "style", "href")
        self.loaded += [value for name, value in attributes if name in fetching or name.startswith("on")]


def test_the_page_is_whole_without_scripts_and_fetches_nothing(ask):
    answer = ask("GET", "/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"].startswith("default-src 'self'; style-src 'sha256-")
    found = _Loads()
    found.feed(answer.body.decode())
    assert found.loaded == []
    assert "script" not in found.tags
    assert found.tags.count("style") == 1
    text = answer.body.decode()
    for name in bundles.GOOD:
        assert f"<code>{name}</code>" in text
    assert "looked up in weather when absent" in text


def test_nothing_that_people_wrote_becomes_markup(tmp_path):
    routing = _routing(tmp_path)
    (arm,) = routing.endpoints["shop"].arms
    nasty = "<script>alert('1')</script>"
    fields = [Field(name=nasty, kind="category", examples=[nasty, "it's"]), *arm.signature.fields]
    object.__setattr__(arm, "signature", msgspec.structs.replace(arm.signature, fields=fields, target=nasty))
    object.__setattr__(routing.endpoints["shop"], "route", msgspec.structs.replace(routing.endpoints["shop"].route, killed=nasty))
    text = page(routing, document(routing), "http://127.0.0.1:8080")
    assert "<script" not in text
    assert text.count(html.escape(nasty)) >= 3


def test_the_page_believes_no_strange_host(ask):
    assert b"http://shop.example:9000/predict/shop" in ask("GET", "/docs", host="shop.example:9000").body
    assert b"http://127.0.0.1:8080/predict/shop" in ask("GET", "/docs", host="x' -o /etc/passwd '").body


@pytest.mark.slow
def test_the_commands_of_the_page_work(tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    state = tmp_path / ".kaizen"
    bundles.route(state, bundles.write_bundle(state))
    with bundles.served("--state", str(state)) as (_, url), Client(url):
        page = subprocess.run(["curl", "-s", f"{url}/docs"], capture_output=True, text=True, check=True).stdout
        commands = [html.unescape(found) for found in re.findall(r"<pre>(curl .*?)</pre>", page, re.DOTALL)]
        assert len(commands) == 3
        for command in commands:
            said = subprocess.run(["sh", "-c", f"{command} --fail"], capture_output=True, text=True, check=True).stdout
            assert msgspec.json.decode(said)
