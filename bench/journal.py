"""What is written down: answers on their way from the journal into their dataset, and outcomes that are taken in.

The loop looks about once a second and must keep up with the thousands of answers and outcomes of that second.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Literal

import msgspec

import _bundle
from _rows import OURS, Measured, options, report
from kaizenml.context import Context
from kaizenml.features.signature import Signature
from kaizenml.project import open_project
from kaizenml.serving.ids import Ids, project_key
from kaizenml.serving.journaling.drain import drain
from kaizenml.serving.journaling.journal import Journal
from kaizenml.serving.journaling.records import Answer, PredictionRecord, ShadowRecord
from kaizenml.serving.outcomes import Outcome, OutcomeStore

AT = 1_767_225_600.0
ANSWERS = 1000
POLICIES: dict[Literal["off", "tick", "request"], int] = {"off": 10_000, "tick": 10_000, "request": 100}  # how many records
SIGNATURE = Signature(task="binary", target="y", classes=[False, True], fields=[])
INPUTS = msgspec.json.encode({"inputs": [dict.fromkeys(_bundle.NAMES, 0.5)]})


def main() -> None:
    given = options(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kaizen.toml").write_text('[project]\nname = "bench"\n', encoding="utf-8")
        ctx = open_project(folder, actor="bench")
        for number in (1, 2):
            _bundle.write(ctx.state, number)
        ids = Ids(project_key(ctx.state))
        journal, outcomes = Journal(ctx.state / "journal"), OutcomeStore(ctx.state, ids, window_s=86_400.0)
        one_run(ctx, journal, outcomes, ids)  # the first one makes the tables
        report([one_run(ctx, journal, outcomes, ids) for _ in range(3 if given.quick else 15)], given)
        journal.close()
        outcomes.close()
        ctx.online.close()
        ctx.catalog.close()


def one_run(ctx: Context, journal: Journal, outcomes: OutcomeStore, ids: Ids) -> list[Measured]:
    made = ids.make(AT, ANSWERS)
    for identity in made:
        answers = [Answer(identity, True, [0.25, 0.75], "model", None)]
        journal.append(msgspec.msgpack.encode(PredictionRecord(AT, "bench", "bench@1", "champion", None, INPUTS, answers, None)))
        journal.append(msgspec.msgpack.encode(ShadowRecord(AT, "bench", "bench@2", "shadow", answers)))
    begun = time.perf_counter()
    assert drain(ctx).rows == 2 * ANSWERS
    drained = time.perf_counter()
    taken = outcomes.take("bench", [Outcome(identity, True) for identity in made], [SIGNATURE], AT)
    ended = time.perf_counter()
    assert taken.accepted == ANSWERS
    return [
        *appended(ctx.state),
        (f"drain {ANSWERS} answers and their shadows", OURS, "ms", (drained - begun) * 1000),
        (f"take {ANSWERS} outcomes", OURS, "ms", (ended - drained) * 1000),
    ]


def appended(state: Path) -> list[Measured]:
    """Write records with each policy; the time is the whole of it, the disk's included."""
    record = bytes(1000)
    rows: list[Measured] = []
    for policy, number in POLICIES.items():
        with tempfile.TemporaryDirectory(dir=state) as folder:
            journal = Journal(Path(folder), fsync=policy)
            journal.append(record)
            begun = ticked = time.perf_counter()
            for _ in range(number):
                journal.append(record)
                if policy == "tick" and time.perf_counter() - ticked > 0.1:
                    journal.sync()
                    ticked = time.perf_counter()
            rows.append((f"append a record, fsync {policy}", OURS, "us", (time.perf_counter() - begun) / number * 1e6))
            journal.close()
    return rows


if __name__ == "__main__":
    main()
