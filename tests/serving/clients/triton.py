"""Triton's own client over HTTP and gRPC. Arguments: address, gRPC address, rows as JSON. Prints what it got as JSON."""

import json
import sys

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numbers_of import numbers_of
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

KINDS = {
    "price": ("FP64", np.float64), "size": ("BYTES", object), "count": ("INT64", np.int64), "gift": ("BOOL", np.bool_), "ordered": ("BYTES", object),
}  # fmt: skip


def refused(call):
    """Return the status and message of a refusal; else what was returned."""
    try:
        return call()
    except InferenceServerException as error:
        return [error.status(), error.message()]


def ask(module, address: str, rows: list[dict]) -> dict:
    client = module.InferenceServerClient(address)
    found = {
        "ready": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("shop"), client.is_model_ready("shop", "2")],
        "unready": refused(lambda: client.is_model_ready("shop", "9")),
    }
    more = {"as_json": True} if module is tritonclient.grpc else {}
    metadata = client.get_model_metadata("shop", **more)
    found["inputs"] = [[one["name"], one["datatype"]] for one in metadata["inputs"]]
    found["versions"] = metadata["versions"]
    found["server"] = client.get_server_metadata(**more)["name"]
    index = client.get_model_repository_index(**more)
    found["index"] = [[one["name"], one["version"], one["state"]] for one in (index["models"] if more else index)]
    client.load_model("shop")
    inputs = []
    for name, (kind, dtype) in KINDS.items():
        values = [np.nan if row[name] is None else row[name] for row in rows]
        inputs.append(module.InferInput(name, [len(rows)], kind))
        inputs[-1].set_data_from_numpy(np.array(values, dtype))
    answer = client.infer("shop", inputs, model_version="1", request_id="42")
    found["id"] = answer.get_response(**more)["id"]
    found["predict"] = answer.as_numpy("predict").tolist()
    found["probabilities"] = answer.as_numpy("probabilities").tolist()
    found["ids"] = [text.decode() for text in answer.as_numpy("id").tolist()]
    one = client.infer("shop", inputs, outputs=[module.InferRequestedOutput("probabilities")])
    found["alone"] = one.as_numpy("predict") is None and one.as_numpy("probabilities").tolist() == found["probabilities"]
    wrong = (lambda: client.infer("shp", inputs), lambda: client.infer("shop", inputs[:4]), lambda: client.unload_model("shop"))
    found["refused"] = [refused(one) for one in wrong]
    client.close()
    return found


if __name__ == "__main__":
    sent = json.loads(sys.argv[3])
    ways = {"http": ask(tritonclient.http, sys.argv[1], sent), "grpc": ask(tritonclient.grpc, sys.argv[2], sent)}
    print(json.dumps({**ways, "numbers": numbers_of(service_pb2.DESCRIPTOR)}))
