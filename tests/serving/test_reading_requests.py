"""Requests are read straight into records where they fit; what is said of those that do not is the same as ever."""

from __future__ import annotations

import msgspec
import pytest
import serving_bundles as bundles

from kaizenml.errors import KaizenError
from kaizenml.features.encoding.records import Records
from kaizenml.registry import runtimes
from kaizenml.rollouts.snapshot import EndpointRoute
from kaizenml.serving.protocol import Limits, read_predict, reader
from kaizenml.serving.routing import LoadedEndpoint, load_route

GOOD = bundles.GOOD
LIMITS = Limits(rows=3, depth=8)
BODIES = [
    {"inputs": [GOOD]},
    {"inputs": [GOOD, {**GOOD, "price": None, "order": "o-7", "customer": 7}], "unit": "c-1"},
    {"inputs": [{**GOOD, "price": 3, "count": 2**70, "ordered": 1.7e9}], "unit": 5},
    {"inputs": [{**GOOD, "count": 2.0, "gift": 1}]},
    {"inputs": [{**GOOD, "prise": 1}]},
    {"inputs": [{**GOOD, "price": "3"}]},
    {"inputs": [{**GOOD, "price": [3]}]},
    {"inputs": [{**GOOD, "price": 1e39, "ordered": "yesterday"}]},
    {"inputs": [GOOD, {"price": 1.0}]},
    {"inputs": [GOOD] * 4},
    {"inputs": []},
    {"inputs": [3]},
    {"inputs": GOOD},
    {"inputs": [GOOD], "unit": ""},
    {"inputs": [GOOD], "units": "c-1"},
    {"input": [GOOD]},
]
TEXTS = [
    b"",
    b"{",
    b'{"inputs": [{"price": NaN}]}',
    b'{"inputs": [{"price": 1e400}]}',
    b"\xff",
    b"[" * 100,
    b'{"inputs": [{"price": 1, "price": 2}]}',
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    return runtimes.load(state / bundles.write_bundle(state).bundle / "model")


def said(model, body, read_records):
    try:
        request = read_predict(body, LIMITS, read_records)
        rows = list(request.inputs)
        return [repr(sorted(row.items())) for row in rows], request.unit, model.answer(request.inputs)
    except KaizenError as error:
        return type(error), error.document()


@pytest.mark.parametrize("body", [*map(msgspec.json.encode, BODIES), *TEXTS], ids=lambda body: body[:60].decode("latin-1"))
def test_a_request_read_into_records_gives_the_same_rows_answers_and_refusals(model, body):
    assert said(model, body, reader(model.record_type)) == said(model, body, None)


def test_what_fits_is_read_into_records(model):
    read = [isinstance(read_predict(msgspec.json.encode(body), LIMITS, reader(model.record_type)).inputs, Records) for body in BODIES[:4]]
    assert read == [True, True, True, False]


def test_arms_of_the_same_inputs_are_read_into_records_and_others_into_dictionaries(tmp_path):
    alike = [load_route(tmp_path, bundles.write_bundle(tmp_path, number=number, seed=number)) for number in (1, 2)]
    views = load_route(tmp_path, bundles.write_bundle(tmp_path, number=3, view=True))

    def endpoint(*arms):
        return LoadedEndpoint(EndpointRoute(endpoint="shop", revision=1, arms=[arm.route for arm in arms]), list(arms), [])

    assert endpoint(*alike).read_records is not None
    assert endpoint(*alike, views).read_records is None
    assert endpoint(views).read_records is None
