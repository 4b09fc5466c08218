"""A LitServe API with one worker, without batching. ``litserve_api.py MODEL PORT``."""

import sys

import lightgbm
import litserve
import numpy as np


class Trees(litserve.LitAPI):
    """The model."""

    def setup(self, device):
        """Load it in the worker."""
        self.booster = lightgbm.Booster(model_file=f"{sys.argv[1]}/m.txt")

    def decode_request(self, request):
        """Return the rows as a matrix."""
        return np.array(request["instances"])

    def predict(self, x):
        """Return the chance of class 1 for each row."""
        return self.booster.predict(x, num_threads=1)

    def encode_response(self, output):
        """Return what is sent."""
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Trees(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning", access_log=False)
