"""Our API as Triton's own client asks it: protocol V2 with binary tensors."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import httpx

from benchmarks.serving_load import Requests
from benchmarks.serving_models import Picture
from benchmarks.serving_peers import ROOT, Asked, Server, install, python

TRITON = "triton"
CLIENT = Server(
    "tritonclient",
    lambda _folder, _port: [],
    lambda _kind, _pictures, _asked: Requests("", ()),
    lambda _answer: [],
    ready="",
    packages=("tritonclient[http]",),
    environment="tritonclient",
)


def ask_triton(environment: Path, url: str, network: Asked, images: list[Picture]) -> Requests | None:
    """The requests as the stock client makes them; None without V2. It must be answered as our own route answers."""
    if httpx.get(f"{url}/v2", trust_env=False).status_code != 200:
        print("GET /v2 is not 200: the protocol V2 is left out", flush=True)
        return None
    failure = install(environment, CLIENT)
    if failure is not None:
        print(f"tritonclient cannot be installed: {failure}", flush=True)
        return None
    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(images):
            Path(folder, f"{number}.raw").write_bytes(picture.raw)
        command = [python(environment, CLIENT), "-m", "benchmarks.peers.triton_requests"]
        asked = [url.removeprefix("http://"), network.name, str(network.image_size), folder]
        subprocess.run([*command, *asked], check=True, cwd=ROOT)
        told = json.loads(Path(folder, "told.json").read_text())
        bodies = [Path(folder, f"{number}.body").read_bytes() for number in range(len(images))]
    for picture, answer in zip(images, told["answers"], strict=True):
        headers = {
            "Content-Type": "application/octet-stream",
            "X-Shape": f"1,{network.image_size},{network.image_size},3",
        }
        ours = httpx.post(
            f"{url}/v1/models/{network.name}/predict", content=picture.raw, headers=headers, trust_env=False
        )
        assert ours.json()["predictions"][0]["index"] == answer, (ours.json(), answer)
    print(f"tritonclient by itself, 1 connection: p50 {told['p50']:.2f} ms", flush=True)
    return Requests(f"/v2/models/{network.name}/infer", bodies, told["headers"])
