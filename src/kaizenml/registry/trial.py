"""A model made elsewhere is first opened and asked in a process of its own, with bounds on memory and time.

A file that makes its library crash, loop or eat all memory ends that process, and the import says so; nothing else is harmed. ``ask``
is the parent's side; run as ``python -m`` it is the child's: one request on stdin, one answer on stdout, both MessagePack.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kaizenml.errors import InvalidData, KaizenError, from_document

if TYPE_CHECKING:
    from kaizenml.registry.runtimes import Prediction

TIME_S = 120.0
MEMORY_BYTES = 8 << 30  # of address space, most of which libraries reserve and never touch
ONE_BY_ONE = 50


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of itself."""

    names: list[str] = []  # of its inputs, one for each column; [] where it does not name them
    kinds: list[str] = []  # number, integer, boolean or category, for each; "" unknown
    levels: dict[str, list[str]] = {}  # of its categories, in the order of their codes
    width: int | None = None  # how many columns
    task: str = ""  # binary, multiclass, regression; classes: one of the first two; "": the rows must tell
    classes: list[Any] = []
    outputs: int = 0  # how many probabilities; 0: unknown
    links: list[str] = msgspec.field(default_factory=lambda: [""])  # to be tried in this order
    rounds: list[int] = msgspec.field(default_factory=lambda: [0])
    convertible: bool = False  # scikit-learn: a bare learner on numbers
    maker: str = ""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What a model answered, and how long it took."""

    values: list[Any]
    probabilities: list[list[float]] | None
    alone: list[Any]  # the values, and the probabilities of the first rows, asked one by one
    alone_probabilities: list[list[float]] | None
    one_s: float = 0.0  # for one row, the quickest of several
    batch_row_s: float = 0.0  # for each of 16 rows together

    @classmethod
    def of(cls, together: Sequence[Prediction], alone: Sequence[Prediction], **times: float) -> Tried:
        """Collect a model's answers."""
        classes = bool(together) and together[0].probabilities is not None
        return cls(
            values=[each.value for each in together],
            probabilities=[list(each.probabilities or []) for each in together] if classes else None,
            alone=[each.value for each in alone],
            alone_probabilities=[list(each.probabilities or []) for each in alone] if classes else None,
            **times,
        )


def ask(what: str, **given: Any) -> Any:
    """Have ``describe``, ``convert`` or ``answer`` done in a process of its own.

    Raises
    ------
    KaizenError : what that process said.
    InvalidData : it crashed, took too long or too much memory.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    message = msgspec.msgpack.encode([what, given], enc_hook=str)
    try:
        done = subprocess.run([sys.executable, "-m", __name__], input=message, capture_output=True, timeout=TIME_S, check=False, env=environment)
    except subprocess.TimeoutExpired:
        what_happened = f"the model took longer than {TIME_S:g} s to be opened and asked"
        raise InvalidData(what_happened, remedy="do not use it", values={"seconds": TIME_S}) from None
    if done.returncode:
        ending = signal.Signals(-done.returncode).name if done.returncode < 0 else f"exit code {done.returncode}"
        words = done.stderr.decode("utf-8", "replace").strip()[-500:]
        what_happened = f"the process that opened the model ended with {ending}; it is damaged, or made to do harm"
        raise InvalidData(what_happened, remedy="do not use this file", values={"ending": ending, "said": words})
    answer = msgspec.msgpack.decode(done.stdout)
    if "error" in answer:
        raise from_document(answer["error"])
    return answer["found"]


def main() -> int:
    """Do what stdin asks."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(TIME_S), int(TIME_S)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is not the answer
    what, given = msgspec.msgpack.decode(sys.stdin.buffer.read())
    try:
        found: dict[str, Any] = {"found": msgspec.to_builtins(_DO[what](**given), enc_hook=_plain)}
    except KaizenError as error:
        found = {"error": error.document()}
    except MemoryError:
        found = {"error": InvalidData("the model asks for more memory than a model should", remedy="do not use this file").document()}
    except Exception as error:
        words = f"the model cannot be used: {type(error).__name__}: {str(error)[:300]}"
        found = {"error": InvalidData(words, remedy="look at the file where it was made").document()}
    out.write(msgspec.msgpack.encode(found, enc_hook=_plain))
    out.flush()
    os._exit(0)  # without the libraries' own endings, which a damaged model may trip over


