"""KServe's Python server with one model, its access log off. ``kserve_model.py MODEL --http_port PORT``."""

import logging
import sys

import kserve
import lightgbm
from kserve import InferOutput, InferRequest, InferResponse
from kserve.utils.utils import generate_uuid


class Trees(kserve.Model):
    """The model."""

    def load(self):
        """Load it."""
        self.booster = lightgbm.Booster(model_file=f"{sys.argv[1]}/m.txt")
        self.ready = True
        return self.ready

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        """Return the chance of class 1 for each row."""
        chances = self.booster.predict(payload.inputs[0].as_numpy(), num_threads=1)
        answer = InferOutput(name="predict", shape=list(chances.shape), datatype="FP64", data=chances.tolist())
        return InferResponse(response_id=payload.id or generate_uuid(), model_name=self.name, infer_outputs=[answer])


if __name__ == "__main__":
    parser = kserve.model_server.parser
    given, _ = parser.parse_known_args(sys.argv[2:])
    model = Trees("bench")
    model.load()
    server = kserve.ModelServer(http_port=given.http_port, workers=1, enable_grpc=False, access_log_format=None)
    logging.getLogger("kserve.trace").disabled = True
    logging.getLogger("uvicorn.access").disabled = True
    server.start([model])
