"""Any ONNX file, by ONNX Runtime (``kaizenml[onnx]``), which is imported when the first one is loaded. Hot path."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kaizenml.errors import Corrupt, InvalidInput, MissingExtra, Unavailable
from kaizenml.registry import onnx_file
from kaizenml.registry.linear_runtime import sigmoid, softmax
from kaizenml.registry.runtime import Takes
from kaizenml.training.model_file import Member, ModelSpec

TYPES: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32,
    "tensor(int16)": np.int16, "tensor(int8)": np.int8, "tensor(uint64)": np.uint64, "tensor(uint32)": np.uint32, "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_, "tensor(string)": np.str_,
}  # fmt: skip


TIMEOUT_S = 1.0
"""For a graph with a loop."""


class Tensor(NamedTuple):
    """An input of the graph: a column by itself, or so many columns side by side."""

    name: str
    dtype: Any
    flat: bool  # one dimension: (rows,)
    width: int | None  # None: as many as there are


class Onnx:
    """An ONNX graph behind the runtimes' protocol.

    Inputs are filled from the columns: each by the column of its name where every input is one column wide and named after one,
    else from left to right. Outputs are the probabilities (a tensor, or a map from class to probability), or the number.

    Raises
    ------
    Corrupt : the file is not a graph that can be run, or one of other columns.
    MissingExtra : ONNX Runtime is not installed.
    """

    def __init__(self, path: Path, member: Member, spec: ModelSpec) -> None:
        self._session = open_session(path)
        self._timeout_s = (member.timeout_s or TIMEOUT_S) if onnx_file.may_not_end(path.read_bytes()) else None
        self.blocks = member.slow or self._timeout_s is not None
        self.batches = member.batches
        self._columns = [column.name for column in spec.encoder.ordered]
        self._places = arrange(inputs_of(self._session), self._columns, path)
        texts = any(tensor.dtype is np.str_ for tensor, _ in self._places)
        # float32 holds whole numbers up to 2**24 only, and token ids or keys may be larger
        plain = all(tensor.dtype in (np.float32, np.float16) for tensor, _ in self._places)
        self.takes: Takes = "rows" if texts else "vectors" if plain else "wide"
        self._output, self._is_map = choose_output(self._session, spec.signature.task != "regression", path)
        self._classes = spec.signature.classes
        self._link: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = {"sigmoid": sigmoid, "softmax": softmax}.get(member.link)

    def one(self, given: Any) -> list[float]:
        found: list[float] = self.many([given] if self.takes == "rows" else np.array([given], np.float64))[0].tolist()
        return found

    def many(self, given: Any) -> NDArray[np.float64]:
        feed = {tensor.name: self._tensor(tensor, places, given) for tensor, places in self._places}
        (found,) = self._session.run([self._output], feed) if self._timeout_s is None else self._cut_off(feed, self._timeout_s)
        if self._is_map:
            scores = np.array([_by_class(row, self._classes) for row in found], np.float64)
        else:
            scores = np.asarray(found, np.float64).reshape(len(given), -1)
        return self._link(scores) if self._link else scores

    def close(self) -> None:
        self._session = None

    def _cut_off(self, feed: dict[str, Any], timeout_s: float) -> Any:
        """Run a graph that may not end, for so long at most."""
        import onnxruntime

        how = onnxruntime.RunOptions()
        ended = threading.Event()

        def end() -> None:
            ended.set()
            how.terminate = True  # looked at before each step of the graph

        timer = threading.Timer(timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            return self._session.run([self._output], feed, how)
        except Exception:
            if not ended.is_set():
                raise
            remedy = "send other values, or give the model more time when it is imported"
            raise Unavailable(f"the model did not come to an end within {timeout_s:g} s", remedy=remedy, values={"limit_s": timeout_s}) from None
        finally:
            timer.cancel()

    def _tensor(self, tensor: Tensor, places: list[int], given: Any) -> Any:
        if self.takes == "rows":
            values = _from_rows(tensor, [self._columns[place] for place in places], given)
        else:
            part = given if len(places) == len(self._columns) else given[:, places]
            if tensor.dtype not in (np.float32, np.float64, np.float16) and np.isnan(part).any():
                row, column = np.argwhere(np.isnan(part))[0].tolist()
                raise _missing(row, self._columns[places[column]])
            values = np.ascontiguousarray(part, tensor.dtype)
        return values[:, 0] if tensor.flat else values


def open_session(path: Path) -> Any:
    """Open a graph, having looked whether it is one file by itself; one thread for each call."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtra("ONNX Runtime is not installed here, and this model needs it", remedy='pip install "kaizenml[onnx]"') from None
    body = onnx_file.read(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # an arena keeps the largest request's memory for ever
    options.log_severity_level = 4
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return onnxruntime.InferenceSession(body, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own tree of errors, and RuntimeError
        raise damaged(path, f"cannot be run: {str(error)[:500]}") from None


def inputs_of(session: Any) -> list[Tensor]:
    """Return the graph's inputs in its order. Raises KeyError for a type that no column can give, ValueError for a shape."""
    found = []
    for each in session.get_inputs():
        shape = list(each.shape)
        if len(shape) not in (1, 2):
            raise ValueError(f"its input {each.name!r} has {len(shape)} dimensions")
        width = 1 if len(shape) == 1 else shape[1] if isinstance(shape[1], int) else None
        found.append(Tensor(each.name, TYPES[each.type], len(shape) == 1, width))
    return found


def arrange(tensors: Sequence[Tensor], columns: Sequence[str], path: Path) -> list[tuple[Tensor, list[int]]]:
    """Return which columns fill which input. Raises Corrupt when they do not come out even."""
    if all(tensor.width in (1, None) for tensor in tensors) and {tensor.name for tensor in tensors} == set(columns):
        return [(tensor, [columns.index(tensor.name)]) for tensor in tensors]
    open_ended = [tensor for tensor in tensors if tensor.width is None]
    fixed = sum(tensor.width or 0 for tensor in tensors)
    share, rest = divmod(len(columns) - fixed, len(open_ended)) if open_ended else (0, len(columns) - fixed)
    if rest or (open_ended and share < 1):
        wide = ", ".join(f"{tensor.name} {tensor.width or 'any number'}" for tensor in tensors)
        raise damaged(path, f"takes other columns than the {len(columns)} there are ({wide})")
    places, begin = [], 0
    for tensor in tensors:
        end = begin + (share if tensor.width is None else tensor.width)
        places.append((tensor, list(range(begin, end))))
        begin = end
    return places


def choose_output(session: Any, classes: bool, path: Path) -> tuple[str, bool]:
    """Return the name of the output to answer with, and whether it is a map from class to probability."""
    outputs = session.get_outputs()
    maps = [each for each in outputs if each.type.startswith("seq(map(") and each.type.endswith(("tensor(float)))", "float))", "tensor(double)))"))]
    if classes and maps:
        return maps[0].name, True
    tensors = [each for each in outputs if each.type in ("tensor(float)", "tensor(double)", "tensor(float16)")]
    if not tensors and not classes:
        tensors = [each for each in outputs if each.type in ("tensor(int64)", "tensor(int32)")]
    if not tensors:
        seen = ", ".join(f"{each.name} {each.type}" for each in outputs)
        raise damaged(path, f"has no output with {'probabilities' if classes else 'a number'} ({seen})")
    likely = [each for each in tensors if "prob" in each.name.lower()] if classes else []
    return (likely or tensors)[0].name, False


def damaged(path: Path, what: str) -> Corrupt:
    return Corrupt(f"{path.name} {what}", remedy="roll back to a release whose files are whole", values={"file": str(path)})


def _by_class(row: Mapping[Any, float], classes: list[Any]) -> list[float]:
    if set(row) == set(classes):
        return [row[value] for value in classes]
    return [row[key] for key in sorted(row)]  # the file knows the classes by number


def _from_rows(tensor: Tensor, names: list[str], rows: Sequence[Mapping[str, Any]]) -> Any:
    text = tensor.dtype is np.str_
    exact = not text and not issubclass(tensor.dtype, np.floating)
    values = []
    for position, row in enumerate(rows):
        line = [row.get(name) for name in names]
        if None in line and exact:
            raise _missing(position, names[line.index(None)])
        values.append([("" if text else np.nan) if value is None else value for value in line])
    return np.array(values, object if text else tensor.dtype).reshape(len(rows), len(names))


def _missing(row: int, column: str) -> InvalidInput:
    return InvalidInput(
        f"inputs[{row}].{column} is missing, and this model cannot do without it",
        remedy="send a value",
        values={"row": row, "field": column, "found": None},
    )
