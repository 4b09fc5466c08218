from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kaizenml.training.learners import Plan, Rows, fit, link
from kaizenml.training.linear import Linear, linear_scores
from kaizenml.training.task import Task

FLOATS = st.one_of(st.floats(-1e6, 1e6, width=32), st.just(float("nan")))


def rows_of(task: Task, rows: int = 400) -> Rows:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(rows, 5)).astype(np.float32)
    vectors[:, 2] = random.integers(0, 4, rows)
    vectors[random.random((rows, 5)) < 0.1] = np.nan
    y = np.nan_to_num(vectors[:, 0]) + (vectors[:, 2] == 1) + random.normal(size=rows)
    if task.kind != "regression":
        y = np.digitize(y, np.quantile(y, np.linspace(0, 1, len(task.classes) + 1)[1:-1])).astype(float)
    return Rows(vectors, y, [2], {2: 4})


TASKS = [
    Task(kind="binary", target="y", classes=[0, 1]),
    Task(kind="multiclass", target="y", classes=["a", "b", "c"]),
    Task(kind="regression", target="y", classes=[]),
]
FITTED = [(task, fit(Plan(name="linear", kind="linear", parameters={"strength": 1.0}), rows_of(task), task, seed=0, threads=1)) for task in TASKS]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(FLOATS, min_size=5, max_size=5), min_size=1, max_size=8))
def test_a_row_alone_and_in_a_batch_gives_the_same_bits(values):
    vectors = np.array(values, dtype=np.float32)
    for _, fitted in FITTED:
        linear = Linear(msgspec.json.decode(fitted.text))
        together = linear.scores(vectors)
        for place, row in enumerate(vectors):
            assert linear.scores(row[None, :])[0].tobytes() == together[place].tobytes()
            assert np.array(linear.one(row.tolist())).tobytes() == together[place].tobytes()


def test_the_file_answers_like_the_learner():
    for task, fitted in FITTED:
        vectors = rows_of(task).vectors
        assert np.array_equal(link(task, linear_scores(msgspec.json.decode(fitted.text), vectors)), fitted.predict(vectors))


def test_it_learns_what_is_linear():
    task, fitted = FITTED[2]
    rows = rows_of(task)
    assert np.corrcoef(fitted.predict(rows.vectors), rows.y)[0, 1] > 0.6


def test_far_outside_of_training_the_answer_stays_where_training_ended():
    _, fitted = FITTED[2]
    linear = Linear(msgspec.json.decode(fitted.text))
    edge, far = linear.one([10.0, 0, 0, 0, 0]), linear.one([1e30, 0, 0, 0, 0])
    assert edge == far


def test_a_class_without_rows_is_next_to_impossible():
    task = Task(kind="multiclass", target="y", classes=["a", "b", "c"])
    rows = rows_of(TASKS[0])
    fitted = fit(Plan(name="linear", kind="linear", parameters={"strength": 1.0}), rows, task, seed=0, threads=1)
    assert fitted.predict(rows.vectors)[:, 2].max() < 1e-6


def test_the_arithmetic_loads_no_learner():
    heavy = "[name for name in ('sklearn', 'scipy', 'pandas', 'lightgbm', 'pyarrow', 'sqlalchemy') if name in sys.modules]"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; import kaizenml.training.linear; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
