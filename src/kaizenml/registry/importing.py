"""Take over a model that was made elsewhere: tell what it is, look for harm, try it apart, hold it against known answers, keep it.

Nothing of the file is opened in this process by a library of models; ``trial`` does that in one of its own. What is kept answers
as the file did where it was made, on every row that was given for a proof, or it is not kept.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from kaizenml.clock import parse_duration
from kaizenml.data.intake import sources
from kaizenml.errors import Corrupt, InvalidData, KaizenError, MissingExtra, NotFound, UsageError
from kaizenml.features.signature import Signature
from kaizenml.registry import check_rows, foreign, skops_file, trial
from kaizenml.registry.check_rows import Check
from kaizenml.registry.trial import Described, Tried
from kaizenml.training import model_file
from kaizenml.training.model_file import Member, ModelSpec

FILE = "import.json"
SLOW_S = 0.0005
"""A row that takes longer is not waited for on the event loop: going beside it and back costs a tenth of this."""
PAYS = 0.5  # a row in a batch of 16 costs at most this share of a row by itself: then batches pay
MOST_SHOWN = 300
_NAMES = {"lightgbm": "model.txt", "xgboost": "model.ubj", "onnx": "model.onnx", "sklearn": "model.skops"}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be imported, and how it is to be understood."""

    source: Path
    function: str
    check: Path
    target: str
    columns: list[str]
    task: str
    classes: list[str]
    tolerance: float
    timeout: str
    memory_mb: int
    files: list[Path]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """``import.json``: where an imported model came from, and what was proven of it."""

    format: int = 1
    source: str  # the file's name
    sha256: str
    maker: str
    answered_by: str  # the kind of runtime
    rows: int  # compared
    largest_difference: float | None  # None: only classes were given to compare
    tolerance: float
    notes: list[str] = []


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way of answering with the file, to be tried."""

    member: Member
    note: str = ""


def read(folder: Path) -> Origin | None:
    """Return where a model folder came from; None for one that was trained here."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Origin)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise Corrupt(f"{folder / FILE} cannot be read: {error}", remedy="restore it from a backup, or import again", values={}) from None


def request_of(source: str, *, root: Path, **given: Any) -> Request:
    """Read ``FILE`` or ``FILE.py:function``; files are looked for in the working directory, then in the project.

    Raises
    ------
    NotFound : one of the files is not there.
    UsageError : a Python file without a function, or what is no duration or number.
    """
    path, mark, function = source.rpartition(":")
    if not (mark and path.endswith(".py")):
        path, function = source, ""
    if path.endswith(".py") and not function:
        raise UsageError(f"{path} is Python; which function answers?", remedy=f"name it: {path}:predict", values={"source": source})
    if not 0.0 <= given["tolerance"] < 1.0:
        raise UsageError(f"a tolerance of {given['tolerance']:g} proves nothing", remedy="say one below 1, such as 1e-5", values={})
    if parse_duration(given["timeout"]) <= 0 or given["memory_mb"] < 0:
        raise UsageError("a model cannot answer in no time or memory", remedy="--timeout 1s, and --memory-mb 0 for no limit", values={})
    check = _found(given.pop("check"), root)
    beside = [_found(str(each), root) for each in given.pop("files")]
    return Request(source=_found(path, root), function=function, check=check, files=beside, **given)


def token(request: Request) -> str:
    """Return a name for exactly this import: the same files understood the same way give the same."""
    digest = hashlib.sha256()
    for path in (request.source, request.check, *request.files):
        for part in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if part.is_file():
                with part.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    plain = msgspec.structs.replace(request, source=Path(request.source.name), check=Path("check"), files=[Path(each.name) for each in request.files])
    digest.update(msgspec.json.encode(msgspec.to_builtins(plain, enc_hook=str)))
    return f"import-{digest.hexdigest()[:20]}"


