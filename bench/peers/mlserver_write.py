"""Write the settings of an MLServer with its own LightGBM runtime. ``mlserver_write.py MODEL FOLDER PORT PORT PORT``.

Without parallel workers: then it is one process, which costs it least.
"""

import json
import pathlib
import sys

folder = pathlib.Path(sys.argv[2])
folder.mkdir()
http, grpc, metrics = map(int, sys.argv[3:])
server = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics, "parallel_workers": 0, "debug": False}
model = {"name": "bench", "implementation": "mlserver_lightgbm.LightGBMModel", "parameters": {"uri": f"{sys.argv[1]}/m.txt"}}
(folder / "settings.json").write_text(json.dumps(server), encoding="utf-8")
(folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
