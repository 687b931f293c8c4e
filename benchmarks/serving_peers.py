"""The servers that are compared: how each is installed, started, asked and read.

Every peer has an environment of its own, since their pins fight: `FOLDER/NAME`, made by the Python that runs this,
filled by pip with the newest that there is. PyTorch, torchvision, Pillow and what loads our weights are not installed
again: a `.pth` file lets them find the packages of our own environment after their own. So torch is the same for all,
while FastAPI, Starlette, Pydantic and uvicorn are those that a peer asks for. What does not install is told and left
out.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.processes import answers, free_port, wait_for
from benchmarks.serving_load import Requests
from benchmarks.serving_models import Picture

ROOT = Path(__file__).parent.parent
OURS = "pruneyard"
SHARED = "shared_with_pruneyard.pth"
START_SECONDS = 180.0
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "raw": "application/octet-stream"}
JSON = {"Content-Type": "application/json"}

Answer = Mapping[str, Any]


class CannotStart(Exception):
    """A server that ended, or was not ready in time."""


@dataclass(frozen=True)
class Asked:
    """One network as it is asked for: its name in our service, its folder, its home, the side of its images."""

    name: str
    directory: Path
    home: Path
    image_size: int


@dataclass(frozen=True)
class Server:
    """One server. `command` is what Python runs, `ask` makes the requests, `read` finds the classes of an answer."""

    title: str
    command: Callable[[Path, int], list[str]]
    ask: Callable[[str, list[Picture], Asked], Requests]
    read: Callable[[Any], list[Answer]]
    ready: str
    packages: tuple[str, ...] = ()
    environment: str | None = None  # the folder of a peer; None is our own
    variables: Mapping[str, str] = field(default_factory=dict)


def install(folder: Path, server: Server) -> str | None:
    """Makes the environment of a peer if it is not there; why not, if it cannot be made."""
    if server.environment is None:
        return None
    own = folder.absolute() / server.environment
    if (own / ".installed").exists():
        return None
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(own)], check=True)
    pip = [str(own / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    ran = subprocess.run([*pip, *server.packages], capture_output=True, text=True, check=False)
    if ran.returncode:
        return ran.stderr.strip().splitlines()[-1] if ran.stderr.strip() else "pip failed"
    # After their own: lines of a .pth file are put at the end of the path.
    site = next(own.glob("lib/python*/site-packages"))
    (site / SHARED).write_text(sysconfig.get_path("purelib") + "\n")
    (own / ".installed").touch()
    return None


def versions(folder: Path, server: Server) -> dict[str, str]:
    """What a peer runs on."""
    program = (
        "import json; from importlib.metadata import version; names = {}\n"
        f"for name in ({', '.join(map(repr, sorted(SHOWN | set(map(_bare, server.packages)))))},):\n"
        "    try: names[name] = version(name)\n"
        "    except Exception: pass\n"
        "print(json.dumps(names))"
    )
    ran = subprocess.run([python(folder, server), "-c", program], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(ran.stdout)
    return found


SHOWN = {"fastapi", "starlette", "pydantic", "uvicorn", "torch", "torchvision", "pillow", "numpy"}


def _bare(package: str) -> str:
    return package.partition("[")[0].partition("<")[0]


def python(folder: Path, server: Server) -> str:
    if server.environment is None:
        return sys.executable
    return str(folder.absolute() / server.environment / "bin" / "python")


@contextmanager
def running(folder: Path, server: Server, asked: Asked, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The server, ready, with its address and its process; ended with the block, and all that it started."""
    port = free_port()
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PORT": str(port),
        "MODEL": str(asked.directory),
        "PRUNEYARD_HOME": str(asked.home.absolute()),
        "PRUNEYARD_PORT": str(port),
        "BENTOML_DO_NOT_TRACK": "True",
        **server.variables,
    }
    command = server.command(log.parent, port)
    with log.open("w") as output:
        child = psutil.Popen(
            [python(folder, server), *command], env=variables, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, trust_env=False) as http:
            _wait_until_ready(http, server, child, log)
        yield url, child
    finally:
        _end(child)


def _wait_until_ready(http: httpx.Client, server: Server, child: psutil.Popen, log: Path) -> None:
    try:
        wait_for(lambda: answers(http, server.ready) or child.poll() is not None, seconds=START_SECONDS)
    except TimeoutError:
        raise CannotStart(f"{server.title} is not ready after {START_SECONDS:.0f} s; its log is {log}") from None
    if child.poll() is not None:
        raise CannotStart(f"{server.title} has ended with {child.returncode}; its log is {log}")


def _end(child: psutil.Popen) -> None:
    below = child.children(recursive=True) if child.is_running() else []
    child.terminate()
    try:
        child.wait(10)
    except psutil.TimeoutExpired:
        child.kill()
    _, left = psutil.wait_procs(below, timeout=5)
    for each in left:
        each.kill()


