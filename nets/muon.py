"""Jordan et al.: Muon: An optimizer for hidden layers in neural networks, https://kellerjordan.github.io/posts/muon/

The momentum of each hidden weight, taken as a matrix with a row for each output, is brought near to the orthogonal
matrix that is closest to it. All other parameters are AdamW's, as the author says they should be.

How we differ from torch.optim.Muon: convolutions are flattened to matrices, as the author does; AdamW is part of the
optimizer; and the iteration runs in float32 where the processor has no bfloat16, which would be many times slower.
Where it has, results are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.adamw import adamw

Coefficients = tuple[float, float, float]


class Muon(optim.Optimizer):
    """Moves the parameters of groups with `momentum` by Muon, those of groups with `beta1` by AdamW.

    A group of Muon's has `lr`, `weight_decay`, `momentum`, `nesterov`, `coefficients`, `steps`, `eps` and `scaling`, a
    name of SCALINGS; one of AdamW's has `lr`, `weight_decay`, `beta1`, `beta2` and `eps`. `dtype` is the iteration's.
    """

    def __init__(self, groups: list[dict[str, Any]], *, dtype: torch.dtype, fused: bool) -> None:
        super().__init__(groups, {})
        self._dtype = dtype
        self._fused = fused

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Moves all parameters that have a gradient; there is no closure to give."""
        if closure is not None:
            raise TypeError("this optimizer takes no closure")
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if "momentum" not in group:
                self._move_by_adamw(parameters, group)
                continue
            for parameter in parameters:
                self._move_by_muon(parameter, group)

    def _move_by_muon(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state, momentum = parameter.grad, self.state[parameter], group["momentum"]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        update = (gradient.lerp(mean, momentum) if group["nesterov"] else mean).flatten(1)
        direction = orthogonal(
            update.to(self._dtype), coefficients=group["coefficients"], steps=group["steps"], eps=group["eps"]
        )
        rows, columns = update.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        scale = SCALINGS[group["scaling"]](rows, columns)
        parameter.add_(direction.reshape(parameter.shape), alpha=-group["lr"] * scale)

    def _move_by_adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        adamw(
            [*parameters],
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=self._fused,
            amsgrad=False,
            maximize=False,
            **{name: group[name] for name in ("beta1", "beta2", "lr", "weight_decay", "eps")},
        )


def orthogonal(matrix: Tensor, *, coefficients: Coefficients, steps: int, eps: float) -> Tensor:
    """U S V' of a matrix U D V', with all of S near 1: by the iteration X <- a X + b X X'X + c X X'X X'X.

    The coefficients are the author's, chosen for speed: S ends between about 0.7 and 1.2 (see "Muon" as above).
    """
    a, b, c = coefficients
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


SCALINGS: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
    "match_rms_adamw": lambda rows, columns: 0.2 * math.sqrt(max(rows, columns)),
    "spectral_unclamped": lambda rows, columns: math.sqrt(rows / columns),
}
