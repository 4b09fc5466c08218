"""KServe's own clients over REST and gRPC. Arguments: address, gRPC address, rows as JSON. Prints what it got as JSON."""

import asyncio
import json
import sys

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numbers_of import numbers_of

KINDS = {
    "price": ("FP64", np.float64), "size": ("BYTES", object), "count": ("INT64", np.int64), "gift": ("BOOL", np.bool_), "ordered": ("BYTES", object),
}  # fmt: skip


def request(rows: list[dict], binary: bool) -> InferRequest:
    inputs = []
    for name, (kind, dtype) in KINDS.items():
        values = np.array([np.nan if row[name] is None and binary else row[name] for row in rows], dtype)
        inputs.append(InferInput(name, [len(rows)], kind))
        inputs[-1].set_data_from_numpy(values, binary_data=binary)
    return InferRequest("shop", inputs, request_id="42")


def told(answer) -> dict:
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    return {"id": answer.id, "predict": outputs["predict"].tolist(), "probabilities": outputs["probabilities"].ravel().tolist()}


async def rest(address: str, rows: list[dict]) -> dict:
    url = f"http://{address}"
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        found = {
            "ready": [await client.is_server_live(url), await client.is_server_ready(url), await client.is_model_ready(url, "shop")],
            "binary": told(await client.infer(url, request(rows, True), model_name="shop")),
            "json": told(await client.infer(url, request(rows[:1], False), model_name="shop")),
        }
        try:
            await client.infer(url, request(rows, True), model_name="shp")
        except httpx.HTTPStatusError as error:
            found["refused"] = [error.response.status_code, str(error), error.response.json()["error"]]
    return found


async def rpc(address: str, rows: list[dict]) -> dict:
    async with InferenceGRPCClient(address) as client:
        found = {
            "ready": [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("shop")],
            "binary": told(await client.infer(request(rows, True))),
            "json": told(await client.infer(request(rows[:1], False))),
        }
        try:
            await client.is_model_ready("shp")
        except grpc.RpcError as error:
            found["refused"] = [error.code().name, error.details()]
    async with grpc.aio.insecure_channel(address) as channel:
        loaded = await GRPCInferenceServiceStub(channel).RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="shop"))
        found["loaded"] = [loaded.model_name, loaded.isLoaded]
    return found


if __name__ == "__main__":
    sent = json.loads(sys.argv[3])
    ways = {"http": asyncio.run(rest(sys.argv[1], sent)), "grpc": asyncio.run(rpc(sys.argv[2], sent))}
    print(json.dumps({**ways, "numbers": numbers_of(messages.DESCRIPTOR)}))
