"""The AWS SDK against our own address. Arguments: address, (unused), rows as JSON. Prints what it got as JSON."""

import io
import json
import sys

import boto3
import numpy as np
from botocore.exceptions import ClientError

if __name__ == "__main__":
    address, _, text = sys.argv[1:4]
    rows = json.loads(text)
    client = boto3.client(
        "sagemaker-runtime", endpoint_url=f"http://{address}", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b"
    )

    def invoke(body: bytes | str, kind: str = "application/json", name: str = "shop", **more: str):
        answer = client.invoke_endpoint(EndpointName=name, Body=body, ContentType=kind, **more)
        return answer["InvokedProductionVariant"], answer["ContentType"], answer["Body"].read()

    plain = invoke(json.dumps({"instances": rows}))
    other = invoke(json.dumps({"instances": rows}), TargetVariant="challenger-1")
    csv = "price,size,count,gift,ordered\n" + "\n".join(",".join("" if v is None else str(v) for v in row.values()) for row in rows)
    tabled = invoke(csv, "text/csv", Accept="application/x-npy")
    found = {
        "plain": [plain[0], json.loads(plain[2])],
        "variant": [other[0], json.loads(other[2])["release"]],
        "npy": [tabled[1], np.load(io.BytesIO(tabled[2]))["probabilities"].tolist()],
        "refused": [],
    }
    for wrong in ({"name": "shp"}, {"TargetVariant": "challenger-9"}, {"kind": "text/xml"}):
        try:
            invoke(json.dumps({"instances": rows}), **wrong)
        except ClientError as error:
            found["refused"].append([error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Message"]])
    print(json.dumps(found))
