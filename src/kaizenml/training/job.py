"""One training from material to a judged, shippable model."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kaizenml.errors import InvalidData, KaizenError
from kaizenml.features.encoding import vectorised as encoding
from kaizenml.features.encoding.encoder import Encoder
from kaizenml.features.signature import Signature
from kaizenml.settings import TaskSettings
from kaizenml.training import evaluation, fitting, model_file, recipe, scoring, segments, split
from kaizenml.training.fitting import Effort, Found, Judged
from kaizenml.training.learners import Fitted, Rows
from kaizenml.training.material import Material
from kaizenml.training.model_file import Member, ModelSpec, Naive
from kaizenml.training.recipe import Origin, Recipe
from kaizenml.training.run import BoardRow, Estimate
from kaizenml.training.split import Split

Floats = npt.NDArray[np.float64]
MINIMUM_JUDGES = 200
"""Rows newer than the champion's that the judging needs, to be on rows that the champion has not learnt from."""
ReadBy = Callable[[Signature, pa.Table], pa.Table]
"""Gives rows of the material as the model of a signature reads them."""


class Champion(NamedTuple):
    """The model that answers now."""

    folder: Path
    known: bool  # whether it says what it was made from; an imported model does not
    trained_to: float | None


class Made(NamedTuple):
    """A model, ready to be written."""

    material: Material
    recipe: Recipe
    encoder: Encoder
    members: list[Fitted]
    naive: Naive
    board: list[BoardRow]
    gains: dict[str, Estimate]  # by how much the ensemble loses less than naive and than the champion, row by row on the hold-out
    split: dict[str, Any]

    def signature(self, settings: TaskSettings) -> Signature:
        """Return the model's signature."""
        return self.material.signature(settings)

    def write(self, folder: Path, run_id: str, settings: TaskSettings) -> None:
        """Write the model folder's files."""
        members = []
        for weight, fitted in zip(self.recipe.weights, self.members, strict=True):
            file = f"{fitted.plan.name}.{'txt' if fitted.plan.kind == 'lightgbm' else 'json'}"
            (folder / file).write_text(fitted.text, encoding="utf-8")
            members.append(Member(name=fitted.plan.name, kind=fitted.plan.kind, file=file, weight=weight, trees=fitted.trees))
        signature, calibration = self.signature(settings), self.recipe.calibration
        material = self.material
        spec = ModelSpec(
            signature=signature, encoder=self.encoder, members=members, calibration=calibration, naive=self.naive,
            segments=segments.learn(material.table, material.fields, material.y, material.task.classes),
        )  # fmt: skip
        model_file.write(folder, spec)
        times = self.material.times
        newest = None if times is None or np.isnan(times).all() else float(np.nanmax(times))
        recipe.write(folder, Origin(run=run_id, dataset=self.material.ref, rows=len(self.material.y), trained_to=newest, recipe=self.recipe))


