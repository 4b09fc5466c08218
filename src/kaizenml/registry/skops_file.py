"""scikit-learn models in skops files (``kaizenml[sklearn-import]``), under limits and an allow-list of our own.

skops loads what it trusts by default (scikit-learn's estimators, numpy, scipy) and what the caller names. What is named here is
fixed: never what the file itself asks for. It checks types, not contents: a crafted tree can still crash the process that asks it,
so such models are loaded in a process of their own only (``own_process``, ``trial``).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from kaizenml.errors import Corrupt, MissingExtra

ALLOWED = (
    "collections.OrderedDict",
    "collections.defaultdict",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.compose._column_transformer._RemainderColsList",
    "sklearn.compose._column_transformer.make_column_selector",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.linear_model._sgd_fast.EpsilonInsensitive",
    "sklearn.linear_model._sgd_fast.Hinge",
    "sklearn.linear_model._sgd_fast.ModifiedHuber",
    "sklearn.linear_model._sgd_fast.SquaredHinge",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""Types that fitted scikit-learn models hold and skops does not trust by itself: they hold numbers, and run nothing when loaded."""

MOST_MEMBERS = 20_000
MOST_BYTES = 1 << 30
MOST_SCHEMA_BYTES = 64 << 20
MOST_RATIO = 200  # of bytes to compressed bytes, over all; skops itself does not compress
SMALL = 10 << 20  # below it a high ratio harms nobody
SCHEMA = "schema.json"
BROKEN = (OSError, zipfile.BadZipFile, ValueError, NotImplementedError)  # the last: an archive says that it needs a later version of the format


def is_skops(path: Path) -> bool:
    """Whether a zip archive holds what a skops file must hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            return SCHEMA in archive.namelist()
    except BROKEN:
        return False


def look(path: Path) -> None:
    """Refuse an archive that unpacks to more than a model should, before anything is unpacked.

    Raises
    ------
    Corrupt : it is not a whole archive, claims too many members or bytes, or a member whose name leads elsewhere.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except BROKEN as error:
        raise _refused(path, f"is not a whole archive: {error}") from None
    total, packed = sum(each.file_size for each in members), sum(each.compress_size for each in members)
    if len(members) > MOST_MEMBERS:
        raise _refused(path, f"has {len(members):,} members; {MOST_MEMBERS:,} at most are taken")
    if total > MOST_BYTES:
        raise _refused(path, f"unpacks to {total:,} bytes; {MOST_BYTES:,} at most are taken")
    if total > SMALL and total > MOST_RATIO * max(packed, 1):
        raise _refused(path, f"unpacks {packed:,} bytes to {total:,}, as a zip bomb does")
    for each in members:
        if each.filename.startswith(("/", "\\")) or ".." in each.filename.replace("\\", "/").split("/") or ":" in each.filename:
            raise _refused(path, f"has a member {each.filename[:100]!r}, whose name leads elsewhere")
        if each.filename == SCHEMA and each.file_size > MOST_SCHEMA_BYTES:
            raise _refused(path, f"has a {SCHEMA} of {each.file_size:,} bytes; {MOST_SCHEMA_BYTES:,} at most are taken")


def load(path: Path) -> Any:
    """Return the model in a skops file. In a process of its own only.

    Raises
    ------
    Corrupt : the archive is not whole or too large, or holds a type that is not on the list; names it.
    MissingExtra : skops is not installed.
    """
    look(path)
    try:
        import skops.io
    except ImportError:
        raise MissingExtra("skops is not installed here, and this model needs it", remedy='pip install "kaizenml[sklearn-import]"') from None
    try:
        asked = skops.io.get_untrusted_types(file=path)
        forbidden = sorted(set(asked) - set(ALLOWED))
        if forbidden:
            raise _refused(path, f"holds {', '.join(forbidden[:5])}, which no model is allowed to hold", types=forbidden[:50])
        model = skops.io.load(path, trusted=sorted(set(asked) & set(ALLOWED)))
    except Corrupt:
        raise
    except Exception as error:  # whatever a crafted schema makes of the loader
        raise _refused(path, f"cannot be loaded: {type(error).__name__}: {str(error)[:300]}") from None
    if not hasattr(model, "predict") or not type(model).__module__.startswith("sklearn."):
        raise _refused(path, f"holds a {type(model).__module__}.{type(model).__name__}, which is no scikit-learn model")
    return model


def _refused(path: Path, what: str, **values: Any) -> Corrupt:
    remedy = "do not use this file; export the model to ONNX where it is trusted"
    return Corrupt(f"{path.name} {what}", remedy=remedy, values={"file": str(path), **values})
