"""Figures counted on the meta device, and the process that counts them for others."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest

from nets import architectures
from nets.counting import count
from nets.figures import figures
from specs.architectures import ARCHITECTURES
from tests.nets.conftest import IMAGE_SIZE, narrow

PEERS = [("resnet18", 11_689_512, 1_814_073_344), ("mobilenet_v2", 3_504_872, 300_774_272)]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_without_weights_has_the_figures_of_the_real_one(name: str) -> None:
    options = narrow(name)
    size = max(IMAGE_SIZE, options.least_image_size())
    for channels, classes in ((1, 10), (3, 7)):
        look = {"channels": channels, "image_size": size}
        real = figures(architectures.build(options, classes=classes, **look, seed=0), **look)
        counted = count(options, classes=classes, **look)
        assert (counted.parameters, counted.macs) == (real.parameters, real.macs)


@pytest.mark.parametrize(("name", "parameters", "macs"), PEERS)
def test_published_figures(name: str, parameters: int, macs: int) -> None:
    counted = count(ARCHITECTURES[name].options(stem="paper"), classes=1000, channels=3, image_size=224)
    assert (counted.parameters, counted.macs) == (parameters, macs)


def test_a_network_of_a_hundred_gigabytes_is_counted() -> None:
    options = ARCHITECTURES["mlp"].options(hidden=(16384,) * 16)
    counted = count(options, classes=100_000, channels=3, image_size=512)
    widths = [3 * 512 * 512, *options.hidden, 100_000]
    assert counted.macs == sum(one * other for one, other in pairwise(widths))
    assert counted.parameters == counted.macs + sum(widths[1:])


def ask(name: str = "mlp", **changes: Any) -> str:
    fields = {"architecture": {"name": name}, "classes": 10, "channels": 1, "image_size": 8, **changes}
    return json.dumps(fields) + "\n"


def test_the_process_answers_a_line_with_a_line() -> None:
    odd = ["nonsense\n", "[]\n", "\n", ask("resnet19"), ask(classes="ten"), ask(more=1)]
    lines = [ask(), *odd, ask(architecture={"name": "mlp", "hidden": [5]})]
    command = [sys.executable, "-m", "nets.counting"]
    ended = subprocess.run(command, input="".join(lines), capture_output=True, text=True, timeout=120, check=True)
    ready, first, *errors, last = map(json.loads, ended.stdout.splitlines())
    assert ready == {"ready": True}
    wanted = count(ARCHITECTURES["mlp"].options(), classes=10, channels=1, image_size=8)
    assert first == {"parameters": wanted.parameters, "macs": wanted.macs}
    assert [set(error) for error in errors] == [{"error"}] * len(odd)
    assert last == {"parameters": 64 * 5 + 5 + 5 * 10 + 10, "macs": 64 * 5 + 5 * 10}


def test_the_process_ends_when_nobody_asks() -> None:
    command = [sys.executable, "-m", "nets.counting", "0.3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.wait(120) == 0
            assert process.stdout is not None
            assert json.loads(process.stdout.read()) == {"ready": True}
        finally:
            process.kill()