class Job:
    """Splits, searches, judges and ships one model."""

    def __init__(self, material: Material, effort: Effort, champion_folder: Path | None, read_by: ReadBy) -> None:
        self.material = material
        self.effort = effort
        self.champion = _champion(champion_folder)
        self._read_by = read_by
        self.stratify = material.task.kind != "regression"
        self.split = self._split()

    def run(self, known: Recipe | None) -> Made:
        """Find a recipe (or take the one that is known), judge it on the hold-out, and fit it on all rows."""
        material, effort, task = self.material, self.effort, self.material.task
        rows, holdout = self._encoded()
        found: Found | None = None
        if known is None:
            order = np.arange(len(rows.y), dtype=np.int64)
            pairs = split.folds(order, rows.y, self.split.by, stratify=self.stratify, seed=effort.seed)
            self._check_pairs(rows.y, pairs)
            found = fitting.search(rows, pairs, task, [field.name for field in material.fields], effort=effort, total_rows=len(material.y))
        chosen = known or (found.recipe if found else known)
        assert chosen is not None
        encoder = encoding.learn(material.table, material.fields, accepts=material.accepts)
        everything = Rows(encoding.encode(encoder, material.table), material.y, encoder.categorical, encoder.onehot)
        where = "newest rows" if self.split.by == "time" else "hold-out"
        effort.progress(f"judging on the {where}, fitting on all rows", 0.75)
        judged, members = fitting.judge_and_make(chosen, rows, holdout.vectors, everything, task=task, effort=effort, refit=known is not None)
        effort.progress("comparing", 0.95)
        board, gains = self._board(rows, holdout, judged, found)
        return Made(material, chosen, encoder, members, self._naive(material.y), board, gains, self._described())

    def _split(self) -> Split:
        """Hold out the newest fifth; against a champion, at most the newer half of the rows that it has not learnt from.

        So the champion is judged on rows it does not know, and a candidate that learnt from newer rows can show what they
        are worth.
        """
        y, times = self.material.y, self.material.times
        share = split.HOLDOUT
        if self.champion and self.champion.trained_to is not None and times is not None:
            newer = int((times > self.champion.trained_to).sum())
            if newer >= 2 * MINIMUM_JUDGES:
                share = min(share, newer / 2 / len(y))
        return split.holdout(y, times, stratify=self.stratify, seed=self.effort.seed, share=share)

    def _encoded(self) -> tuple[Rows, Rows]:
        """Return the training rows and the hold-out as vectors; the encoder learns from the training rows only."""
        table, y, parts = self.material.table, self.material.y, self.split
        older = split.rows_at(table, parts.train)
        encoder = encoding.learn(older, self.material.fields, accepts=())
        newer = split.rows_at(table, parts.holdout)
        rows = Rows(encoding.encode(encoder, older), y[parts.train], encoder.categorical, encoder.onehot)
        return rows, Rows(encoding.encode(encoder, newer), y[parts.holdout], encoder.categorical, encoder.onehot)

    def _check_pairs(self, y: Floats, pairs: list[tuple[split.Indices, split.Indices]]) -> None:
        if self.material.task.kind == "regression":
            return
        for fit, _ in pairs:
            if len(np.unique(y[fit])) < 2:
                only = self.material.task.classes[int(y[fit[0]])]
                raise InvalidData(
                    f"the oldest {len(fit)} rows with a target have the class {only!r} only; what comes later cannot be learnt from them",
                    remedy="add older rows of the other class, or remove `time` under [task] if the rows are in no order of time",
                    values={"target": self.material.task.target, "rows": len(fit), "class": only},
                )

    def _board(self, rows: Rows, holdout: Rows, judged: Judged, found: Found | None) -> tuple[list[BoardRow], dict[str, Estimate]]:
        kind, y = self.material.task.kind, holdout.y
        times = self.material.times
        blocks = evaluation.blocks_of(None if times is None else times[self.split.holdout])

        def row(name: str, prediction: Floats, seconds: float, note: str = "") -> BoardRow:
            return BoardRow(name=name, metrics=evaluation.metrics(kind, prediction, y, blocks), seconds=seconds, note=note)

        naive = self._naive(rows.y)
        constant = np.full(len(y), float(naive.value)) if naive.probabilities is None else np.tile(np.array(naive.probabilities), (len(y), 1))
        board = [row("naive", constant, 0.0, "the answer without a model")]
        others = {name: fitted for name, fitted in found.fitted.items() if name not in judged.members} if found else {}
        for name, prediction in judged.members.items():
            board.append(row(name, prediction, judged.seconds[name], "in the ensemble"))
        for name, fitted in others.items():
            board.append(row(name, fitted.predict(holdout.vectors), fitted.seconds, "not in the ensemble; learnt from the search's rows only"))
        board.append(row("ensemble", judged.ensemble, sum(judged.seconds.values()), _mixture(judged)))
        board += [BoardRow(name=name, metrics={}, seconds=0.0, note=note) for name, note in (found.notes if found else {}).items()]
        gains = {"naive": evaluation.difference(kind, judged.ensemble, constant, y, blocks)}
        if self.champion is None:
            return board, gains
        if unfair := self._unfair(self.champion):
            return [*board, BoardRow(name="champion", metrics={}, seconds=0.0, note=unfair)], gains
        started = time.perf_counter()
        try:
            theirs = self._champion_answers(self.champion)
        except KaizenError as error:  # a champion of other columns or classes; the gate decides what that means
            return [*board, BoardRow(name="champion", metrics={}, seconds=0.0, note=f"could not be judged: {error.what}")], gains
        note = "on rows it has not learnt from" if self.champion.known else "what it has learnt from is not known"
        board.append(row("champion", theirs, time.perf_counter() - started, note))
        return board, {**gains, "champion": evaluation.difference(kind, judged.ensemble, theirs, y, blocks)}

    def _unfair(self, champion: Champion) -> str:
        """Say why these rows cannot judge the champion: what it has learnt by heart says nothing about what comes. Empty: they can."""
        if not champion.known:
            return ""
        times = self.material.times
        if times is None or champion.trained_to is None:
            return "was not judged: without times nobody can tell which of these rows it has learnt from"
        held = times[self.split.holdout]
        seen = int((np.isnan(held) | (held <= champion.trained_to)).sum())
        return f"was not judged: it has learnt from {seen} of these {len(held)} rows" if seen else ""

    def _champion_answers(self, champion: Champion) -> Floats:
        spec = model_file.read(champion.folder)
        newer = self._read_by(spec.signature, split.rows_at(self.material.table, self.split.holdout))
        answers = scoring.predict(champion.folder, encoding.encode(spec.encoder, newer))
        classes = self.material.task.classes
        if spec.signature.task == "regression" or spec.signature.classes == classes:
            return answers
        aligned = np.zeros((len(answers), len(classes)))
        for place, value in enumerate(spec.signature.classes):
            if value in classes:
                aligned[:, classes.index(value)] = answers[:, place]
        return aligned

    def _naive(self, y: Floats) -> Naive:
        classes = self.material.task.classes
        if not classes:
            return Naive(value=float(y.mean()))
        shares = np.bincount(y.astype(np.int64), minlength=len(classes)) / len(y)
        return Naive(value=classes[int(shares.argmax())], probabilities=shares.tolist())

    def _described(self) -> dict[str, Any]:
        times, parts = self.material.times, self.split
        described: dict[str, Any] = {"by": parts.by, "train_rows": len(parts.train), "holdout_rows": len(parts.holdout), "from": None, "to": None}
        if times is not None and not np.isnan(times[parts.holdout]).all():
            held = times[parts.holdout]
            described |= {"from": float(np.nanmin(held)), "to": float(np.nanmax(held))}
        return described


def _champion(folder: Path | None) -> Champion | None:
    if folder is None:
        return None
    origin = recipe.read(folder)
    return Champion(folder, origin is not None, origin.trained_to if origin else None)


def _mixture(judged: Judged) -> str:
    return "; ".join(judged.members)
