"""Optimizers: each is torch's own for the same hyperparameters, and each learns."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn, optim

from nets.datasets import Dataset
from nets.layers import layers_of
from nets.muon import Muon, orthogonal
from nets.optimizers import build, set_factor
from nets.training import train
from specs.optimizers import OPTIMIZERS, MuonOptions
from specs.schedules import SCHEDULES
from tests.nets.conftest import FolderObserver, plan, small_network

ADAM = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6, "weight_decay": 0.05, "amsgrad": True}
MOMENTUM = {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.02}
# Every hyperparameter away from its default.
UNUSUAL: dict[str, list[dict[str, Any]]] = {
    "adam": [ADAM, {**ADAM, "amsgrad": False}],
    "adamw": [ADAM, {**ADAM, "amsgrad": False}],
    "adagrad": [{"lr": 0.02, "lr_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-6, "weight_decay": 0.05}],
    "rmsprop": [
        {"lr": 0.01, "alpha": 0.8, "momentum": 0.5, "centered": centered, "eps": 1e-6, "weight_decay": 0.05}
        for centered in (True, False)
    ],
    "sgd": [{"lr": 0.05, "weight_decay": 0.02}],
    "momentum": [{**MOMENTUM, "dampening": 0.3}, {**MOMENTUM, "nesterov": True}],
    "nesterov": [MOMENTUM],
    "muon": [],  # held against torch's below, part by part
}
CASES = [(name, options) for name in OPTIMIZERS for options in UNUSUAL[name]]


def theirs(name: str, options: dict[str, Any], parameters: list[nn.Parameter]) -> optim.Optimizer:
    """torch's, one parameter after the other, without the fused kernels."""
    values = dict(options)
    if "beta1" in values:
        values["betas"] = (values.pop("beta1"), values.pop("beta2"))
    if name == "nesterov":
        values["nesterov"] = True
    classes = {"adam": optim.Adam, "adamw": optim.AdamW, "adagrad": optim.Adagrad, "rmsprop": optim.RMSprop}
    made: Callable[..., optim.Optimizer] = classes.get(name, optim.SGD)
    return made(parameters, foreach=False, **values)


def steps(network: nn.Module, optimizer: optim.Optimizer, scale: float = 1.0) -> None:
    """Six steps with gradients that are the same for any two networks of one make."""
    generator = torch.Generator().manual_seed(3)
    for number in range(6):
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * 0.9**number
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).mul_(scale)
        optimizer.step()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_steps_are_those_of_torch(name: str, options: dict[str, Any]) -> None:
    ours, peer = small_network("mlp"), small_network("mlp")
    steps(ours, build(OPTIMIZERS[name].options(**options), ours))
    steps(peer, theirs(name, options, list(peer.parameters())))
    for mine, other in zip(ours.parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def another(option: str, default: Any) -> Any:
    """A value of an option that is not its default."""
    chosen = {"adjust_lr_fn": "match_rms_adamw", "ns_coefficients": (3.0, -3.2, 1.2), "ns_steps": 3}
    return chosen.get(option, not default if isinstance(default, bool) else 0.5)


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in OPTIMIZERS for option in OPTIMIZERS[name].options.model_fields if option != "name"],
)
def test_every_hyperparameter_changes_the_steps(name: str, option: str) -> None:
    """An option that is left behind on the way to torch would change nothing."""
    kind = OPTIMIZERS[name].options
    usual = {"weight_decay": 0.1} if option == "decay_norms" else {}
    changed, plain = small_network("mlp"), small_network("mlp")
    # Gradients so small that what is added to a denominator tells.
    steps(changed, build(kind(**usual, **{option: another(option, kind.model_fields[option].default)}), changed), 0.01)
    steps(plain, build(kind(**usual), plain), 0.01)
    pairs = zip(changed.parameters(), plain.parameters(), strict=True)
    assert any(not torch.equal(one, two) for one, two in pairs)


