"""Run as a script: exits with 0 if a small training step on a device gives what the CPU gives.

It is a process of its own because on some integrated graphics that are listed as available the first step fails,
never ends, or takes the process down.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def step(device: str) -> tuple[float, Tensor]:
    """The loss of a convolutional network and the gradient of its first layer."""
    torch.manual_seed(0)
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 4
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 1),
        nn.Flatten(),
        nn.Linear(16 * 64, 4),
    )
    network.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    logits = network(images.to(device))
    loss = cross_entropy(logits, labels.to(device))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    # Counting right answers is what fails on Tiger Lake while arithmetic works.
    int((logits.argmax(dim=1) == labels.to(device)).sum())
    gradient = network[0].weight.grad
    assert isinstance(gradient, Tensor)
    return loss.item(), gradient.cpu()


def main(device: str) -> int:
    """0 if the device agrees with the CPU to a thousandth, else 1."""
    (loss, gradient), (wanted_loss, wanted_gradient) = step(device), step("cpu")
    same = torch.allclose(gradient, wanted_gradient, rtol=1e-3, atol=1e-5)
    return 0 if same and abs(loss - wanted_loss) < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
