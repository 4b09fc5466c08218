"""The reference: a model folder's answers, vectorised, by the libraries that made it. The runtimes are held against this."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from kaizenml.training import calibration, learners, model_file
from kaizenml.training.task import Task


def predict(folder: Path, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Answer rows with a model folder.

    Parameters
    ----------
    folder : holds ``model.json`` and the members' files.
    vectors : float32 (rows, encoder.width), as the model's encoder gives them.

    Returns
    -------
    Probabilities (rows, classes) in the order of the signature's classes; (rows,) for regression.
    """
    spec = model_file.read(folder)
    signature = spec.signature
    task = Task(kind=signature.task, target=signature.target, classes=signature.classes)
    total = np.zeros((len(vectors), len(task.classes)) if task.classes else len(vectors))
    for member in spec.members:
        total += member.weight * learners.load(member.kind, folder / member.file, task)(vectors)
    return total if task.kind == "regression" else calibration.apply(spec.calibration, total)
