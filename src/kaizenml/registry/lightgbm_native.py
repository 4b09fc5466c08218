"""LightGBM's own library without its Python package: a model file becomes a handle, a vector becomes scores.

Importing ``lightgbm`` loads scipy, scikit-learn and pandas (145 MB, 1.8 s). Serving needs three functions of the
shared library behind it: 31 MB and 0.05 s to the first answer. Hot path: imports only the standard library and numpy.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kaizenml.errors import Corrupt, MissingExtra
from kaizenml.registry.runtime import Takes
from kaizenml.registry.tree_tables import TreeTables, Unsuited

_FLOAT32 = 0  # C_API_DTYPE_FLOAT32
_FLOAT64 = 1  # C_API_DTYPE_FLOAT64
_NORMAL = 0  # C_API_PREDICT_NORMAL: the objective's own link is applied
_ROW_MAJOR = 1
_ALL = -1  # every iteration
_FEWEST = 16  # rows for which tables are quicker than walking the trees
_PROBES = 64
_PARAMETERS = b"num_threads=1 verbosity=-1 predict_disable_shape_check=false"


class LightGBM:
    """A trained LightGBM model behind a handle of its own. Answers are those of ``Booster.predict``, to the bit.

    Of many vectors at once too, where ``tree_tables`` scores them instead of the library.

    Parameters
    ----------
    path : the model in LightGBM's text format.
    width : the length of the vectors.
    wide : vectors are float64, as those that other people's models were trained on; ours are float32.

    Raises
    ------
    Corrupt : the file is not a model, or a model of other vectors.
    """

    blocks = False
    batches = False

    def __init__(self, path: Path, width: int, *, wide: bool = False) -> None:
        self.takes: Takes = "wide" if wide else "vectors"
        self._dtype: type[np.float32] | type[np.float64] = np.float64 if wide else np.float32
        self._kind = _FLOAT64 if wide else _FLOAT32
        self._library = _library()
        self._quick = _quick_library().LGBM_BoosterPredictForMatSingleRowFast
        self.width = width
        self._handle = ctypes.c_void_p()
        self._fast = ctypes.c_void_p()
        iterations = ctypes.c_int()
        text = _readable(path)
        self._check(self._library.LGBM_BoosterLoadModelFromString(text, ctypes.byref(iterations), ctypes.byref(self._handle)), path)
        self.iterations = iterations.value
        self.outputs = self._number(self._library.LGBM_BoosterGetNumClasses, path)
        features = self._number(self._library.LGBM_BoosterGetNumFeature, path)
        if features != width:
            raise _damaged(path, f"takes {features} values, its encoder makes {width}")
        self._check(
            self._library.LGBM_BoosterPredictForMatSingleRowFastInit(
                self._handle, _NORMAL, 0, _ALL, self._kind, width, _PARAMETERS, ctypes.byref(self._fast)
            ),
            path,
        )
        self._row = ((ctypes.c_double if wide else ctypes.c_float) * width)()
        self._result = (ctypes.c_double * self.outputs)()
        self._length = ctypes.c_int64()
        # made once: building these objects costs more than the trees of a small model
        self._call = (self._fast, ctypes.byref(self._row), ctypes.byref(self._length), ctypes.byref(self._result))
        self._tables = None if wide else self._proven(text)  # tables are of float32

    def one(self, vector: list[float]) -> list[float]:
        """Return the outputs for one vector: one number, or one for each class. Not for several threads at once."""
        self._row[:] = vector  # floats become C's here
        if self._quick(*self._call):
            raise RuntimeError(self._last_error())
        return self._result[:]

    def many(self, vectors: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Return (rows, outputs) for a C-contiguous matrix of (rows, width)."""
        matrix: NDArray[Any] = np.ascontiguousarray(vectors, dtype=self._dtype)
        rows, width = matrix.shape
        if width != self.width:
            raise ValueError(f"{width} values instead of {self.width}")
        return self._tables.scores(matrix) if self._tables is not None and rows >= _FEWEST else self._walked(matrix)

    def _walked(self, matrix: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        rows, width = matrix.shape
        result = np.empty((rows, self.outputs), dtype=np.float64)
        if rows and self._library.LGBM_BoosterPredictForMat(
            self._handle, matrix.ctypes.data_as(ctypes.c_void_p), self._kind, rows, width, _ROW_MAJOR, _NORMAL, 0, _ALL, _PARAMETERS,
            ctypes.byref(ctypes.c_int64()), result.ctypes.data_as(ctypes.POINTER(ctypes.c_double)),
        ):  # fmt: skip
            raise RuntimeError(self._last_error())
        return result

    def close(self) -> None:
        """Give the model's memory back; the object is of no use afterwards."""
        fast, self._fast = self._fast, ctypes.c_void_p()
        handle, self._handle = self._handle, ctypes.c_void_p()
        if fast:
            self._library.LGBM_FastConfigFree(fast)
        if handle:
            self._library.LGBM_BoosterFree(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()

    def _proven(self, text: bytes) -> TreeTables | None:
        """Return the model as tables; None where there are none for it, or where they do not give what the library gives."""
        try:
            tables = TreeTables(text.decode())
            probes = tables.probes(self.width, _PROBES)
            found = tables.scores(probes)
        except (Unsuited, ValueError, KeyError, IndexError, OverflowError):
            return None
        return tables if np.array_equal(found, self._walked(probes)) else None

    def _number(self, function: ctypes._NamedFuncPointer, path: Path) -> int:
        found = ctypes.c_int()
        self._check(function(self._handle, ctypes.byref(found)), path)
        return found.value

    def _check(self, failed: int, path: Path) -> None:
        if failed:
            raise _damaged(path, f"is not a LightGBM model: {self._last_error()}")

    def _last_error(self) -> str:
        text: bytes = self._library.LGBM_GetLastError()
        return text.decode("utf-8", "replace")


def _readable(path: Path) -> bytes:
    """Read the text, refusing what makes the library's parser abort the process instead of saying no."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"cannot be read: {error.strerror}") from None
    if not text.startswith(b"tree\n") or b"\nend of trees" not in text or b"\0" in text:
        raise _damaged(path, "is not a whole LightGBM model")
    return text


def _damaged(path: Path, what: str) -> Corrupt:
    return Corrupt(f"{path.name} {what}", remedy="roll back to a release whose files are whole", values={"file": str(path)})


@cache
def _library_path() -> str:
    spec = importlib.util.find_spec("lightgbm")  # finds the folder, imports nothing
    found = [path for place in (spec.submodule_search_locations or []) for path in Path(place).glob("**/lib_lightgbm.*")] if spec else []
    libraries = [path for path in found if path.suffix in (".so", ".dylib", ".dll")]
    if not libraries:
        raise MissingExtra("LightGBM is not installed here, and this model needs it", remedy="pip install lightgbm")
    return str(libraries[0])


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_library_path())
    pointer, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    library.LGBM_GetLastError.restype = text
    library.LGBM_BoosterPredictForMatSingleRowFastInit.argtypes = [pointer, number, number, number, number, ctypes.c_int32, text, pointer]
    library.LGBM_BoosterPredictForMat.argtypes = [
        pointer, pointer, number, ctypes.c_int32, ctypes.c_int32, number, number, number, number, text, pointer, pointer,
    ]  # fmt: skip
    for name in ("LGBM_BoosterFree", "LGBM_FastConfigFree"):
        getattr(library, name).argtypes = [pointer]
    return library


@cache
def _quick_library() -> ctypes.PyDLL:
    # keeps the interpreter's lock: one prediction takes microseconds, giving the lock away and back costs more
    library = ctypes.PyDLL(_library_path())
    library.LGBM_BoosterPredictForMatSingleRowFast.argtypes = [ctypes.c_void_p] * 4
    return library
