"""Files of models made elsewhere: told by what they hold, never by their ending. Pickles are refused, whatever they are called."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from kaizenml.errors import InvalidData, NotFound
from kaizenml.registry import onnx_file, skops_file

MOST_BYTES = 2_000_000_000  # an ONNX file cannot be larger than this without keeping its weights in other files
_HEAD = 4096
_EXPORT = "export it where it was made and is trusted: scikit-learn to skops or ONNX, PyTorch and Keras to ONNX, boosted trees to their own format"
_PICKLE = "loading a pickle runs whatever its author wrote into it, so none is ever loaded"
_TEXT_PICKLE = re.compile(rb"\A(?:[(\]}]|c[\w.]+\n[\w.]+\n|[(]*[lid][pq]?\d*\n|\(?c[\w.]+\n)")
_OTHERS = {
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file (Keras, or a Pandas store)", "export the model to ONNX: model.export('model.onnx', format='onnx')"),
    b"CBM1": ("a CatBoost model in its own binary format", "save it as ONNX: model.save_model('model.onnx', format='onnx')"),
    b"GGUF": ("a GGUF file of a language model", "serve it with a server for language models"),
    b"<?xml": ("XML (PMML?)", _EXPORT),
    b"\x93NUMPY": ("a numpy array", _EXPORT),
    b"\x28\xb5\x2f\xfd": ("a zstd file", "unpack it"),
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x5d\x00\x00": "lzma", b"\x78\x01": "zlib", b"\x78\x9c": "zlib", b"\x78\xda": "zlib",
    b"ZF": "joblib",
}  # fmt: skip


def identify(path: Path) -> str:
    """Return the kind of model in a file: ``lightgbm``, ``xgboost``, ``onnx``, ``sklearn`` (skops) or ``python``.

    Raises
    ------
    NotFound : there is no such file.
    InvalidData : a pickle in whatever dress, or a format that is not served; says which, and what to do.
    """
    if path.is_dir():
        raise InvalidData(f"{path.name} is a folder, not a model file", remedy="export the model to one ONNX file", values={"file": str(path)})
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        raise NotFound(f"there is no file {str(path)!r}", remedy="name the model's file", values={"file": str(path)}) from None
    except OSError as error:
        raise InvalidData(f"{path.name} cannot be read: {error.strerror}", remedy="mend that", values={"file": str(path)}) from None
    if size > MOST_BYTES:
        raise _refused(path, f"has {size:,} bytes; {MOST_BYTES:,} at most are taken", "serve so large a model with a server of its own")
    if path.suffix == ".py":
        return "python"
    if head.startswith(b"PK"):
        return _archive(path)
    _refuse_pickles(path, head)
    for mark, (what, remedy) in _OTHERS.items():
        if head.startswith(mark):
            raise _refused(path, f"is {what}, which is not served", remedy)
    if head.startswith(b"tree\n"):
        return "lightgbm"
    if head.startswith(b"{"):
        if b"learner" in head:
            return "xgboost"
        if b'"oblivious_trees"' in head or b'"features_info"' in head:
            raise _refused(path, "is a CatBoost model in JSON, which is not served", "save it as ONNX: model.save_model('model.onnx', format='onnx')")
        raise _refused(path, "is JSON, but no XGBoost model", "save it with Booster.save_model")
    if head.startswith(b"\x08"):
        try:
            onnx_file.look(path.read_bytes())
        except ValueError as error:
            raise _refused(path, str(error), "save it again as one whole ONNX file") from None
        return "onnx"
    raise _refused(path, "is no model of a kind that is known here (ONNX, LightGBM text, XGBoost JSON or UBJSON, skops, a Python file)", _EXPORT)


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:1000]
    except skops_file.BROKEN as error:
        raise _refused(path, f"is not a whole archive: {error}", _EXPORT) from None
    if skops_file.is_skops(path):
        return "sklearn"
    if any(name.endswith(("data.pkl", ".pkl", ".pickle")) for name in names):
        remedy = "export it with torch.onnx.export(model, inputs, 'model.onnx')"
        raise _refused(path, f"is a PyTorch archive, which holds a pickle; {_PICKLE}", remedy)
    if "config.json" in names and any(name.endswith(".h5") for name in names):
        raise _refused(path, "is a Keras archive, which is not served", "export the model to ONNX: model.export('model.onnx', format='onnx')")
    raise _refused(path, "is an archive, but no skops file", _EXPORT)


def _refuse_pickles(path: Path, head: bytes) -> None:
    binary = head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if binary or (_TEXT_PICKLE.match(head) and not head.startswith(b"{")):
        raise _refused(path, f"is a pickle; {_PICKLE}", _EXPORT)
    for mark, name in _COMPRESSED.items():
        if head.startswith(mark):
            raise _refused(path, f"is packed with {name}, as joblib packs pickles; {_PICKLE}", _EXPORT)


def _refused(path: Path, what: str, remedy: str) -> InvalidData:
    return InvalidData(f"{path.name} {what}", remedy=remedy, values={"file": str(path)})
