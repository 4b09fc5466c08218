"""The service that people write first: Starlette, a booster, numpy; no lineage, no journal, no checks. ``_by_hand.py MODEL``."""

from __future__ import annotations

import json
import socket
import sys

import lightgbm
import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

booster = lightgbm.Booster(model_file=sys.argv[1])
names = [f"feature_{place}" for place in range(booster.num_feature())]


async def predict(request: Request) -> JSONResponse:
    inputs = (await request.json())["inputs"]
    chances = booster.predict(np.array([[row[name] for name in names] for row in inputs]))
    return JSONResponse({"predictions": [{"value": bool(chance > 0.5), "probabilities": [1 - chance, chance]} for chance in chances.tolist()]})


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listening.getsockname()[1]}), flush=True)
    app = Starlette(routes=[Route("/predict/bench", predict, methods=["POST"])])
    uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listening])