def bring(request: Request, folder: Path) -> Origin:
    """Fill a fresh model folder: the file, ``model.json``, ``check.json`` and ``import.json``.

    Raises
    ------
    InvalidData : the file is refused, does not fit the rows, or does not answer as it should; names the first row that differs.
    MissingExtra : a library it needs is not installed.
    """
    kind = foreign.identify(request.source)
    if kind == "sklearn":
        _as_input(lambda: skops_file.look(request.source))
    name = _copy(request, kind, folder)
    described = Described(maker=f"Python, {name}:{request.function}") if kind == "python" else _describe(kind, folder / name)
    table = _rows(request.check)
    spec, check = _understood(request, described, table, vectors=kind in ("lightgbm", "xgboost"))
    check_rows.write(folder, check)
    ways = list(_candidates(request, folder / name, kind, described=described, spec=spec))
    member, tried, note = _first_that_agrees(folder, ways, spec, check, request.tolerance)
    member = _paced(member, tried)
    model_file.write(folder, msgspec.structs.replace(spec, members=[member]))
    if member.kind == "onnx" and kind == "sklearn":
        (folder / name).unlink()  # it was converted, and the conversion has proven itself
    difference = largest_difference(tried, check)[0]
    origin = Origin(
        source=request.source.name, sha256=hashlib.sha256(request.source.read_bytes()).hexdigest(), maker=described.maker, answered_by=member.kind,
        rows=len(check.rows), largest_difference=difference, tolerance=request.tolerance, notes=[note] if note else [],
    )  # fmt: skip
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(origin), indent=1))
    return origin


def largest_difference(tried: Tried, check: Check) -> tuple[float | None, int]:
    """Return by how much answers differ from those expected, and in which row; infinite where a class differs, None: no numbers to compare.

    Probabilities are compared as they are, numbers relative to their size above 1.
    """
    if check.probabilities is None and tried.probabilities is not None:
        wrong = [row for row, (found, expected) in enumerate(zip(tried.values, check.values, strict=True)) if found != expected]
        wrong += [row for row, found in enumerate(tried.alone) if found != check.values[row]]
        return (float("inf"), wrong[0]) if wrong else (None, 0)
    if check.probabilities is not None:
        gaps = np.abs(np.array(tried.probabilities) - np.array(check.probabilities)).max(axis=1)
        alone = np.abs(np.array(tried.alone_probabilities) - np.array(check.probabilities[: len(tried.alone)])).max(axis=1)
    else:
        expected = np.array(check.values, np.float64)
        scale = np.maximum(1.0, np.abs(expected))
        gaps = np.abs(np.array(tried.values, np.float64) - expected) / scale
        alone = np.abs(np.array(tried.alone, np.float64) - expected[: len(tried.alone)]) / scale[: len(tried.alone)]
    worst = gaps.copy()
    worst[: len(alone)] = np.maximum(gaps[: len(alone)], alone)
    worst = np.where(np.isnan(worst), np.inf, worst)
    row = int(worst.argmax())
    return float(worst[row]), row


def _found(given: str | Path, root: Path) -> Path:
    for path in (Path(given).expanduser(), root / Path(given).expanduser()):
        if path.exists():
            return path.resolve()
    raise NotFound(f"there is no file {str(given)!r}", remedy="name one that is there", values={"file": str(given)})


def _rows(path: Path) -> pa.Table:
    table = sources.load(path)
    if table.num_rows > check_rows.MOST_ROWS:
        table = table.take(np.linspace(0, table.num_rows - 1, check_rows.MOST_ROWS).astype(np.int64))
    return table


