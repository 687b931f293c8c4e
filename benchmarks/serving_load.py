"""Load by wrk: so many connections, each of which asks again as soon as it is answered.

Latencies are of such a closed loop: while a server is slow, it is asked less.
"""

from __future__ import annotations

import json
import resource
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SCRIPT = Path(__file__).with_name("serving.lua")
TIMEOUT = 60
# So that of a slow server not only those requests are counted that all connections begin with.
ROUNDS = 6
LONGEST = 30.0
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Requests:
    """The same request with several bodies; `paths`, one for each body, if they do not go to one place."""

    path: str
    bodies: Sequence[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)
    paths: Sequence[str] = ()

    def write(self, folder: Path) -> None:
        """As `serving.lua` reads them."""
        lines = [self.path, *(f"{name}: {value}" for name, value in self.headers.items())]
        (folder / "request").write_text("\n".join(lines))
        (folder / "paths").write_text("\n".join(self.paths))
        for number, body in enumerate(self.bodies):
            (folder / f"{number}.body").write_bytes(body)


@dataclass(frozen=True)
class Load:
    """What one server did under load. Latencies in milliseconds; processor times for each answer, in milliseconds."""

    requests_per_second: float
    p50: float
    p95: float
    p99: float
    answered: int
    warmed: int
    refused: int
    broken: int
    server_ms: float
    generator_ms: float


def loaded(url: str, requests: Requests, server: psutil.Process, *, connections: int, seconds: float) -> Load:
    """Warms up for a third of the time, then measures, for longer if the server is slow."""
    with tempfile.TemporaryDirectory() as folder:
        requests.write(Path(folder))
        warm = _wrk(url, folder, connections, max(1.0, seconds / 3))
        rate = max(warm["requests"] / warm["seconds"], 0.1)
        duration = min(LONGEST, max(seconds, ROUNDS * connections / rate))
        before, own = processor_seconds(server), _children_seconds()
        found = _wrk(url, folder, connections, duration)
        spent, generated = processor_seconds(server) - before, _children_seconds() - own
    assert found["requests"], f"not one answer in {duration:.0f} s over {connections} connections"
    good = int(found["requests"] - found["refused"])
    return Load(
        requests_per_second=good / found["seconds"],
        **{name: found[name] for name in ("p50", "p95", "p99")},
        answered=good,
        warmed=int(warm["requests"] - warm["refused"]),
        refused=int(found["refused"]),
        broken=int(found["broken"]),
        server_ms=1000 * spent / max(good, 1),
        generator_ms=1000 * generated / max(good, 1),
    )


def _wrk(url: str, folder: str, connections: int, seconds: float) -> dict[str, float]:
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={TIMEOUT}s", "-s", str(SCRIPT)]
    ran = subprocess.run(["wrk", *options, url, "--", folder], check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(ran.stdout.strip().splitlines()[-1])
    return told


def processor_seconds(server: psutil.Process) -> float:
    """Of a process and all below it."""
    return sum(sum(each.cpu_times()[:2]) for each in _tree(server))


def memory_mib(server: psutil.Process) -> dict[str, float]:
    """Of a process and all below it: resident, and with shared pages counted once."""
    infos = [each.memory_full_info() for each in _tree(server)]
    shared_once = {"pss": sum(info.pss for info in infos) / MEBIBYTE} if hasattr(infos[0], "pss") else {}
    return {"rss": sum(info.rss for info in infos) / MEBIBYTE, **shared_once}


def _tree(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def _children_seconds() -> float:
    """Processor time of processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
