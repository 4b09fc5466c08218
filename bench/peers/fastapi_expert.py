"""FastAPI in the hands of an expert: async, plain lists, no scikit-learn, no validation. ``fastapi_expert.py MODEL PORT``."""

import sys

import lightgbm
import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from orjson import dumps, loads

booster = lightgbm.Booster(model_file=f"{sys.argv[1]}/m.txt")
app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Return the chance of class 1 for each row."""
    matrix = np.array(loads(await request.body())["instances"])
    chances = booster.predict(matrix, num_threads=1)
    return Response(dumps({"predictions": chances.tolist()}), media_type="application/json")


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), access_log=False, log_level="warning")