def answer(folder: str, rows: list[dict[str, Any]], timing: bool) -> Tried:
    """Load a model folder, answer rows together and one by one, and take the time."""
    from kaizenml.registry import runtimes

    model = runtimes.load(Path(folder))
    try:
        together = model.answer(rows) if len(rows) > 1 else model.answer([*rows, *rows])[:1]
        alone = [model.answer([row])[0] for row in rows[:ONE_BY_ONE]]
        one_s = batch_row_s = 0.0
        if timing:
            block = (rows * 16)[:16]
            one_s = _quickest(lambda: model.answer(rows[:1]))
            batch_row_s = _quickest(lambda: model.answer(block)) / 16
    finally:
        model.close()
    return Tried.of(together, alone, one_s=one_s, batch_row_s=batch_row_s)


def describe(kind: str, file: str) -> Described:
    """Open a file and say what it takes and gives."""
    path = Path(file)
    try:
        return {"lightgbm": _lightgbm, "xgboost": _xgboost, "onnx": _onnx, "sklearn": _sklearn}[kind](path)
    except ValueError as error:
        raise InvalidData(f"{path.name} {error}", remedy="do not use this file", values={"file": path.name}) from None


def convert(file: str, to: str, width: int) -> bool:
    """Convert a bare scikit-learn learner to ONNX; whether its answers are the same is for ``answer`` to show."""
    import warnings

    from kaizenml.registry import skops_file

    try:
        import skl2onnx
        from skl2onnx.common.data_types import FloatTensorType
    except ImportError:
        return False
    model = skops_file.load(Path(file))
    options = {"zipmap": False} if hasattr(model, "classes_") else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = skl2onnx.convert_sklearn(
                model, initial_types=[("inputs", FloatTensorType([None, width]))], options={id(model): options} if options else None
            )
    except Exception:  # many learners have no converter, or one of another version
        return False
    Path(to).write_bytes(made.SerializeToString())
    return True


def _lightgbm(path: Path) -> Described:
    from kaizenml.registry import trees
    from kaizenml.registry.lightgbm_native import LightGBM

    head = trees.look_at_lightgbm(path.read_text(encoding="utf-8", errors="replace"))
    model = LightGBM(path, len(head.names), wide=True)
    outputs, name = model.outputs, head.objective
    model.close()
    named = [feature for feature, kind in zip(head.names, head.kinds, strict=True) if kind == "category"]
    levels = dict(zip(named, [[str(level) for level in each] for each in head.levels], strict=False)) if head.levels else {}
    task = "binary" if name in ("binary", "cross_entropy") else "multiclass" if name in ("multiclass", "multiclassova") else "regression"
    kinds = ["category" if feature in levels else "number" for feature in head.names]
    anonymous = all(feature == f"Column_{place}" for place, feature in enumerate(head.names))
    return Described(
        names=[] if anonymous else head.names, kinds=kinds, levels=levels, width=len(head.names), task=task,
        outputs={"binary": 2, "regression": 0}.get(task, outputs), maker=f"LightGBM, objective {name or 'unknown'}",
    )  # fmt: skip


def _xgboost(path: Path) -> Described:
    from kaizenml.registry import trees
    from kaizenml.registry.xgboost_native import XGBoost

    head = _xgboost_width(path)
    model = XGBoost(path, head)
    document = model.saved()
    trees.look_at_xgboost(document)
    model.close()
    learner = document["learner"]
    names, types = learner.get("feature_names", []), learner.get("feature_types", [])
    objective = learner["objective"]["name"]
    levels: dict[str, list[str]] = {}
    if "c" in types:
        known = trees.xgboost_levels(learner)
        for place, kind in enumerate(types):
            if kind == "c":
                if not names or place >= len(known) or not known[place]:
                    raise InvalidData(
                        f"{path.name} takes categories and does not name them", remedy="train it on a data frame with XGBoost 3.1 or newer", values={}
                    )
                levels[names[place]] = [str(level) for level in known[place]]
    kinds = ["category" if kind == "c" else "number" for kind in types] or ["number"] * head
    task = "binary" if objective.startswith("binary:") else "multiclass" if objective.startswith("multi:") else "regression"
    links = {"multi:softmax": ["softmax"], "binary:logitraw": ["sigmoid"], "binary:hinge": ["sigmoid"]}.get(objective, [""])
    best = learner.get("attributes", {}).get("best_iteration", "")
    rounds = [0, int(best) + 1] if best.isdigit() else [0]
    classes = int(learner["learner_model_param"]["num_class"])
    return Described(
        names=list(names), kinds=kinds, levels=levels, width=head, task=task, outputs={"binary": 2, "regression": 0}.get(task, classes), links=links,
        rounds=rounds, maker=f"XGBoost, objective {objective}",
    )  # fmt: skip


