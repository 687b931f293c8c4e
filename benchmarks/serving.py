"""How fast predictions are beside what users pick today: requests per second, latency, memory.

    python -m benchmarks.serving [--quick] [--peers NAME ...] [--turns N] [--seconds S] [--json FILE]

The same published weights are served by our API in the runtime that was measured to be the fastest, and by FastAPI,
LitServe, MLServer and BentoML in PyTorch, eager. The same images come as PNG, as JPEG and as raw pixels; where a server
takes JSON only, in base64 or as its protocol has it. wrk asks over 1, 16 and 64 connections. Before it is timed, each
server has to name the same class as ours for every image, with a probability no more than 0.001 off.

One server runs at a time, and all are started anew in each turn, in another order: ours begins the even turns and ends
the odd ones. Told are medians over turns, with the least and the most. Beside them stand two limits: images per second
of the runtime alone, 32 at a time (the better runtime, from pixels to logits), and requests per second of a route that
does nothing. wrk runs on the same cores: what it takes of them for each answer is told, and so is the server's share.

Environments of the peers, networks and logs stay in var/bench-serving; to make them takes some minutes. With everything
it takes two to three hours; with `--quick`, MobileNetV2 at 32 x 32 and PNG only, about fifteen minutes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from benchmarks.api import machine, tell
from benchmarks.serving_limits import images_per_second
from benchmarks.serving_load import loaded, memory_mib
from benchmarks.serving_models import NETWORKS, Picture, pictures, publish
from benchmarks.serving_peers import BARE, OURS, SERVERS, Answer, Asked, CannotStart, Server, install, running, versions
from benchmarks.serving_profile import profile
from benchmarks.serving_table import goals, table
from benchmarks.serving_triton import TRITON, ask_triton
from store.artifacts import Artifacts

FOLDER = Path("var/bench-serving")
CONNECTIONS = (1, 16, 64)
KINDS = ("png", "jpeg", "raw")
QUICK = "mobilenet_v2-32"
TOLERANCE = 1e-3

Row = dict[str, Any]


def main() -> None:
    asked = arguments()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt install wrk")
    asked.folder.mkdir(parents=True, exist_ok=True)
    servers, left_out = chosen(asked)
    views = publish(asked.folder / "home", [NETWORKS[name] for name in asked.networks])
    bench = Bench(asked, servers, views, left_out)
    figures: dict[str, Any] = {"machine": machine(), "asked": told(asked), "servers": bench.versions(), "rows": []}
    figures["left_out"] = bench.left_out
    for rows in bench.turns():
        figures["rows"] += rows
        if asked.json:  # what has been measured stays, whatever comes after
            asked.json.write_text(json.dumps(figures, indent=1))
    figures["goals"] = goals(figures["rows"])
    print(table(figures["rows"]), json.dumps(figures["goals"], indent=1), sep="\n")
    if asked.profile:
        print(profile(bench, asked.profile))
    tell(figures, asked.json)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} and PNG only")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--bodies", nargs="+", default=[*KINDS, TRITON], choices=[*KINDS, TRITON])
    parser.add_argument("--peers", nargs="*", default=[name for name in SERVERS if name != OURS], choices=list(SERVERS))
    parser.add_argument("--connections", nargs="+", type=int, default=list(CONNECTIONS))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement, after a third to warm up")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="networks and logs; what is there is used again")
    parser.add_argument("--environment", type=Path, help="where the peers are installed; FOLDER/venv by default")
    parser.add_argument(
        "--profile", type=Path, help="ask ours once more, and write where its time goes into this folder"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    asked.environment = asked.environment or asked.folder / "venv"
    if asked.quick:
        asked.networks, asked.bodies = [QUICK], ["png"]
    return asked


def told(asked: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(asked).items() if not isinstance(value, Path)}


def chosen(asked: argparse.Namespace) -> tuple[dict[str, Server], dict[str, str]]:
    """Ours and the peers that could be installed, and why the others could not."""
    failures = {name: install(asked.environment, SERVERS[name]) for name in asked.peers}
    left_out = {name: f"cannot be installed: {failure}" for name, failure in failures.items() if failure is not None}
    print(*(f"{name} {reason}" for name, reason in left_out.items()), sep="\n", flush=True)
    return {name: SERVERS[name] for name in (OURS, *asked.peers) if name not in left_out}, left_out


class Bench:
    """The networks and servers of one run."""

    def __init__(
        self,
        asked: argparse.Namespace,
        servers: dict[str, Server],
        views: dict[str, dict[str, Any]],
        left_out: dict[str, str],
    ) -> None:
        self.asked, self.servers, self.left_out = asked, servers, left_out
        home = asked.folder / "home"
        artifacts = Artifacts(home)
        self.networks = [
            Asked(name, artifacts.model(view["id"]), home, NETWORKS[name].image_size) for name, view in views.items()
        ]

    def versions(self) -> dict[str, dict[str, str]]:
        return {name: versions(self.asked.environment, server) for name, server in self.servers.items()}

    def turns(self) -> Iterator[list[Row]]:
        """The rows of each network and turn."""
        for network in self.networks:
            expected: dict[str, list[Answer]] = {}
            for turn in range(self.asked.turns):
                rows = [{"server": "runtime alone", **self._row(network, turn), **images_per_second(network.directory)}]
                for name, server in self.order(turn).items():
                    print(f"{network.name}, turn {turn + 1}: {server.title}", flush=True)
                    rows += self.measured(name, server, network, turn, expected)
                yield rows

    def order(self, turn: int) -> dict[str, Server]:
        """Ours first in even turns and last in odd ones; the others begin with another one each turn."""
        others = [("bare", BARE), *((name, server) for name, server in self.servers.items() if name != OURS)]
        start = turn % len(others)
        own = [(OURS, self.servers[OURS])]
        rest = others[start:] + others[:start]
        return dict(own + rest if turn % 2 == 0 else rest + own)

    def measured(
        self, name: str, server: Server, network: Asked, turn: int, expected: dict[str, list[Answer]]
    ) -> list[Row]:
        """The rows of one server; a peer that does not start is left out from then on, and the log says why."""
        try:
            return self.measure(name, server, network, turn, expected)
        except CannotStart as error:
            if name in {OURS, "bare"}:
                raise
            del self.servers[name]
            self.left_out[name] = str(error)
            print(error, flush=True)
            return []

    def measure(
        self, name: str, server: Server, network: Asked, turn: int, expected: dict[str, list[Answer]]
    ) -> list[Row]:
        """One server, from its start to its end."""
        rows: list[Row] = []
        kinds = [kind for kind in self.asked.bodies if name == OURS or kind != TRITON]
        if not kinds:
            return rows
        images = pictures(network.image_size)
        with self.running(server, network) as (url, process):
            for kind in kinds:
                if kind == TRITON:
                    requests = ask_triton(self.asked.environment, url, network, images)
                else:
                    requests = server.ask(kind, images, network)
                if requests is None:
                    continue
                if name != "bare" and kind != TRITON:
                    check(server, url, network, images, kind, expected)
                for connections in self.asked.connections:
                    load = loaded(url, requests, process, connections=connections, seconds=self.asked.seconds)
                    point = {"server": name, "body": kind, "connections": connections, **self._row(network, turn)}
                    rows.append({**point, **asdict(load), **memory_mib(process)})
        return rows

    def running(self, server: Server, network: Asked) -> Any:
        log = self.asked.folder.absolute() / f"{server.environment or 'ours'}.log"
        return running(self.asked.environment, server, network, log)

    def _row(self, network: Asked, turn: int) -> Row:
        return {"network": network.name, "turn": turn}


def check(
    server: Server, url: str, network: Asked, images: list[Picture], kind: str, expected: dict[str, list[Answer]]
) -> None:
    """AssertionError unless a server's answers are those of the first one that was asked, and tell images apart."""
    requests = server.ask(kind, images, network)
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
        told = [http.post(requests.path, content=body, headers=dict(requests.headers)) for body in requests.bodies]
    assert all(answer.status_code == 200 for answer in told), f"{server.title}: {told[0].status_code} {told[0].text}"
    found = [server.read(answer.json())[0] for answer in told]
    assert len({round(answer["probability"], 2) for answer in found}) > 1, f"{network.name} answers all images alike"
    for number, (ours, theirs) in enumerate(zip(expected.setdefault(kind, found), found, strict=True)):
        same = ours["index"] == theirs["index"] and abs(ours["probability"] - theirs["probability"]) <= TOLERANCE
        assert same, f"{server.title}, {kind} {number}: {theirs} and not {ours}"


if __name__ == "__main__":
    main()
