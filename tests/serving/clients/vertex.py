"""Google's SDK for Vertex AI against our own address, as a private endpoint.

Arguments: address, (unused), rows as JSON. Prints what it got as JSON. The endpoint's description, which Google's API would give, names
our own routes; everything from there on is the SDK's.
"""

import json
import sys
from datetime import UTC, datetime

from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform
from google.cloud.aiplatform_v1 import types

PLACE = "projects/1/locations/us-central1"

if __name__ == "__main__":
    address, _, text = sys.argv[1:4]
    rows = json.loads(text)
    url = f"http://{address}"
    paths = types.PrivateEndpoints(predict_http_uri=f"{url}/v1/shop:predict", health_http_uri=f"{url}/v1/health")
    deployed = types.DeployedModel(id="2", private_endpoints=paths)
    described = types.Endpoint(
        name=f"{PLACE}/endpoints/3", network="projects/1/global/networks/local", deployed_models=[deployed], create_time=datetime.now(UTC)
    )
    aiplatform.init(project="1", location="us-central1", credentials=AnonymousCredentials())
    endpoint = aiplatform.PrivateEndpoint._construct_sdk_resource_from_gapic(described, credentials=AnonymousCredentials())
    said = endpoint.predict(instances=rows, parameters={"unit": "somebody"})
    listed = endpoint.predict(instances=[list(row.values()) for row in rows])
    raw = json.loads(endpoint.raw_predict(json.dumps({"instances": rows}), {"Content-Type": "application/json"}).data)
    found = {"ready": endpoint.health_check(), "objects": said.predictions, "lists": listed.predictions, "raw": raw, "refused": []}
    for wrong in ([{**rows[0], "price": "dear"}], [[1, 2]]):
        try:
            endpoint.predict(instances=wrong)
        except RuntimeError as error:
            found["refused"].append(str(error))
    print(json.dumps(found))
