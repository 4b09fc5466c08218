"""The demo on twelve days of its year: the same real flights, processes, sockets and mishaps, only fewer of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kaizenml import events
from kaizenml.demo import command
from kaizenml.demo.replay import Plan
from kaizenml.errors import Conflict
from kaizenml.project import open_project

TWELVE_DAYS = Plan(
    last=datetime(2013, 4, 13, tzinfo=UTC),
    flood=(datetime(2013, 4, 3, tzinfo=UTC), datetime(2013, 4, 6, tzinfo=UTC)),
    kill=(datetime(2013, 4, 7, 14, tzinfo=UTC), datetime(2013, 4, 7, 20, tzinfo=UTC)),
    bad_release=datetime(2013, 4, 7, tzinfo=UTC),
)


@pytest.mark.slow
def test_every_answer_has_its_journal_row_and_every_mishap_its_handling(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    document = command.run(folder=folder, plan=TWELVE_DAYS)
    assert document == json.loads((folder / "demo.json").read_text())
    assert document["predictions"] == document["journal_rows"] > 8000
    assert document["journal_rows_without_lineage"] == 0
    assert 0 < document["outcomes"] < document["predictions"]  # cancelled flights never tell
    total = document["months"][-1]
    assert total["log_loss"]["frozen"] < total["log_loss"]["naive"]
    whats = [action["what"] for action in document["actions"]]
    assert any(action["diagnosis"] == "upstream" for action in document["actions"])
    assert "killed flights" in whats
    assert "revived flights" in whats
    assert any(what.startswith("withdrawn flights@") for what in whats)
    trace = document["trace"]
    assert all(trace[name] for name in ("release", "model", "data", "features", "code", "hash"))
    assert Path(document["picture"]).read_text().startswith("<svg")
    assert Path(document["picture"]).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    ctx = open_project(folder)
    with ctx.catalog.read() as connection:
        started = [event.at for event in events.read(connection, kind="loop.started")]
    flood = [moment.timestamp() for moment in TWELVE_DAYS.flood]
    assert not [at for at in started if flood[0] + 2 * 86_400 <= at <= flood[1]]  # no retraining on broken data


def test_a_folder_that_is_not_a_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(Conflict, match="not an earlier demo"):
        command.run(folder=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
