"""Rows with the answers that a model gave where it was made: what an import is held against, and where its columns come from.

The answer stands in the column of the target: the number, the class, or for two classes the second one's probability. The
probabilities of classes stand in columns ``target:class``. Kept beside the model as ``check.json``, format 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from kaizenml.errors import Corrupt, InvalidData, UsageError, nearest
from kaizenml.features.encoding.encoder import EncodedColumn, Encoder
from kaizenml.features.signature import Field, FieldKind, Signature
from kaizenml.training.model_file import Naive

FILE = "check.json"
FORMAT = 1
MOST_ROWS = 10_000
KINDS = ("number", "integer", "boolean", "category", "timestamp")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The rows as a client sends them, and the answers expected."""

    format: int = FORMAT
    rows: list[dict[str, Any]]
    values: list[Any]  # the class or the number; [] where only probabilities are known
    probabilities: list[list[float]] | None = None  # in the order of the classes


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is asked and answers, as far as rows tell."""

    task: str
    classes: list[Any]
    values: list[Any]
    probabilities: list[list[float]] | None


def write(folder: Path, check: Check) -> None:
    """Write ``check.json``."""
    (folder / FILE).write_bytes(msgspec.json.encode(check))


def read(folder: Path) -> Check:
    """Read ``check.json`` of an imported model; Corrupt when it is gone or damaged."""
    try:
        found = msgspec.json.decode((folder / FILE).read_bytes(), type=Check)
    except (OSError, msgspec.DecodeError) as error:
        raise Corrupt(f"{folder / FILE} cannot be read: {error}", remedy="restore it from a backup, or import again", values={}) from None
    if found.format > FORMAT:
        raise Corrupt(f"{folder / FILE} has format {found.format}; this kaizenml reads up to {FORMAT}", remedy="pip install --upgrade kaizenml")
    return found


def table_of(check: Check, signature: Signature) -> pa.Table:
    """Return the rows as a table, the expected answers (the most probable classes) in the target's column."""
    values = check.values or [signature.classes[shares.index(max(shares))] for shares in check.probabilities or []]
    columns: dict[str, Any] = {field.name: [row.get(field.name) for row in check.rows] for field in signature.fields}
    found = {field.name: pa.array(columns[field.name], pa.float64() if field.kind == "number" else None) for field in signature.fields}
    return pa.table({**found, signature.target: pa.array(values)})


def inputs_of(table: pa.Table, target: str) -> list[str]:
    """Return the columns that are neither the answer nor a class' probability."""
    if target not in table.column_names and not _shares(table, target):
        close = nearest(target, table.column_names)
        hint = f"; did you mean {close!r}?" if close else f"; there is {', '.join(map(repr, table.column_names[:12]))}"
        what = f"the rows to check on have no column {target!r} with the answers{hint}"
        raise InvalidData(what, remedy="name it with --target", values={"target": target})
    return [name for name in table.column_names if name != target and not name.startswith(f"{target}:")]


def question(table: pa.Table, target: str, *, task: str, classes: Sequence[Any], outputs: int) -> Question:
    """Tell task, classes and expected answers from what the file says (``task``, ``classes``, ``outputs``) and the rows hold.

    Raises
    ------
    InvalidData : the answers do not fit the task, or name classes that are not there.
    """
    shares = _shares(table, target)
    answers = table.column(target).to_pylist() if target in table.column_names else []
    if any(value is None for value in answers):
        raise InvalidData(f"the answer {target!r} is missing in some rows", remedy="give each row its answer", values={"target": target})
    numbers = bool(answers) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in answers)
    if task in ("", "classes"):
        task = "regression" if not task and numbers and not shares and not classes and outputs < 2 else "binary"
        if task != "regression":
            task = "multiclass" if max(len(shares), len(classes), outputs, len(set(map(str, answers))) if not numbers else 0) > 2 else "binary"
    if task == "regression":
        if not numbers:
            what = f"the answers in {target!r} are no numbers"
            raise InvalidData(what, remedy="name the task: --task binary", values={"target": target})
        return Question(task=task, classes=[], values=[float(value) for value in answers], probabilities=None)
    # numbers between 0 and 1 that are no classes are the second class' probability
    alone = task == "binary" and numbers and not shares and any(not float(value).is_integer() for value in answers)
    known = _classes(classes, shares, [] if alone else answers, 2 if task == "binary" else outputs, target)
    if alone:
        if any(not 0 <= value <= 1 for value in answers):
            what = f"the answers in {target!r} are neither classes nor probabilities"
            raise InvalidData(what, remedy="--task regression", values={"target": target})
        return Question(task=task, classes=known, values=[], probabilities=[[1.0 - value, float(value)] for value in answers])
    values = [_as_class(value, known, target) for value in answers]
    probabilities = None
    if shares:
        columns = [table.column(f"{target}:{text}").to_pylist() for text in _ordered(shares, known, target)]
        probabilities = [[float(value) for value in row] for row in zip(*columns, strict=True)]
        if len(columns) == 1:
            probabilities = [[1.0 - row[0], row[0]] for row in probabilities]
    return Question(task=task, classes=known, values=values, probabilities=probabilities)


def naive_of(asked: Question) -> Naive:
    """Return the answer without a model: what it answers on average."""
    if asked.task == "regression":
        return Naive(value=float(np.mean(asked.values)))
    if asked.probabilities is not None:
        shares = np.mean(asked.probabilities, axis=0)
    else:
        counts = np.array([asked.values.count(value) for value in asked.classes], np.float64)
        shares = counts / counts.sum()
    return Naive(value=asked.classes[int(shares.argmax())], probabilities=shares.tolist())


