"""The process in which a model of other people's Python answers: loads it, then answers rows until its parent is gone.

Runs as ``python -m``, started by ``own_process``. What the model prints goes to stderr; what it raises travels back in words.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from kaizenml.errors import Corrupt, KaizenError, MissingExtra

_LENGTH = struct.Struct(">I")
Answer = Callable[[list[list[Any]]], Any]


def main(arguments: Sequence[str]) -> int:
    """Answer on the socket whose number is given, until it closes."""
    connection, alive = socket.socket(fileno=int(arguments[0])), int(arguments[1])
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    os.dup2(2, 1)
    answer: Answer | None = None
    while (body := _receive(connection)) is not None:
        message = msgspec.msgpack.decode(body)
        try:
            if answer is None:
                answer = _load(message)
                found: Any = None
            else:
                found = np.ascontiguousarray(answer(message), np.float64).tobytes()
        except KaizenError as error:
            found = error.document()
        except MemoryError:
            found = KaizenError("the model ran out of the memory it may use", remedy="import it with more memory").document()
        except Exception as error:
            traceback.print_exc()
            found = KaizenError(f"the model raised {type(error).__name__}: {str(error)[:300]}", remedy="mend the model").document()
        reply = msgspec.msgpack.encode(found, enc_hook=str)
        try:
            connection.sendall(_LENGTH.pack(len(reply)) + reply)
        except OSError:
            return 0
    return 0


def _load(job: dict[str, Any]) -> Answer:
    if job["memory_bytes"]:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"], job["memory_bytes"]))
    answer = _load_callable(job) if job["kind"] == "python" else _load_sklearn(job)
    outputs, classes, binary = 1 if job["task"] == "regression" else len(job["classes"]), job["classes"], job["task"] == "binary"

    def shaped(rows: list[list[Any]]) -> Any:
        found = answer(rows)
        if classes and len(found) and isinstance(found[0], dict):
            found = [[row[value] for value in classes] for row in found]
        scores = np.asarray(found, np.float64).reshape(len(rows), -1)
        if binary and scores.shape[1] == 1:
            scores = np.column_stack([1.0 - scores, scores])
        if scores.shape[1] != outputs:
            raise ValueError(f"{scores.shape[1]} values for a row where {outputs} are expected")
        if classes and (scores.min(initial=0.0) < -1e-6 or not np.allclose(scores.sum(axis=1), 1.0, atol=1e-3)):
            raise ValueError("probabilities that do not lie between 0 and 1 and sum to 1")
        return scores

    return shaped


def _load_callable(job: dict[str, Any]) -> Answer:
    path = Path(job["file"])
    os.chdir(path.parent)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise Corrupt(f"{path.name} is not a Python file", remedy="name a .py file", values={"file": path.name})
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    function = getattr(module, job["function"], None)
    if not callable(function):
        known = sorted(name for name, value in vars(module).items() if callable(value) and not name.startswith("_"))
        what = f"{path.name} has no function {job['function']!r}; it has {', '.join(known[:8]) or 'none'}"
        raise Corrupt(what, remedy="name one that is there", values={"file": path.name, "known": known[:50]})
    columns = job["columns"]

    def answer(rows: list[list[Any]]) -> Any:
        found = function([dict(zip(columns, row, strict=True)) for row in rows])
        if not hasattr(found, "__len__") or len(found) != len(rows):
            what = f"{len(found)} answers" if hasattr(found, "__len__") else f"{type(found).__name__}, which is no list of answers"
            raise ValueError(f"{what} for {len(rows)} rows")
        return found

    return answer


def _load_sklearn(job: dict[str, Any]) -> Answer:
    from kaizenml.registry import skops_file

    model = skops_file.load(Path(job["file"]))
    table = framer(model, job["columns"])
    if job["task"] == "regression":
        return lambda rows: model.predict(table(rows))
    if not hasattr(model, "predict_proba"):
        name = type(model).__name__
        raise Corrupt(f"{name} gives no probabilities", remedy="import one that has predict_proba", values={"type": name})
    return lambda rows: model.predict_proba(table(rows))


def framer(model: Any, columns: list[str]) -> Callable[[list[list[Any]]], Any]:
    """Return what makes of rows the table that a scikit-learn model takes: a data frame where it knows its columns by name."""
    import warnings

    named = [str(name) for name in getattr(model, "feature_names_in_", [])]
    if not named:
        return lambda rows: np.array(rows, np.float64 if _numbers(rows) else object)
    if importlib.util.find_spec("pandas") is None:
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        if hasattr(model, "transformers_") or any(hasattr(step, "transformers_") for _, step in getattr(model, "steps", [])):
            raise MissingExtra("this model takes its columns by name, out of a data frame", remedy="pip install pandas")
        order = [columns.index(name) for name in named]
        return lambda rows: np.array([[row[place] for place in order] for row in rows], np.float64 if _numbers(rows) else object)
    import pandas

    def frame(rows: list[list[Any]]) -> Any:
        made = pandas.DataFrame(rows, columns=columns)[named]
        for name in named:
            if made[name].isna().all():
                made[name] = made[name].astype(np.float64)
        return made

    return frame


def _numbers(rows: list[list[Any]]) -> bool:
    return not any(isinstance(value, str) for row in rows for value in row)


def _receive(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, _LENGTH.size)
    return None if head is None else _exactly(connection, _LENGTH.unpack(head)[0])


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _end_with_parent(alive: int) -> None:
    """Wait for the end of the pipe that the parent holds open; a model that loops for ever must not outlive who started it."""
    with contextlib.suppress(OSError):
        os.read(alive, 1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
