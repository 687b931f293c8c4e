"""How fast networks train here: our loop against the plain one, where the time goes, and how near the peak it is.

    python -m benchmarks.training [--rounds N] [--networks NAME ...] [--compiled] [--json FILE]

32 x 32 x 3, batches of 64, one thread for each physical core. The plain loop is what a tutorial writes: a DataLoader
over PIL images, torchvision's transforms one image at a time, images of N x C x H x W, torch's Adam as it comes. Ours
is what a job runs; `--compiled` tries its compiled step too, as a job does that is long enough to repay it. All train
the same network on the same images with flips and crops, each in a process of its own, ours keeping memory as a job
does, and take turns, so that a slow moment of the machine meets all. Takes about ten minutes on two cores, and longer
to compile.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.api import machine, spread, tell
from benchmarks.data import endless, noise_dataset
from benchmarks.processes import alone
from nets import architectures, optimizers
from nets.compiling import Forward
from nets.figures import figures
from specs.architectures import ARCHITECTURES
from specs.optimizers import OPTIMIZERS
from workers.child import KEEP_MEMORY

SIDE, CLASSES, BATCH_SIZE = 32, 10, 64
IMAGES = 640
ROUNDS = 5
# A member of each family, at a width whose step takes seconds at most.
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "vgg11_bn": {},
    "resnet18": {},
    "resnet50": {"width": 0.5},
    "wide_resnet": {"depth": 16, "widening": 4},
    "mobilenet_v1": {},
    "mobilenet_v2": {},
    "shufflenet_v1": {},
    "shufflenet_v2": {},
    # The stem for large images: what a network is that was not made for images as small as these.
    "shufflenet_v2_paper": {"name": "shufflenet_v2", "stem": "paper"},
    "googlenet": {},
    "inception_v3": {"width": 0.5},
    "densenet121": {},
}
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
GIGA = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns of each loop")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="only these")
    parser.add_argument("--compiled", action="store_true", help="try compiled steps too")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(psutil.cpu_count(logical=False) or 1)
    peak = peak_flops()
    rows = {}
    print(f"peak of a matrix product here: {peak / GIGA:.0f} GFLOP/s")
    print(HEADER)
    for name in arguments.networks:
        asked = {"name": name, **NETWORKS.get(name, {})}
        rows[name] = compare(asked, rounds=arguments.rounds, peak=peak, compiled=arguments.compiled)
        print(line(name, rows[name]), flush=True)
    found = {"machine": {**machine(), "threads": torch.get_num_threads(), "peak_flops": peak}, "figures": rows}
    tell(found, arguments.json)


HEADER = (
    f"{'network':20}{'plain':>9}{'ours':>9}{'ratio':>8}{'min':>7}{'max':>7}{'compiled':>10}{'ratio':>7}"
    f"{'data':>8}{'forward':>9}{'backward':>10}{'step':>7}{'peak':>7}"
)


def line(name: str, row: dict[str, Any]) -> str:
    ratio, parts = row["ratio"], row["parts"]
    compiled = "-" if row["compiled"] is None else f"{row['compiled']['p50']:.1f}"
    gain = "-" if row["compiled"] is None else f"{row['compiled_ratio']['p50']:.2f}"
    return (
        f"{name:20}{row['plain']['p50']:9.1f}{row['ours']['p50']:9.1f}"
        f"{ratio['p50']:8.2f}{ratio['min']:7.2f}{ratio['max']:7.2f}{compiled:>10}{gain:>7}"
        f"{parts['data']:8.1%}{parts['forward']:9.1%}{parts['backward']:10.1%}{parts['step']:7.1%}"
        f"{row['share_of_peak']:7.1%}"
    )


def compare(asked: dict[str, Any], *, rounds: int, peak: float, compiled: bool) -> dict[str, Any]:
    """Images per second of the loops, and the parts of ours while it is not compiled."""
    with ExitStack() as stack:
        kinds = ("plain", "ours", "compiled") if compiled else ("plain", "ours")
        loops = {kind: stack.enter_context(Loop(kind, asked)) for kind in kinds}
        loops = {kind: loop for kind, loop in loops.items() if loop.first_step < inf}
        batches = max(1, min(8, int(4.0 / loops["plain"].first_step)))  # a few seconds a turn
        columns: dict[str, list[float]] = {kind: [] for kind in loops}
        for _ in range(rounds):
            for kind, loop in loops.items():
                columns[kind].append(loop.ask(rate, batches))
        parts, macs = loops["ours"].ask(parts_and_macs)
        seconds = loops["compiled"].first_step if "compiled" in loops else None
    ratios = {kind: ratio(columns[kind], columns["plain"]) for kind in columns}
    # Forward once, backward twice; a multiply-accumulate is two operations.
    used = 3 * 2 * macs * median(columns["ours"])
    return {
        "plain": spread(columns["plain"]),
        "ours": spread(columns["ours"]),
        "ratio": ratios["ours"],
        "compiled": spread(columns["compiled"]) if "compiled" in columns else None,
        "compiled_ratio": ratios.get("compiled"),
        "compiling_seconds": seconds,
        "parts": parts,
        "macs": macs,
        "share_of_peak": used / peak,
    }


def ratio(upper: list[float], lower: list[float]) -> dict[str, float]:
    """Of each turn to the turn beside it."""
    return spread([a / b for a, b in zip(upper, lower, strict=True)])


class Loop:
    """A loop in a process of its own: how memory is had is settled when a process starts."""

    def __init__(self, kind: str, asked: dict[str, Any]) -> None:
        self._pool = alone({} if kind == "plain" else KEEP_MEMORY)
        self.first_step: float = self.ask(begin, kind, asked, torch.get_num_threads())

    def ask(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return self._pool.submit(call, *arguments).result()

    def __enter__(self) -> Loop:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()


HERE: dict[str, Any] = {}  # of a process of a Loop: its step, and the loop if it is ours


def begin(kind: str, asked: dict[str, Any], threads: int) -> float:
    """Makes the loop of this process, and tells how long its first step takes; for ever if it cannot be compiled."""
    torch.set_num_threads(threads)
    if kind == "plain":
        HERE["step"] = plain_loop(asked)
    else:
        HERE["loop"] = OurLoop(asked)
        HERE["loop"].forward.switch(compiled=kind == "compiled")
        HERE["step"] = HERE["loop"].step
    try:
        return timed(HERE["step"])
    except Exception as error:
        if kind != "compiled":
            raise
        print(f"{asked['name']} cannot be compiled: {type(error).__name__}: {error}")
        return inf


def rate(batches: int) -> float:
    """Images a second of the loop of this process."""
    began = time.perf_counter()
    for _ in range(batches):
        HERE["step"]()
    return batches * BATCH_SIZE / (time.perf_counter() - began)


def parts_and_macs() -> tuple[dict[str, float], int]:
    return HERE["loop"].parts(), HERE["loop"].macs


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def build(asked: dict[str, Any]) -> nn.Module:
    chosen = ARCHITECTURES[asked["name"]].options(**asked)
    return architectures.build(chosen, classes=CLASSES, channels=3, image_size=SIDE, seed=0).train()


def plain_loop(asked: dict[str, Any]) -> Callable[[], None]:
    network = build(asked).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    source = plain_batches()

    def step() -> None:
        images, labels = next(source)
        optimizer.zero_grad()
        loss = cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


class PilImages(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Images as PIL's, changed one at a time."""

    def __init__(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
        self.images = [Image.fromarray(image) for image in pixels]
        steps = [transforms.RandomCrop(SIDE, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.change = transforms.Compose([*steps, transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.change(self.images[number]), number % CLASSES


def plain_batches() -> Iterator[tuple[Tensor, Tensor]]:
    loader = DataLoader(PilImages(), batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
    while True:
        yield from loader


class OurLoop:
    """A step as `nets.training` makes it, with a clock between its parts."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self.network = build(asked)
        self.macs = figures(self.network, channels=3, image_size=SIDE).macs
        self.network.to(memory_format=torch.channels_last).train()
        self.forward = Forward(self.network, BATCH_SIZE)
        self.optimizer = optimizers.build(OPTIMIZERS["adam"].options(), self.network)
        self.source = endless(noise_dataset(IMAGES), ("crop-flip",))
        self.seconds = dict.fromkeys(("data", "forward", "backward", "step"), 0.0)

    def step(self) -> None:
        marks = [time.perf_counter()]
        batch = next(self.source)
        marks.append(time.perf_counter())
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.forward(batch.images)
        loss = batch.loss(logits).mean
        loss.item()
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        self.optimizer.step()
        batch.correct(logits)
        marks.append(time.perf_counter())
        for part, before, after in zip(self.seconds, marks, marks[1:], strict=False):
            self.seconds[part] += after - before

    def parts(self) -> dict[str, float]:
        """Shares of all steps so far."""
        total = sum(self.seconds.values())
        return {part: seconds / total for part, seconds in self.seconds.items()}


def peak_flops() -> float:
    """The most that a product of two large matrices reaches, of ten tries, in operations a second."""
    side = 1536
    left, right = torch.randn(side, side), torch.randn(side, side)
    return 2 * side**3 / min(timed(lambda: left @ right) for _ in range(10))


if __name__ == "__main__":
    main()
