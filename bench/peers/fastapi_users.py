"""FastAPI as users write it: a validated body, scikit-learn's way of asking the model. ``fastapi_users.py MODEL PORT``."""

import sys

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, create_model

model = joblib.load(f"{sys.argv[1]}/classifier.joblib")
names = [f"feature_{place}" for place in range(model.n_features_in_)]
Row = create_model("Row", **{name: (float, ...) for name in names})


class Body(BaseModel):
    """What a client sends."""

    inputs: list[Row]


class Answer(BaseModel):
    """What it gets."""

    predictions: list[float]


app = FastAPI()


@app.post("/predict")
def predict(body: Body) -> Answer:
    """Return the chance of class 1 for each row."""
    matrix = np.array([[getattr(row, name) for name in names] for row in body.inputs])
    return Answer(predictions=model.predict_proba(matrix)[:, 1].tolist())


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning")
