"""Python in a process of its own: it may take too long, die or lie, and whoever asks is told at once and answered soon again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kaizenml.errors import Corrupt, KaizenError, Unavailable
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, Signature
from kaizenml.registry import runtimes
from kaizenml.registry.own_process import OwnProcess
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec, Naive

CODE = """
import os, time
print("this is not an answer")
def predict(rows):
    answers = []
    for row in rows:
        if row["do"] == "sleep":
            time.sleep(60)
        if row["do"] == "die":
            os.kill(os.getpid(), 9)
        if row["do"] == "raise":
            raise LookupError("no such customer")
        if row["do"] == "nan":
            answers.append(float("nan"))
            continue
        if row["do"] == "eat":
            bytearray(3 << 30)
        answers.append(row["a"] * 2 if row["a"] is not None else -1)
    return answers
"""


def write(folder: Path, code: str = CODE, *, timeout_s: float = 0.5, memory_bytes: int = 0, function: str = "predict") -> Path:
    (folder / "code").mkdir(parents=True)
    (folder / "code" / "m.py").write_text(code)
    member = Member(
        name="m", kind="python", file="code/m.py", weight=1.0, function=function, timeout_s=timeout_s, memory_bytes=memory_bytes
    )
    fields = [Field(name="a", kind="number"), Field(name="do", kind="category")]
    encoder = Encoder(columns=[EncodedColumn(name="a", kind="number"), EncodedColumn(name="do", kind="category")])
    signature = Signature(task="regression", target="y", classes=[], fields=fields)
    model_file.write(folder, ModelSpec(format=2, signature=signature, encoder=encoder, members=[member], naive=Naive(value=0.0)))
    return folder


@pytest.fixture
def model(tmp_path: Path):
    model = runtimes.load(write(tmp_path))
    yield model
    model.close()


def row(a: float | None, do: str | None = None) -> dict:
    return {"a": a, "do": do}


def process_of(model: runtimes.Model) -> OwnProcess:
    (found,) = model._learners
    assert isinstance(found, OwnProcess)
    return found


def again(model: runtimes.Model, within_s: float = 10.0) -> float:
    """Ask until the process is back."""
    until = time.monotonic() + within_s
    while True:
        try:
            return model.answer([row(21.0)])[0].value
        except Unavailable:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_rows_go_there_and_answers_come_back(model):
    assert [each.value for each in model.answer([row(1.5), row(None), row(-2.0, "x")])] == [3.0, -1.0, -4.0]
    assert model.blocks
    assert model.answer([]) == []


def test_a_call_that_takes_too_long_is_cut_off_and_a_fresh_process_answers_soon(model):
    before = process_of(model).pid
    start = time.monotonic()
    with pytest.raises(Unavailable, match=r"did not answer a row within 0\.5 s"):
        model.answer([row(1.0, "sleep")])
    assert time.monotonic() - start < 3
    with pytest.raises(Unavailable, match=r"is being started again: it did not answer"):
        model.answer([row(1.0)])
    assert again(model) == 42.0
    assert process_of(model).pid != before
    assert not Path(f"/proc/{before}").exists() or "zombie" in Path(f"/proc/{before}/status").read_text()


def test_a_process_that_dies_is_told_with_its_signal_and_started_again(model):
    with pytest.raises(Unavailable, match="it ended with signal SIGKILL"):
        model.answer([row(1.0, "die")])
    assert again(model) == 42.0


def test_what_the_model_raises_is_told_and_does_not_cost_the_process(model):
    before = process_of(model).pid
    with pytest.raises(KaizenError, match="the model raised LookupError: no such customer"):
        model.answer([row(1.0, "raise")])
    with pytest.raises(KaizenError, match="answered what is no number"):
        model.answer([row(1.0, "nan")])
    assert model.answer([row(1.0)])[0].value == 2.0
    assert process_of(model).pid == before


@pytest.mark.slow
def test_memory_has_a_limit_where_one_is_set(tmp_path):
    model = runtimes.load(write(tmp_path, memory_bytes=2 << 30, timeout_s=5.0))
    with pytest.raises(KaizenError, match="ran out of the memory it may use"):
        model.answer([row(1.0, "eat")])
    assert model.answer([row(1.0)])[0].value == 2.0
    model.close()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import nothing_of_that_name", "said: the model raised ModuleNotFoundError"),
        ("def other(rows): ...", "has no function 'predict'; it has other"),
        ("import os; os._exit(3)", "ended with exit code 3"),
        ("syntax error", "SyntaxError"),
    ],
)
@pytest.mark.slow
def test_what_does_not_load_says_why(tmp_path, code, told):
    with pytest.raises(Corrupt, match=told):
        runtimes.load(write(tmp_path, code))


@pytest.mark.slow
def test_the_process_ends_with_whoever_started_it_even_while_it_never_returns(tmp_path):
    write(tmp_path, CODE, timeout_s=60.0)
    code = (
        "import sys, threading, time; from pathlib import Path; from kaizenml.registry import runtimes\n"
        f"model = runtimes.load(Path({str(tmp_path)!r}))\n"
        "threading.Thread(target=lambda: model.answer([{'a': 1.0, 'do': 'sleep'}]), daemon=True).start()\n"
        "print(model._learners[0].pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z (zombie)" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_threads_take_turns_and_each_gets_its_own_answers(model):
    found: dict[int, list[float]] = {}

    def ask(number: int) -> None:
        found[number] = [model.answer([row(float(number * 1000 + n))])[0].value for n in range(50)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [2.0 * (number * 1000 + n) for n in range(50)] for number in range(4)}


@pytest.mark.slow
def test_nothing_is_written_beside_the_code(tmp_path):
    write(tmp_path, "from helper import twice\ndef predict(rows):\n    return [twice(row['a']) for row in rows]\n")
    (tmp_path / "code" / "helper.py").write_text("def twice(value):\n    return 2 * value\n")
    model = runtimes.load(tmp_path)
    assert model.answer([row(4.0)])[0].value == 8.0
    model.close()
    assert sorted(path.name for path in (tmp_path / "code").rglob("*")) == ["helper.py", "m.py"]


def test_closing_ends_the_process(tmp_path):
    model = runtimes.load(write(tmp_path))
    pid = process_of(model).pid
    assert pid
    os.kill(pid, 0)
    model.close()
    model.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