def _copy(request: Request, kind: str, folder: Path) -> str:
    """Copy the model's files in; return the name of the one to load."""
    if kind != "python":
        shutil.copyfile(request.source, folder / _NAMES[kind])
        return _NAMES[kind]
    code = folder / "code"
    code.mkdir()
    for path in (request.source, *request.files):
        if path.is_dir():
            shutil.copytree(path, code / path.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copyfile(path, code / path.name)
    return f"code/{request.source.name}"


def _describe(kind: str, path: Path) -> Described:
    return msgspec.convert(_as_input(lambda: trial.ask("describe", kind=kind, file=str(path))), Described)


def _understood(request: Request, described: Described, table: pa.Table, *, vectors: bool) -> tuple[ModelSpec, Check]:
    """Put what the file says, what the rows hold and what was said together: the signature, the encoder and the answers expected."""
    inputs = check_rows.inputs_of(table, request.target)
    columns = _columns(request, described, inputs)
    for name, levels in described.levels.items():
        if name in columns and levels and columns[name] not in ("", "category"):
            raise UsageError(f"the file knows {name!r} as categories", remedy=f"--columns without a kind for {name}", values={"column": name})
    encoder = check_rows.encoder_of(table, columns, described.levels, inputs)
    wrong = [each.name for each in encoder.columns if each.kind == "timestamp" or (each.kind == "category" and each.name not in described.levels)]
    if vectors and wrong:
        what = f"the file takes numbers, and {wrong[0]!r} holds {'text' if wrong[0] not in described.levels else 'times'}"
        remedy = "give the rows as they were when it was trained, or leave the column out with --columns"
        raise InvalidData(what, remedy=remedy, values={"columns": wrong})
    asked = check_rows.question(
        table, request.target, task=described.task if request.task == "auto" else request.task, classes=request.classes or described.classes,
        outputs=described.outputs,
    )  # fmt: skip
    rows = check_rows.as_sent(table, encoder)
    check = Check(rows=rows, values=asked.values, probabilities=asked.probabilities)
    signature = Signature(task=asked.task, target=request.target, classes=asked.classes, fields=check_rows.fields_of(encoder, rows))  # type: ignore[arg-type]
    return ModelSpec(format=model_file.FORMAT, signature=signature, encoder=encoder, members=[], naive=check_rows.naive_of(asked)), check


def _columns(request: Request, described: Described, inputs: Sequence[str]) -> dict[str, str]:
    """The inputs in the order in which the model takes them, each with its kind where somebody said it."""
    given = check_rows.kinds_given(request.columns)
    names = described.names or list(given) or list(inputs)
    if described.names and set(given) - set(names):
        other = sorted(set(given) - set(names))[0]
        raise UsageError(f"the file has no input {other!r}", remedy=f"its inputs are {', '.join(names[:12])}", values={"known": names[:50]})
    if described.width is not None and len(names) != described.width:
        what = f"the file takes {described.width} columns, and there are {len(names)}: {', '.join(names[:12])}"
        values = {"expected": described.width, "found": names[:50]}
        raise InvalidData(what, remedy="name those that it takes, in its order: --columns a,b,c", values=values)
    kinds = described.kinds or [""] * len(names)
    return {name: given.get(name) or kind for name, kind in zip(names, kinds, strict=True)} if len(kinds) == len(names) else dict.fromkeys(names, "")


def _candidates(request: Request, path: Path, kind: str, *, described: Described, spec: ModelSpec) -> Iterator[Candidate]:
    """The ways in which the file can answer, the best first."""
    timeout_s, name = parse_duration(request.timeout), f"code/{path.name}" if kind == "python" else path.name
    plain = all(column.kind in ("number", "integer", "boolean") for column in spec.encoder.columns)
    if kind == "sklearn" and described.convertible and plain:
        target = path.parent / _NAMES["onnx"]
        if _as_input(lambda: trial.ask("convert", file=str(path), to=str(target), width=spec.encoder.width)):
            note = "converted to ONNX; the conversion answers as the original does"
            yield Candidate(member=Member(name="imported", kind="onnx", file=target.name, weight=1.0), note=note)
    if kind in ("sklearn", "python"):
        note = "answers in a process of its own" if kind == "python" else "not converted: answers as it is, in a process of its own"
        member = Member(
            name="imported", kind=kind, file=name, weight=1.0, function=request.function, timeout_s=timeout_s,  # type: ignore[arg-type]
            memory_bytes=request.memory_mb << 20,
        )  # fmt: skip
        yield Candidate(member=member, note=note)
        return
    links = described.links if spec.signature.task != "regression" else [""]
    for rounds in described.rounds:
        for link in links:
            notes = [f"{link} is applied to its outputs"] if link else []
            notes += [f"the first {rounds} rounds are used, as it stopped early"] if rounds else []
            member = Member(
                name="imported", kind=kind, file=name, weight=1.0, wide=kind == "lightgbm", rounds=rounds, link=link  # type: ignore[arg-type]
            )
            yield Candidate(member=member, note="; ".join(notes))


def _first_that_agrees(folder: Path, ways: list[Candidate], spec: ModelSpec, check: Check, tolerance: float) -> tuple[Member, Tried, str]:
    """Try one way after the other; the first that answers every row as expected is taken, else the first one's difference is told."""
    first: KaizenError | None = None
    for way in ways:
        model_file.write(folder, msgspec.structs.replace(spec, members=[way.member]))
        try:
            tried = msgspec.convert(trial.ask("answer", folder=str(folder), rows=check.rows, timing=way.member.kind == "onnx"), Tried)
            _judge(tried, check, spec.signature, tolerance)
        except MissingExtra:
            raise
        except KaizenError as error:
            first = first or InvalidData(error.what, remedy=error.remedy, values=error.values)
            continue
        _leave_out(folder, ways, way)
        return way.member, tried, way.note
    assert first is not None  # there is one way at least
    raise first


def _leave_out(folder: Path, ways: list[Candidate], chosen: Candidate) -> None:
    for way in ways:
        if way.member.file != chosen.member.file and way.member.kind == "onnx":
            (folder / way.member.file).unlink(missing_ok=True)


def _judge(tried: Tried, check: Check, signature: Signature, tolerance: float) -> None:
    """Raise InvalidData where answers are no probabilities, or not those expected."""
    if tried.probabilities is not None:
        shares = np.array(tried.probabilities, np.float64)
        sums = shares.sum(axis=1)
        wrong = np.flatnonzero(~((shares >= -1e-6).all(axis=1) & (shares <= 1 + 1e-6).all(axis=1) & (np.abs(sums - 1.0) < 1e-3)))
        if shares.shape[1] != len(signature.classes) or len(wrong):
            seen = shares[int(wrong[0])] if len(wrong) else shares[0]
            what = f"the model answers {_short(seen.tolist())} for a row, which are no probabilities of {len(signature.classes)} classes"
            raise InvalidData(what, remedy="export it with its probabilities, or say --task regression", values={"found": seen.tolist()[:20]})
    gap, row = largest_difference(tried, check)
    if gap is not None and gap > tolerance:
        found, expected = (tried.probabilities, check.probabilities) if check.probabilities is not None else (tried.values, check.values)
        assert found is not None
        assert expected is not None
        raise InvalidData(
            f"row {row + 1}: the model answers {_short(found[row])} here and {_short(expected[row])} where it was made"
            + (f", a difference of {gap:.2g}" if np.isfinite(gap) else ""),
            remedy="look at the columns' order, their values and the classes' order; --tolerance where the answers were rounded",
            values={"row": row + 1, "found": found[row], "expected": expected[row], "difference": gap if np.isfinite(gap) else None},
        )


def _paced(member: Member, tried: Tried) -> Member:
    if member.kind != "onnx":
        return member
    slow = tried.one_s > SLOW_S
    return msgspec.structs.replace(member, slow=slow, batches=slow and tried.batch_row_s < PAYS * tried.one_s)


def _short(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    text = ", ".join(f"{each:.6g}" if isinstance(each, float) else str(each) for each in values[:6])
    return text[:MOST_SHOWN] + (", ..." if len(values) > 6 else "")


def _as_input(call: Any) -> Any:
    """What is damaged in a file from outside is wrong input, not damage of ours."""
    try:
        return call()
    except Corrupt as error:
        remedy = "do not use this file" if "roll back" in error.remedy else error.remedy
        raise InvalidData(error.what, remedy=remedy, values=error.values) from None