def test_momentum_that_looks_ahead_has_two_names() -> None:
    first, second = small_network("mlp"), small_network("mlp")
    steps(first, build(OPTIMIZERS["momentum"].options(nesterov=True), first))
    steps(second, build(OPTIMIZERS["nesterov"].options(), second))
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_and_norms_are_decayed_on_request(name: str) -> None:
    decay = {key: 0.1 for key in ("weight_decay", "adamw_weight_decay") if key in OPTIMIZERS[name].options.model_fields}
    for decay_norms in (True, False):
        network = small_network("resnet18")
        before = deepcopy(network)
        with torch.no_grad():
            for parameter in [*network.parameters(), *before.parameters()]:
                parameter.add_(1.0)
                parameter.grad = torch.zeros_like(parameter)
        build(OPTIMIZERS[name].options(**decay, decay_norms=decay_norms), network).step()
        for new, old in zip(network.parameters(), before.parameters(), strict=True):
            assert torch.equal(new, old) == (old.ndim == 1 and not decay_norms)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_factor_is_of_the_learning_rates_that_were_asked_for(name: str) -> None:
    network = small_network("mlp")
    optimizer = build(OPTIMIZERS[name].options(), network)
    wanted = [group["lr"] for group in optimizer.param_groups]
    for factor in (0.5, 0.25, 1.0):
        set_factor(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [lr * factor for lr in wanted]


@pytest.mark.parametrize(("network", "name"), [*(("mlp", name) for name in OPTIMIZERS), ("resnet18", "muon")])
def test_each_learns_with_its_defaults(digits: Dataset, tmp_path: Path, network: str, name: str) -> None:
    observer = FolderObserver(tmp_path)
    training = plan(
        optimizer=OPTIMIZERS[name].options(),
        schedule=SCHEDULES["constant"].options(),
        augmentation=(),
        epochs=5 if network == "mlp" else 1,
    )
    train(small_network(network), digits, training, observer)
    assert observer.rows[-1].validation_accuracy > 0.6


MUON: dict[str, Any] = {"lr": 0.03, "weight_decay": 0.2, "momentum": 0.9}


def muon(parameter: nn.Parameter, **changes: Any) -> Muon:
    """Muon of one parameter in bfloat16, as torch's is on any machine."""
    options = MuonOptions(name="muon", **MUON)
    group = {
        "params": [parameter],
        "nesterov": options.nesterov,
        "coefficients": options.ns_coefficients,
        "steps": options.ns_steps,
        "eps": options.eps,
        "scaling": options.adjust_lr_fn,
        **MUON,
        **changes,
    }
    return Muon([group], dtype=torch.bfloat16, fused=True)


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (9, 9)])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scaling", ["original", "match_rms_adamw", "spectral_unclamped"])
def test_muon_moves_matrices_as_torch_does(shape: tuple[int, int], nesterov: bool, scaling: str) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, peer = nn.ParameterList([start.clone()]), nn.ParameterList([start.clone()])
    steps(ours, muon(ours[0], nesterov=nesterov, scaling=scaling))
    steps(peer, optim.Muon([peer[0]], nesterov=nesterov, adjust_lr_fn=scaling, **MUON))
    assert torch.equal(ours[0], peer[0])
    assert not torch.equal(ours[0], start)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_takes_a_convolution_for_a_matrix(layout: torch.memory_format) -> None:
    start = torch.randn((6, 4, 3, 3), generator=torch.Generator().manual_seed(1))
    kernel, matrix = nn.ParameterList([start.to(memory_format=layout)]), nn.ParameterList([start.flatten(1)])
    steps(kernel, muon(kernel[0]))
    generator = torch.Generator().manual_seed(3)
    optimizer = muon(matrix[0])
    for number in range(6):
        matrix[0].grad = torch.randn(start.shape, generator=generator).flatten(1)
        optimizer.param_groups[0]["lr"] = MUON["lr"] * 0.9**number
        optimizer.step()
    assert torch.equal(kernel[0].flatten(1), matrix[0])
    assert kernel[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shape", [(64, 300), (300, 64), (32, 32)])
def test_orthogonal_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    options = MuonOptions(name="muon")
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonal(matrix, coefficients=options.ns_coefficients, steps=options.ns_steps, eps=options.eps)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5
    assert values.max() < 1.3
    # The same singular vectors: the product with the original is symmetric and has no negative part.
    product = matrix.T @ made if shape[0] > shape[1] else matrix @ made.T
    torch.testing.assert_close(product, product.T, rtol=1e-3, atol=1e-3)
    assert torch.linalg.eigvalsh(product).min() > 0


def test_muon_is_for_hidden_weights_and_adamw_for_all_else() -> None:
    network = small_network("resnet18")
    peer = deepcopy(network)
    options = OPTIMIZERS["muon"].options(adamw_weight_decay=0.03, adamw_beta1=0.8, adamw_lr=0.004)
    steps(network, build(options, network))
    hidden = {f"{name}.weight" for name in layers_of(network).hidden}
    others = [parameter for name, parameter in peer.named_parameters() if name not in hidden]
    generator = torch.Generator().manual_seed(3)
    adamw = optim.AdamW(others, lr=0.004, betas=(0.8, 0.999), weight_decay=0.03)
    for number in range(6):
        adamw.param_groups[0]["lr"] = 0.004 * 0.9**number
        for parameter in peer.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        adamw.step()
    moved = dict(network.named_parameters())
    for name, parameter in peer.named_parameters():
        if name in hidden:
            assert not torch.equal(moved[name], parameter), name
        else:
            torch.testing.assert_close(moved[name], parameter, rtol=1e-5, atol=1e-6)
    assert {"conv1.weight", "fc.weight", "fc.bias", "bn1.weight"}.isdisjoint(hidden)
    assert "layer1.0.conv1.weight" in hidden


def test_depthwise_filters_are_adamws() -> None:
    network = small_network("mobilenet_v2")
    muons, adamws = (
        {
            id(p)
            for group in build(OPTIMIZERS["muon"].options(), network).param_groups
            if ("momentum" in group) == wanted
            for p in group["params"]
        }
        for wanted in (True, False)
    )
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)][1:]
    depthwise = [module for module in convolutions if module.groups > 1]
    assert len(depthwise) > 10
    assert {id(module.weight) for module in depthwise} <= adamws
    assert {id(module.weight) for module in convolutions if module.groups == 1} == muons


def test_a_network_without_hidden_layers_is_adamws() -> None:
    network = small_network("mlp", hidden=(16,))
    optimizer = build(OPTIMIZERS["muon"].options(decay_norms=False), network)
    assert all("beta1" in group for group in optimizer.param_groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_muon_takes_no_closure() -> None:
    network = small_network("mlp")
    with pytest.raises(TypeError, match="closure"):
        build(OPTIMIZERS["muon"].options(), network).step(lambda: 0.0)
