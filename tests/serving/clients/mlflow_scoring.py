"""MLflow's client of scoring servers. Arguments: address, (unused), rows as JSON. Prints what it got as JSON."""

import json
import sys

import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    rows = json.loads(sys.argv[3])
    client = ScoringServerClient(host, port)
    client.wait_server_ready(timeout=5)
    frame = pd.DataFrame(rows)
    payloads = {
        "dataframe_split": frame,
        "dataframe_records": json.dumps({"dataframe_records": frame.astype(object).where(frame.notna(), None).to_dict(orient="records")}),
        "inputs": rows,
        "instances": json.dumps({"instances": rows}),
    }
    found = {name: json.loads(client.invoke(data, params={"unit": "u"} if name == "inputs" else None).to_json()) for name, data in payloads.items()}
    try:
        client.invoke(frame.rename(columns={"price": "prise"}))
    except Exception as error:  # the client raises no other
        found["refused"] = str(error)
    print(json.dumps(found))
