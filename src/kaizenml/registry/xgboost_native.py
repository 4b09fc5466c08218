"""XGBoost's own library without its Python package: a model file (JSON or UBJSON) becomes a handle, a vector becomes scores.

Importing ``xgboost`` loads pandas, scipy and scikit-learn; serving needs one function of the shared library behind it. It takes
vectors in place, without making a matrix of its own first. Hot path: imports only the standard library and numpy.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaizenml.errors import Corrupt, MissingExtra
from kaizenml.registry.linear_runtime import sigmoid, softmax
from kaizenml.registry.runtime import Takes

_VALUE = 0  # the objective's own link is applied
_MARGIN = 1


class XGBoost:
    """A trained XGBoost model behind a handle of its own. Answers are those of ``Booster.inplace_predict``, to the bit.

    Parameters
    ----------
    path : the model as XGBoost saves it, JSON or UBJSON.
    width : the length of the vectors.
    rounds : use so many of the first rounds (models that stopped early and kept them all); 0: all.
    link : applied to raw scores, for objectives that answer with a class or with scores instead of probabilities.

    Raises
    ------
    Corrupt : the file is not a model, or a model of other vectors.
    MissingExtra : the library is not installed.
    """

    takes: Takes = "vectors"
    blocks = False
    batches = False

    def __init__(self, path: Path, width: int, *, rounds: int = 0, link: str = "") -> None:
        self._library = library()
        self.width = width
        self._handle = ctypes.c_void_p()
        self._check(self._library.XGBoosterCreate(None, 0, ctypes.byref(self._handle)), path)
        body = _readable(path)
        self._check(self._library.XGBoosterLoadModelFromBuffer(self._handle, body, len(body)), path)
        self._check(self._library.XGBoosterSetParam(self._handle, b"nthread", b"1"), path)
        features = ctypes.c_uint64()
        self._check(self._library.XGBoosterGetNumFeature(self._handle, ctypes.byref(features)), path)
        if features.value != width:
            raise damaged(path, f"takes {features.value} values, its encoder makes {width}")
        self._link: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = {"sigmoid": sigmoid, "softmax": softmax}.get(link)
        self._settings = json.dumps(
            {
                "type": _MARGIN if self._link else _VALUE, "training": False, "iteration_begin": 0, "iteration_end": rounds, "strict_shape": True,
                "cache_id": 0, "missing": float("nan"),
            }
        ).encode()  # fmt: skip
        self._shape = ctypes.POINTER(ctypes.c_uint64)()
        self._dimensions = ctypes.c_uint64()
        self._result = ctypes.POINTER(ctypes.c_float)()
        self._out = (ctypes.byref(self._shape), ctypes.byref(self._dimensions), ctypes.byref(self._result))
        self._row = np.zeros((1, width), np.float32)
        self._row_text = _described(self._row)  # where the row lies never changes, so it is described once

    def one(self, vector: list[float]) -> list[float]:
        """Return the outputs for one vector: one number, or one for each class. Not for several threads at once."""
        self._row[0] = vector
        outputs = self._ask(self._row_text)
        return (self._link(outputs) if self._link else outputs)[0].tolist()  # type: ignore[no-any-return]

    def many(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return (rows, outputs) for a matrix of (rows, width)."""
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        if matrix.shape[1] != self.width:
            raise ValueError(f"{matrix.shape[1]} values instead of {self.width}")
        outputs = self._ask(_described(matrix))
        return self._link(outputs) if self._link else outputs

    def close(self) -> None:
        """Give the model's memory back; the object is of no use afterwards."""
        handle, self._handle = self._handle, ctypes.c_void_p()
        if handle:
            self._library.XGBoosterFree(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def saved(self) -> dict[str, Any]:
        """Return the whole model as the library itself writes it, for those who look into its trees."""
        length, text = ctypes.c_uint64(), ctypes.c_char_p()
        self._check(
            self._library.XGBoosterSaveModelToBuffer(self._handle, b'{"format": "json"}', ctypes.byref(length), ctypes.byref(text)), Path("model")
        )
        found: dict[str, Any] = json.loads(ctypes.string_at(text, length.value))
        return found

    def _ask(self, described: bytes) -> NDArray[np.float64]:
        if self._library.XGBoosterPredictFromDense(self._handle, described, self._settings, None, *self._out):
            raise RuntimeError(_last_error(self._library))
        shape = self._shape[: self._dimensions.value]
        rows = shape[0]
        outputs = 1
        for size in shape[1:]:
            outputs *= size
        # a copy, for the library uses its memory again at the next call
        return np.ctypeslib.as_array(self._result, (rows, outputs)).astype(np.float64)

    def _check(self, failed: int, path: Path) -> None:
        if failed:
            raise damaged(path, f"is not an XGBoost model: {_last_error(self._library)}")


def _described(matrix: NDArray[np.float32]) -> bytes:
    """Write where a matrix lies in memory, as numpy's array interface and the library put it."""
    return json.dumps({"data": [matrix.ctypes.data, True], "shape": list(matrix.shape), "typestr": "<f4", "version": 3}).encode()


def _readable(path: Path) -> bytes:
    try:
        body = path.read_bytes()
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}") from None
    if not body.startswith(b"{"):
        raise damaged(path, "is not an XGBoost model in JSON or UBJSON")
    return body


def damaged(path: Path, what: str) -> Corrupt:
    return Corrupt(f"{path.name} {what}", remedy="roll back to a release whose files are whole", values={"file": str(path)})


def _last_error(found: ctypes.CDLL) -> str:
    text: bytes = found.XGBGetLastError()
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip() and "[bt]" not in line and "Stack trace" not in line]
    return " ".join(lines)[:500]


@cache
def library() -> ctypes.CDLL:
    """Return the shared library; MissingExtra when it is not installed."""
    spec = importlib.util.find_spec("xgboost")  # finds the folder, imports nothing
    places = (spec.submodule_search_locations or []) if spec else []
    found = [path for place in places for path in Path(place).glob("lib/*xgboost.*") if path.suffix in (".so", ".dylib", ".dll")]
    if not found:
        raise MissingExtra("XGBoost is not installed here, and this model needs it", remedy='pip install "kaizenml[xgboost]"')
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    loaded = ctypes.CDLL(str(found[0]))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
    loaded.XGBGetLastError.restype = text
    loaded.XGBoosterCreate.argtypes = [pointer, number, pointer]
    loaded.XGBoosterLoadModelFromBuffer.argtypes = [pointer, text, number]
    loaded.XGBoosterSetParam.argtypes = [pointer, text, text]
    loaded.XGBoosterGetNumFeature.argtypes = [pointer, pointer]
    loaded.XGBoosterSaveModelToBuffer.argtypes = [pointer, text, pointer, pointer]
    loaded.XGBoosterPredictFromDense.argtypes = [pointer, text, text, pointer, pointer, pointer, pointer]
    loaded.XGBoosterFree.argtypes = [pointer]
    return loaded
