"""Naive answers by segment: what training keeps, and how far small segments are drawn towards the usual."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from kaizenml.features.encoding.encoder import Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.training import model_file, segments
from kaizenml.training.model_file import ModelSpec, Naive, Segments

FIELDS = [Field(name="carrier", kind="category"), Field(name="gift", kind="boolean"), Field(name="price", kind="number")]


def test_shares_of_a_segment_are_its_own_drawn_towards_those_of_all_rows() -> None:
    carriers = ["AA"] * 1980 + ["XX"] * 20
    late = np.array([0.0] * 1980 + [1.0] * 20)
    table = pa.table({"carrier": carriers, "gift": [True, None] * 1000, "price": np.ones(2000)})
    carrier, gift = segments.learn(table, FIELDS, late, ["no", "yes"])
    assert (carrier.column, set(carrier.answers)) == ("carrier", {"AA", "XX"})
    rare = carrier.answers["XX"]
    # 20 rows of its own, all late, and 20 of the usual 1 %: a little more than half
    assert (rare.value, rare.probabilities) == ("yes", pytest.approx([0.495, 0.505]))
    assert carrier.answers["AA"].probabilities == pytest.approx([(1980 + 20 * 0.99) / 2000, 0.2 / 2000])
    assert (gift.column, set(gift.answers)) == ("gift", {"true"})
    for naive in carrier.answers.values():
        assert sum(naive.probabilities or []) == pytest.approx(1)


def test_the_mean_of_a_segment_of_numbers_is_drawn_likewise() -> None:
    table = pa.table({"carrier": pa.array(["A", "A", "B", None]).dictionary_encode(), "gift": [True] * 4, "price": np.ones(4)})
    (carrier,) = segments.learn(table, FIELDS[:1], np.array([10.0, 20.0, 0.0, 30.0]), [])
    assert carrier.answers["A"].value == pytest.approx((30 + 20 * 15) / 22)
    assert carrier.answers["B"].value == pytest.approx((0 + 20 * 15) / 21)


def test_inputs_of_many_levels_are_left_out() -> None:
    table = pa.table({"carrier": [str(n) for n in range(50)]})
    assert segments.learn(table, FIELDS[:1], np.zeros(50), []) == []


def test_a_model_folder_from_before_is_read_and_has_no_segments(tmp_path) -> None:
    signature = Signature(task="binary", target="late", classes=[False, True], fields=FIELDS)
    usual = [Segments(column="carrier", answers={"AA": Naive(value=True, probabilities=[0.1, 0.9])})]
    spec = ModelSpec(signature=signature, encoder=Encoder(columns=[]), members=[], naive=Naive(value=False), segments=usual)
    path = model_file.write(tmp_path, spec)
    assert model_file.read(tmp_path).segments == usual
    document = msgspec.json.decode(path.read_bytes())
    del document["segments"]
    path.write_bytes(msgspec.json.encode(document))
    assert model_file.read(tmp_path).segments == []
