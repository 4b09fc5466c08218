"""A Ray Serve deployment with one replica, its access log off. ``ray_app.py MODEL PORT FOLDER``."""

import signal
import sys

import lightgbm
import numpy as np
import ray
from ray import serve
from starlette.requests import Request


@serve.deployment(num_replicas=1, max_ongoing_requests=100, logging_config={"enable_access_log": False})
class Trees:
    """The model."""

    def __init__(self, folder: str) -> None:
        self.booster = lightgbm.Booster(model_file=f"{folder}/m.txt")

    async def __call__(self, request: Request) -> dict:
        """Return the chance of class 1 for each row."""
        matrix = np.array((await request.json())["instances"])
        return {"predictions": self.booster.predict(matrix, num_threads=1).tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, _temp_dir=sys.argv[3], log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}, logging_config={"enable_access_log": False})
    serve.run(Trees.bind(sys.argv[1]), route_prefix="/predict")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()
