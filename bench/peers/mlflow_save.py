"""Save the model as MLflow wants it. ``mlflow_save.py MODEL FOLDER tensor|named``; then ``mlflow models serve`` serves it."""

import sys

import lightgbm
import mlflow.lightgbm
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

booster = lightgbm.Booster(model_file=f"{sys.argv[1]}/m.txt")
width = booster.num_feature()
if sys.argv[3] == "tensor":
    signature = ModelSignature(Schema([TensorSpec(np.dtype("float64"), (-1, width))]))
else:
    signature = ModelSignature(Schema([ColSpec("double", f"feature_{place}") for place in range(width)]), Schema([ColSpec("double")]))
mlflow.lightgbm.save_model(booster, sys.argv[2], signature=signature)
