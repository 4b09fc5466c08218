"""A BentoML service with one worker, its access log off. ``bentoml serve bentoml_service:Trees``; the model by MODEL."""

import os

import bentoml
import lightgbm
import numpy as np


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Trees:
    """The model."""

    def __init__(self) -> None:
        self.booster = lightgbm.Booster(model_file=f"{os.environ['MODEL']}/m.txt")

    @bentoml.api
    def predict(self, rows: list[list[float]]) -> list[float]:
        """Return the chance of class 1 for each row."""
        return self.booster.predict(np.array(rows), num_threads=1).tolist()
