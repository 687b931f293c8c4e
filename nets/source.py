"""`python -m nets.source DIRECTORY`: a published network as a program of plain PyTorch, printed.

What torch.export traces is written down operation by operation, with the names of the state dict. It is held against
the network itself before it is printed.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind

from nets.errors import NetError
from nets.publishing import load_network

WORDS = '''"""{title}: images to logits in plain PyTorch.

    weights = safetensors.torch.load_file("weights.safetensors")
    logits = network(weights, images)

Images are float32 (N, {channels}, {size}, {size}), prepared as preprocessing.json says; logits are (N, classes).
Weights bear the names of the state dict. Batch normalisation uses its running statistics and dropout is off. To train
on, set requires_grad on the weights that are to change.
"""
import torch

aten = torch.ops.aten


def network(weights, images):
{body}
'''
CLOSE = 1e-4


class UnknownOperation(NetError):
    """An operation cannot be written down; `what` says which."""

    def __init__(self, what: str) -> None:
        super().__init__(f"This network has an operation that cannot be written as a program: {what[:200]}.")


def source(network: nn.Module, *, title: str, channels: int, image_size: int) -> str:
    """The text of a module with a function `network(weights, images)`."""
    example = torch.zeros(2, channels, image_size, image_size)
    with torch.no_grad():
        program = torch.export.export(network.eval(), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    names = {
        spec.arg.name: f"weights[{spec.target!r}]"
        for spec in program.graph_signature.input_specs
        if spec.kind in {InputKind.PARAMETER, InputKind.BUFFER}
    }
    lines = [line for node in program.graph.nodes if (line := _line(node, names)) is not None]
    return WORDS.format(title=title, channels=channels, size=image_size, body="\n".join(lines))


def _line(node: fx.Node, names: dict[str, str]) -> str | None:
    """One statement; None for what is no computation. Inputs that are no weights are the images."""
    if node.op == "placeholder":
        names.setdefault(node.name, "images")
        return None
    if node.op == "output":
        return f"    return {_text(node.args[0][0], names)}"  # type: ignore[index]
    if node.op != "call_function":
        raise UnknownOperation(f"{node.op} {node.target}")
    if node.target is operator.getitem:
        whole, index = (_text(part, names) for part in node.args)
        return f"    {node.name} = {whole}[{index}]"
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        raise UnknownOperation(str(node.target))
    if str(node.target).startswith("aten._assert") or not node.users:
        return None
    given = [_text(part, names) for part in node.args]
    given += [f"{key}={_text(part, names)}" for key, part in node.kwargs.items()]
    return f"    {node.name} = {node.target}({', '.join(given)})"


def _text(part: Any, names: dict[str, str]) -> str:
    if isinstance(part, fx.Node):
        return names.get(part.name, part.name)
    if isinstance(part, list | tuple):
        return f"[{', '.join(_text(each, names) for each in part)}]"
    if part is None or isinstance(part, bool | int | float):
        return repr(part)
    if isinstance(part, torch.dtype | torch.memory_format | torch.device):
        return f"torch.device({str(part)!r})" if isinstance(part, torch.device) else str(part)
    raise UnknownOperation(repr(part))


def program(text: str) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """The function `network` of a text that `source` made."""
    space: dict[str, Any] = {}
    exec(compile(text, "network.py", "exec"), space)  # noqa: S102 - our own words, made of names that torch gave
    function: Callable[[dict[str, Tensor], Tensor], Tensor] = space["network"]
    return function


def main() -> int:
    """Prints the program of a model's directory."""
    torch.set_num_threads(1)
    directory = Path(sys.argv[1])
    network, manifest = load_network(directory)
    look = manifest.preprocessing
    text = source(network, title=manifest.architecture["name"], channels=look.channels, image_size=look.image_size)
    images = torch.randn(3, look.channels, look.image_size, look.image_size)
    with torch.inference_mode():
        wanted, found = network(images), program(text)(dict(network.state_dict()), images)
    if not torch.allclose(wanted, found, rtol=CLOSE, atol=CLOSE):
        raise UnknownOperation("its answers are not the network's")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
