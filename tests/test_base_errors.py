"""Errors: one tree, each with its code, and whole again after a journey over a wire or between processes."""

from __future__ import annotations

import itertools
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaizenml import errors
from kaizenml.errors import KaizenError, NotFound, Refused, from_document, nearest, not_found

KINDS = errors._all(KaizenError)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3), max_leaves=5,
)


@given(st.sampled_from(KINDS), st.text(max_size=40), st.text(max_size=40), st.dictionaries(st.text(max_size=5), plain, max_size=3))
def test_an_error_survives_the_wire_and_the_border_of_a_process(kind, what, remedy, values):
    error = kind(what, remedy=remedy, values=values)
    over_wire = from_document(msgspec.json.decode(msgspec.json.encode(error.document())))
    over_border = pickle.loads(pickle.dumps(error))
    for other in (over_wire, over_border):
        assert type(other) is kind
        assert (other.what, other.remedy, other.values, str(other)) == (what, remedy, values, str(error))


def test_codes_are_unique_and_exit_codes_keep_their_meaning():
    assert len({kind.code for kind in KINDS}) == len(KINDS)
    assert {kind.exit_code for kind in KINDS} == {1, 2, 3, 4}
    assert Refused.exit_code == 3
    assert all(issubclass(kind, errors.UsageError) for kind in KINDS if kind.exit_code == 2)


def test_an_error_of_a_newer_version_is_an_error_still():
    error = from_document({"code": "not_known_yet", "message": "what", "remedy": "do", "more": 1})
    assert type(error) is KaizenError
    assert str(error) == "what\n  try: do"


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [("retuned", ["returned", "price"], "returned"), ("PRICE", ["returned", "price"], "price"), ("xyz", ["returned"], None), ("a", [], None)],
)
def test_the_nearest_name_is_found_whatever_its_case(name, choices, expected):
    assert nearest(name, choices) == expected


def test_what_a_request_holds_is_not_looked_through_without_end():
    assert nearest("retuned", map(str, itertools.count())) is None
    assert nearest("r" * 6_000_000, ["returned"]) is None


def test_not_found_says_what_there_is():
    assert not_found("endpoint", "shp", ["shop", "other"], remedy="r").what == "there is no endpoint 'shp'; did you mean 'shop'?"
    assert "there is 'other'" in not_found("endpoint", "zzz", ["other"], remedy="r").what
    assert "there is none yet" in not_found("endpoint", "zzz", [], remedy="r").what
    assert isinstance(not_found("endpoint", "z", [], remedy="r"), NotFound)