def kinds_given(columns: Sequence[str]) -> dict[str, str]:
    """Read ``name`` or ``name:kind`` for each column; an empty kind is left to file and rows. UsageError for an unknown kind."""
    found: dict[str, str] = {}
    for text in columns:
        name, mark, kind = text.rpartition(":")
        if mark and kind in KINDS:
            found[name] = kind
        elif mark and (close := nearest(kind, KINDS)):
            raise UsageError(f"{kind!r} is no kind of column; did you mean {close!r}?", remedy=f"one of {', '.join(KINDS)}", values={"found": text})
        else:
            found[text] = ""
    return found


def encoder_of(table: pa.Table, columns: dict[str, str], levels: dict[str, list[str]], beside: Sequence[str]) -> Encoder:
    """Describe how a row becomes a vector; ``columns`` are names with kinds ("" is left to the rows), in the order of the vector."""
    made = []
    for name, given in columns.items():
        if name not in table.column_names:
            close = nearest(name, table.column_names)
            hint = f"; did you mean {close!r} by it?" if close else ""
            raise InvalidData(f"the rows to check on lack the input {name!r}{hint}", remedy="add it, or say --columns", values={"column": name})
        kind: FieldKind = given or _seen(table.column(name))  # type: ignore[assignment]
        seen = levels.get(name)
        if seen is None and kind == "category":
            seen = sorted({str(value) for value in table.column(name).to_pylist() if value is not None})
        made.append(EncodedColumn(name=name, kind=kind, levels=seen or []))
    return Encoder(columns=made, accepts=[name for name in beside if name not in columns])


def fields_of(encoder: Encoder, rows: Sequence[dict[str, Any]]) -> list[Field]:
    """Return the inputs, with a few values seen as examples. No ranges: nobody knows what the model has seen in training."""
    found = []
    for column in encoder.columns:
        values = [row[column.name] for row in rows if row.get(column.name) is not None]
        found.append(Field(name=column.name, kind=column.kind, examples=list(dict.fromkeys(values))[:5]))
    return found


def as_sent(table: pa.Table, encoder: Encoder) -> list[dict[str, Any]]:
    """Return the rows as a client sends them, the inputs alone."""
    kinds = {column.name: column.kind for column in encoder.columns}
    return [{name: _as_kind(value, kinds[name]) for name, value in row.items()} for row in table.select(list(kinds)).to_pylist()]


def _as_kind(value: Any, kind: str) -> Any:
    if value is None:
        return None
    if kind == "category":
        return str(value).lower() if isinstance(value, bool) else str(value)
    if kind == "timestamp":
        return value.isoformat() if hasattr(value, "isoformat") else value
    return bool(value) if kind == "boolean" and value in (0, 1) else value


def _seen(column: pa.ChunkedArray) -> str:
    kind = column.type
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_timestamp(kind):
        return "timestamp"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind) else "category"


def _shares(table: pa.Table, target: str) -> list[str]:
    return [name.partition(":")[2] for name in table.column_names if name.startswith(f"{target}:")]


def _classes(given: Sequence[Any], shares: list[str], answers: list[Any], count: int, target: str) -> list[Any]:
    """The classes in the order of the model's outputs: as said, else as the probabilities stand, else sorted."""
    seen = list(dict.fromkeys(answers))
    by_text = {_text(value): value for value in seen}
    if given:
        found = [by_text.get(_text(value), value) for value in given]
    elif len(shares) > 1:
        found = [by_text.get(text, text) for text in shares]
    elif seen and (not count or len(seen) == count):
        found = sorted(seen)
    elif all(isinstance(value, bool) for value in seen) and count == 2 and seen:
        found = [False, True]
    elif all(isinstance(value, int) or (isinstance(value, float) and value.is_integer()) for value in seen) and count:
        found = list(range(count))
    else:
        raise InvalidData(
            f"the model has {count} classes, and the rows show {len(seen)} of them", remedy="name all in the order of its outputs: --classes no,yes",
            values={"target": target, "found": [str(value) for value in seen[:20]]},
        )  # fmt: skip
    if count and len(found) != count:
        what = f"{len(found)} classes are named, and the model answers with {count}"
        raise InvalidData(what, remedy="name all in the order of its outputs: --classes no,yes", values={"classes": [str(each) for each in found]})
    return found


def _as_class(value: Any, known: list[Any], target: str) -> Any:
    for each in known:
        if each == value or _text(each) == _text(value):
            return each
    what = f"the answer {value!r} in {target!r} is none of the model's classes ({', '.join(map(str, known[:8]))})"
    raise InvalidData(what, remedy="name all in the order of its outputs: --classes no,yes", values={"found": str(value)[:100]})


def _ordered(shares: list[str], known: list[Any], target: str) -> list[str]:
    wanted = [_text(value) for value in known]
    if len(shares) == 1 and len(known) == 2 and shares[0] == wanted[1]:
        return shares
    if sorted(shares) != sorted(wanted):
        what = f"there are probabilities of {', '.join(shares[:8])}, and the classes are {', '.join(wanted[:8])}"
        raise InvalidData(what, remedy=f"name their columns {target}:{wanted[0]} and so on", values={"found": shares[:50], "expected": wanted[:50]})
    return wanted


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