def _forms(kind: str, pictures: list[Picture]) -> list[bytes]:
    return [getattr(picture, kind) for picture in pictures]


def _base64(kind: str, pictures: list[Picture]) -> list[str]:
    return [base64.b64encode(data).decode() for data in _forms(kind, pictures)]


def _module(name: str) -> Callable[[Path, int], list[str]]:
    return lambda _folder, _port: ["-m", name]


def _ask_ours(kind: str, pictures: list[Picture], asked: Asked) -> Requests:
    shape = {"X-Shape": f"1,{asked.image_size},{asked.image_size},3"} if kind == "raw" else {}
    headers = {"Content-Type": MEDIA_TYPES[kind], **shape}
    return Requests(f"/v1/models/{asked.name}/predict", _forms(kind, pictures), headers)


def _ask_plainly(kind: str, pictures: list[Picture], _asked: Asked) -> Requests:
    return Requests("/predict", _forms(kind, pictures), {"Content-Type": MEDIA_TYPES[kind]})


def _ask_litserve(kind: str, pictures: list[Picture], _asked: Asked) -> Requests:
    return Requests("/predict", [json.dumps({"image": text}).encode() for text in _base64(kind, pictures)], JSON)


def _ask_bentoml(kind: str, pictures: list[Picture], _asked: Asked) -> Requests:
    return Requests("/predict", [json.dumps({"images": [text]}).encode() for text in _base64(kind, pictures)], JSON)


def _ask_mlserver(kind: str, pictures: list[Picture], asked: Asked) -> Requests:
    side = asked.image_size
    inputs: list[dict[str, Any]]
    if kind == "raw":
        pixels = [picture.pixels.ravel().tolist() for picture in pictures]
        inputs = [{"shape": [1, side, side, 3], "datatype": "UINT8", "data": data} for data in pixels]
    else:
        coded = {"shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
        inputs = [{**coded, "data": [text]} for text in _base64(kind, pictures)]
    bodies = [json.dumps({"inputs": [{"name": "images", **given}]}).encode() for given in inputs]
    return Requests("/v2/models/images/infer", bodies, JSON)


def _read_mlserver(answer: Any) -> list[Answer]:
    columns = {output["name"]: output["data"] for output in answer["outputs"]}
    return [{"index": columns["index"][0], "probability": columns["probability"][0]}]


def _start_mlserver(folder: Path, port: int) -> list[str]:
    settings = {"debug": False, "http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    model = {
        "name": "images",
        "implementation": "benchmarks.peers.mlserver_runtime.ImageRuntime",
        "max_batch_size": 32,
        "max_batch_time": 0.01,
    }
    own = folder / "mlserver"
    own.mkdir(exist_ok=True)
    (own / "settings.json").write_text(json.dumps({**settings, "host": "127.0.0.1"}))
    (own / "model-settings.json").write_text(json.dumps(model))
    return ["-c", "from mlserver.cli import main; main()", "start", str(own)]


def _start_bentoml(_folder: Path, port: int) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(port)]
    return ["-m", "bentoml", "serve", "benchmarks.peers.bento:Images", *options]


def _top(answer: Any) -> list[Answer]:
    found: list[Answer] = answer["top"]
    return found


BARE = Server("bare route", _module("benchmarks.peers.bare"), _ask_plainly, lambda _: [], ready="/")
LITSERVE = Server(
    "LitServe, batches of 10 ms",
    _module("benchmarks.peers.lit"),
    _ask_litserve,
    _top,
    ready="/health",
    packages=("litserve",),
    environment="litserve",
    variables={"BATCH_TIMEOUT": "0.01"},
)
SERVERS: dict[str, Server] = {
    OURS: Server("Pruneyard", _module("service"), _ask_ours, lambda answer: answer["predictions"], ready="/readyz"),
    "eager": Server(
        "FastAPI, PyTorch eager",
        _module("benchmarks.peers.eager"),
        _ask_plainly,
        _top,
        ready="/ready",
        packages=("fastapi", "uvicorn[standard]"),
        environment="eager",
    ),
    "litserve": LITSERVE,
    "litserve-0": replace(LITSERVE, title="LitServe, never waiting", variables={"BATCH_TIMEOUT": "0"}),
    "mlserver": Server(
        "MLServer",
        _start_mlserver,
        _ask_mlserver,
        _read_mlserver,
        ready="/v2/models/images/ready",
        # Version 1.7.1 asks for an event loop where there is none; newer uvloops no longer make one.
        packages=("mlserver", "uvloop<0.22"),
        environment="mlserver",
    ),
    "bentoml": Server(
        "BentoML",
        _start_bentoml,
        _ask_bentoml,
        lambda answer: answer[0],
        ready="/readyz",
        packages=("bentoml",),
        environment="bentoml",
    ),
}
