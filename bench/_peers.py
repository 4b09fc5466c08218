"""The servers that ours is measured beside: what each is made of, how it is asked, how its answers are read.

Each has an environment of its own below ``.bench/envs``, made by the uv that ``x`` keeps. The same LightGBM, Python and
thread count everywhere; access logs off where a server has a switch for them, so none pays for what we do not count.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from _servers import Command, Failed, free_ports, last_words

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".bench"
SCRIPTS = Path(__file__).with_name("peers")
NAMES = [f"feature_{place}" for place in range(30)]
_MODEL = ("lightgbm==4.7.0", "scikit-learn==1.9.1")
_UVICORN = ("uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")
Rows = list[list[float]]


class Peer(NamedTuple):
    """A server that others made.

    ``run`` is given the folder of its environment's programs, the model's folder, an empty folder for itself and a port.
    """

    name: str
    slug: str
    packages: Sequence[str]  # the first one names its version
    path: str
    body: Callable[[Rows], Any]
    read: Callable[[Any], list[float]]
    run: Callable[[Path, Path, Path, int], Command]
    below: tuple[int, int] | None = None  # the first Python that it does not install on
    base: Sequence[str] = _MODEL

    @property
    def version(self) -> str:
        return self.packages[0].partition("==")[2]


def environment(peer: Peer) -> Path:
    """Make a peer's environment, or find it made; return the folder of its programs.

    Raises
    ------
    Failed : there is no uv, or it cannot install the packages; with its words.
    """
    folder = CACHE / "envs" / peer.slug
    stamp = folder / ".made-of"
    wanted = hashlib.sha256(repr((sys.version, sys.executable, peer.base, peer.packages)).encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return folder / "bin"
    kept = ROOT / ".tools" / "bin" / "uv"
    uv = str(kept) if kept.exists() else shutil.which("uv")
    if uv is None:
        raise Failed("there is no uv: ./x setup fetches it")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = sys.executable if peer.below is None or sys.version_info[:2] < peer.below else f"<{peer.below[0]}.{peer.below[1]}"
    log = folder.parent / f"{peer.slug}.log"
    _say(f"installing {' '.join(peer.packages)}")
    _step([uv, "venv", "--no-python-downloads", "--python", python, str(folder)], log)
    # compiled here, or the first start of each would compile what it imports
    _step([uv, "pip", "install", "--compile-bytecode", "--python", str(folder / "bin" / "python"), *peer.base, *peer.packages], log)
    stamp.write_text(wanted, encoding="utf-8")
    return folder / "bin"


def _step(command: list[str], log: Path) -> None:
    what = " ".join(Path(part).name for part in command[:3])
    with log.open("wb") as words:
        try:
            done = subprocess.call(command, stdout=words, stderr=words, timeout=900)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failed(f"`{what}` failed: {error}") from None
    if done:
        raise Failed(f"`{what}` failed: {last_words(log)}")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _script(name: str) -> Callable[[Path, Path, Path, int], Command]:
    return lambda programs, model, _folder, port: Command([str(programs / "python"), str(SCRIPTS / name), str(model), str(port)])


def _mlflow(kind: str) -> Callable[[Path, Path, Path, int], Command]:
    def run(programs: Path, model: Path, folder: Path, port: int) -> Command:
        saved = folder.parent / f"mlflow-{kind}"
        if not saved.exists():
            _step([str(programs / "python"), str(SCRIPTS / "mlflow_save.py"), str(model), str(saved), kind], folder / "save.log")
        arguments = ["models", "serve", "--model-uri", str(saved), "--port", str(port), "--env-manager", "local", "--workers", "1"]
        return Command([str(programs / "mlflow"), *arguments], _on_path(programs), folder)

    return run


def _bentoml(programs: Path, model: Path, folder: Path, port: int) -> Command:
    arguments = ["serve", "bentoml_service:Trees", "--working-dir", str(SCRIPTS), "--host", "127.0.0.1", "--port", str(port)]
    return Command([str(programs / "bentoml"), *arguments], _on_path(programs) | {"MODEL": str(model), "BENTOML_HOME": str(folder)}, folder)


def _mlserver(programs: Path, model: Path, folder: Path, port: int) -> Command:
    settings = folder / "settings"
    ports = map(str, [port, *free_ports(2)])
    _step([str(programs / "python"), str(SCRIPTS / "mlserver_write.py"), str(model), str(settings), *ports], folder / "write.log")
    return Command([str(programs / "mlserver"), "start", str(settings)], _on_path(programs), folder)


def _ray(programs: Path, model: Path, folder: Path, port: int) -> Command:
    return Command([str(programs / "python"), str(SCRIPTS / "ray_app.py"), str(model), str(port), str(folder)], _on_path(programs), folder)


def _kserve(programs: Path, model: Path, folder: Path, port: int) -> Command:
    return Command([str(programs / "python"), str(SCRIPTS / "kserve_model.py"), str(model), "--http_port", str(port)], {}, folder)


def _on_path(programs: Path) -> dict[str, str]:
    return {"PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin"}


def _named(rows: Rows) -> Any:
    return {"inputs": [dict(zip(NAMES, row, strict=True)) for row in rows]}


def _lists(rows: Rows) -> Any:
    return {"instances": rows}


def _open_inference(rows: Rows) -> Any:
    return {"inputs": [{"name": "x", "shape": [len(rows), len(NAMES)], "datatype": "FP64", "data": [value for row in rows for value in row]}]}


def _split(rows: Rows) -> Any:
    return {"dataframe_split": {"columns": NAMES, "data": rows}}


def _predictions(document: Any) -> list[float]:
    return list(document["predictions"])


def _tensor(document: Any) -> list[float]:
    return list(document["outputs"][0]["data"])


USERS = Peer(
    "FastAPI as users write it", "fastapi", ("fastapi==0.165.0", *_UVICORN), "/predict", _named, _predictions, _script("fastapi_users.py")
)
EXPERT = Peer(
    "FastAPI by an expert", "fastapi-expert", ("fastapi==0.165.0", *_UVICORN, "orjson==3.13.0"), "/predict", _lists, _predictions,
    _script("fastapi_expert.py"),
)  # fmt: skip
# a model logged with a tensor's signature, its cheapest form; and one logged from a data frame, with named columns
MLFLOW = Peer("MLflow", "mlflow", ("mlflow==3.17.2",), "/invocations", lambda rows: {"inputs": rows}, _predictions, _mlflow("tensor"))
MLFLOW_NAMED = Peer("MLflow, named columns", "mlflow-named", ("mlflow==3.17.2",), "/invocations", _split, _predictions, _mlflow("named"))
MLSERVER = Peer(
    "MLServer", "mlserver", ("mlserver==1.7.1", "mlserver-lightgbm==1.7.1"), "/v2/models/bench/infer", _open_inference, _tensor, _mlserver,
    below=(3, 13),
)  # fmt: skip
KSERVE = Peer("KServe", "kserve", ("kserve==0.21.0",), "/v2/models/bench/infer", _open_inference, _tensor, _kserve)
LITSERVE = Peer("LitServe", "litserve", ("litserve==0.2.19",), "/predict", _lists, _predictions, _script("litserve_api.py"))
BENTOML = Peer("BentoML", "bentoml", ("bentoml==1.4.40",), "/predict", lambda rows: {"rows": rows}, list, _bentoml)
RAY = Peer("Ray Serve", "ray", ("ray[serve]==2.60.0",), "/predict", _lists, _predictions, _ray)
QUICK = (USERS, MLFLOW)
ALL = (USERS, EXPERT, MLFLOW, MLFLOW_NAMED, MLSERVER, KSERVE, LITSERVE, BENTOML, RAY)