def _xgboost_width(path: Path) -> int:
    import ctypes

    from kaizenml.registry.xgboost_native import damaged, library

    found, handle, width, body = library(), ctypes.c_void_p(), ctypes.c_uint64(), path.read_bytes()
    found.XGBoosterCreate(None, 0, ctypes.byref(handle))
    if found.XGBoosterLoadModelFromBuffer(handle, body, len(body)) or found.XGBoosterGetNumFeature(handle, ctypes.byref(width)):
        words = found.XGBGetLastError().decode("utf-8", "replace").strip().splitlines()
        raise damaged(path, f"is not an XGBoost model: {words[0][:300] if words else 'it cannot be loaded'}")
    found.XGBoosterFree(handle)
    return width.value


def _onnx(path: Path) -> Described:
    import numpy as np

    from kaizenml.registry import onnx_runtime

    session = onnx_runtime.open_session(path)
    try:
        tensors = onnx_runtime.inputs_of(session)
    except KeyError as error:
        raise ValueError(f"has an input of type {error.args[0]}, which no column can give") from None
    single = all(tensor.width in (1, None) for tensor in tensors) and len(tensors) > 1
    widths = [tensor.width for tensor in tensors]
    kinds = []
    for tensor in tensors:
        kind = "category" if tensor.dtype is np.str_ else "boolean" if tensor.dtype is np.bool_ else "number"
        kind = "integer" if tensor.dtype is not np.str_ and issubclass(tensor.dtype, np.integer) else kind
        kinds += [kind] * (tensor.width or 1)
    outputs = session.get_outputs()
    columns = [each.shape[1] for each in outputs if "float" in each.type and len(each.shape) == 2 and isinstance(each.shape[1], int)]
    known = None not in widths or single
    return Described(
        names=[tensor.name for tensor in tensors] if single else [], kinds=kinds if known else [],
        width=len(tensors) if single else sum(width for width in widths if width) if known else None,
        task="classes" if any(each.type.startswith("seq(map(") for each in outputs) else "", outputs=max(columns, default=0),
        links=["", "softmax", "sigmoid"], maker=_producer(session),
    )  # fmt: skip


def _producer(session: Any) -> str:
    meta = session.get_modelmeta()
    return f"ONNX, made by {meta.producer_name or 'an unknown program'}"


def _sklearn(path: Path) -> Described:
    from sklearn.base import is_classifier, is_outlier_detector, is_regressor

    from kaizenml.registry import skops_file

    model = skops_file.load(path)
    name = f"{type(model).__module__}.{type(model).__name__}"
    if is_outlier_detector(model) or not (is_classifier(model) or is_regressor(model)):
        raise ValueError(f"holds a {name}, which is neither a classifier nor a regressor")
    classes = _plain_classes(getattr(model, "classes_", [])) if is_classifier(model) else []
    task = "regression" if is_regressor(model) else "binary" if len(classes) == 2 else "multiclass"
    names = [str(each) for each in getattr(model, "feature_names_in_", [])]
    width = getattr(model, "n_features_in_", None)
    return Described(
        names=names, width=int(width) if width is not None else None, task=task, classes=classes, outputs=len(classes),
        convertible=not hasattr(model, "steps") and not hasattr(model, "transformers_"), maker=f"scikit-learn {type(model).__name__}",
    )  # fmt: skip


def _plain_classes(values: Any) -> list[Any]:
    return [value.item() if hasattr(value, "item") else value for value in values]


def _quickest(call: Callable[[], Any]) -> float:
    call()
    times: list[float] = []
    until = time.perf_counter() + 1.0
    while len(times) < 20 and (not times or time.perf_counter() < until):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


_DO: dict[str, Callable[..., Any]] = {"describe": describe, "convert": convert, "answer": answer}

if __name__ == "__main__":
    sys.exit(main())
