"""Which training is taken up again on the way to a release, and which is not."""

from __future__ import annotations

from pathlib import Path

import pytest

import spending
from kaizenml.cli import steps
from kaizenml.data import operations as data
from kaizenml.training import operations as training

YOUNGER = """

@features(entity="customer", source="orders", at="ordered")
class Later:
    largest = latest("amount")
"""


@pytest.mark.slow
def test_a_run_is_taken_up_only_where_data_and_definitions_are_as_they_were(tmp_path: Path) -> None:
    ctx = spending.shop(tmp_path / "shop")
    assert steps.run_on_newest(ctx) is None
    training.train(ctx, run_id="first")
    found = steps.run_on_newest(ctx)
    assert found is not None
    assert found.id == "first"
    file = ctx.root / "features.py"
    for text in (
        spending.WIDER,  # another version of a view that it reads
        spending.FEATURES.replace("spend / top", "spend / top / 2"),  # of a derived input
        spending.FEATURES + YOUNGER,  # a view that it has not seen
    ):
        file.write_text(text)
        assert steps.run_on_newest(ctx) is None
    file.write_text(spending.FEATURES.replace("class Spend:", 'class Spend:\n    """What a customer spent."""\n'))
    assert steps.run_on_newest(ctx) == found, "words change nothing"
    data.add(ctx, "orders", table=spending.orders(10, first=spending.ROWS))
    assert steps.run_on_newest(ctx) is None
    ctx.online.close()
    ctx.catalog.close()
