from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from kaizenml.context import Context
from kaizenml.features.offline import frame
from kaizenml.registry.runtimes import Prediction
from kaizenml.releases import gates, parity, rows
from kaizenml.releases.release import Pins, Release
from kaizenml.training import model_file
from kaizenml.training.run import BoardRow, Estimate, Run


def estimate(value: float, half: float) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, rows=500)


def run(parameters: dict[str, object] | None = None, **losses: tuple[float, float]) -> Run:
    board = [BoardRow(name=name, metrics={"log_loss": estimate(*loss)}, seconds=1.0) for name, loss in losses.items()]
    return Run(
        id="r", task="binary", state="done", dataset="d@1", views=[], target="t", parameters=parameters or {}, board=board, metric="log_loss",
        leaks=[], split={"by": "time"}, code=None, seconds=1.0, started_at=0.0, folder="",
    )  # fmt: skip


def champion_release() -> Release:
    pins = Pins(model="m@1", model_hash="", data=["d@1"], data_hashes=[""], features=[], code=None, libraries={}, libraries_hash="")
    return Release(name="shop", number=1, hash="", pins=pins, gates=[], state="passed", bundle="", why="", created_at=0.0)


@pytest.mark.parametrize(("ensemble", "passed"), [((0.4, 0.05), True), ((0.48, 0.05), False), ((0.6, 0.05), False)])
def test_a_model_must_be_better_than_naive_beyond_noise(ensemble: tuple[float, float], passed: bool) -> None:
    result = gates.naive(run(naive=(0.5, 0.03), ensemble=ensemble))
    assert result.passed is passed
    assert result.evidence["gain"]["value"] == pytest.approx(0.5 - ensemble[0])
    assert ("not better beyond noise" in result.summary) is not passed


def test_the_runs_own_paired_difference_goes_before_the_two_intervals() -> None:
    paired = {"gain_over_naive": msgspec.to_builtins(estimate(0.02, 0.005))}
    assert gates.naive(run(paired, naive=(0.5, 0.03), ensemble=(0.48, 0.05))).passed


@pytest.mark.parametrize(
    ("gain", "passed", "word"),
    [(estimate(0.02, 0.01), True, "better"), (estimate(-0.01, 0.02), True, "not worse"), (estimate(-0.03, 0.01), False, "worse")],
)
def test_a_model_must_not_be_worse_than_the_champion_beyond_noise(gain: Estimate, passed: bool, word: str) -> None:
    measured = run({"gain_over_champion": msgspec.to_builtins(gain)}, naive=(0.6, 0.01), ensemble=(0.5, 0.01), champion=(0.5, 0.01))
    result = gates.champion(measured, champion_release())
    assert result.passed is passed
    assert word in result.summary
    assert result.evidence["against"] == "shop@1"


def test_a_comparison_that_was_not_made_is_said_not_guessed() -> None:
    alone = run(naive=(0.6, 0.01), ensemble=(0.5, 0.01))
    assert "there is no champion" in gates.champion(alone, None).summary
    assert "was not measured by run r" in gates.champion(alone, champion_release()).summary
    assert not gates.naive(run(ensemble=(0.5, 0.01))).passed


def test_parity_holds_on_real_rows_of_every_kind(ctx: Context, folder: Path) -> None:
    result = parity.parity(folder, frame.training_frame(ctx, "cells"))
    assert result.passed, result.summary
    assert result.evidence["rows"] == 569
    assert max(result.evidence["largest_difference_batch"], result.evidence["largest_difference_alone"]) <= parity.TOLERANCE


def test_parity_refuses_rows_that_serving_would_refuse(ctx: Context, folder: Path) -> None:
    table = frame.training_frame(ctx, "cells").slice(0, 50)
    first = model_file.read(folder).signature.fields[0].name
    without = table.drop_columns([first]).append_column(first, pa.array(["?"] * 50))
    with pytest.raises(Exception, match=first):
        parity.parity(folder, without)
    assert not parity.parity(folder, table.slice(0, 0)).passed


def test_a_vector_that_differs_in_one_bit_is_found() -> None:
    expected = np.array([[1.0, np.nan], [0.0, 2.0]], dtype=np.float32)
    assert parity._first_difference(expected.copy(), expected) is None
    other_nan = expected.copy()
    other_nan[0, 1] = -np.float32(np.nan)
    assert parity._first_difference(other_nan, expected) is None
    negative_zero = expected.copy()
    negative_zero[1, 0] = -0.0
    assert parity._first_difference(negative_zero, expected) == (1, 0)
    next_float = expected.copy()
    next_float[1, 1] = np.nextafter(np.float32(2.0), np.float32(3.0))
    assert parity._first_difference(next_float, expected) == (1, 1)


def test_answers_are_compared_by_probability_class_and_number() -> None:
    classes = ["a", "b"]
    expected = np.array([[0.3, 0.7], [0.5, 0.5]])
    right = [Prediction("b", [0.3, 0.7]), Prediction("b", [0.5, 0.5])]  # equal probabilities: either class
    assert parity._gap(right, expected, classes)[0] == 0.0
    assert parity._gap([Prediction("a", [0.3, 0.7]), right[1]], expected, classes) == (float("inf"), 0)
    assert parity._gap([right[0], Prediction("b", [0.5 - 1e-6, 0.5 + 1e-6])], expected, classes) == (pytest.approx(1e-6), 1)
    numbers = np.array([1000.0, np.nan])
    assert parity._gap([Prediction(1000.0 + 1e-7, None)], numbers[:1], []) == (pytest.approx(1e-10, rel=1e-3), 0)
    assert parity._gap([Prediction(1.0, None)], numbers[1:], [])[0] == float("inf")


def test_rows_travel_as_clients_send_them(ctx: Context, folder: Path) -> None:
    signature = model_file.read(folder).signature
    table = frame.training_frame(ctx, "cells").slice(0, 5)
    sent = rows.requests(table, signature)
    assert "malignant" not in sent[0]
    assert msgspec.json.decode(msgspec.json.encode(sent)) == sent
    assert rows._plain(datetime.date(2020, 1, 2)) == "2020-01-02"
    assert rows._plain(decimal.Decimal("1.5")) == 1.5


def test_a_sample_is_spread_over_old_and_new_rows() -> None:
    table = pa.table({"n": list(range(1000))})
    assert rows.sample(table, 5)["n"].to_pylist() == [0, 249, 499, 749, 999]
    assert rows.sample(table, 2000) is table
