"""Bodies shown on the docs page; the tests send each of them."""

from __future__ import annotations

from typing import Any

TRAIN: dict[str, Any] = {
    "kind": "train",
    "name": "first try",
    "dataset": "digits",
    "architecture": {"name": "resnet18", "width": 0.25},
    "optimizer": {"name": "adam", "lr": 0.001},
    "schedule": {"name": "one-cycle"},
    "epochs": 10,
    "batch_size": 64,
    "early_stopping": {"patience": 4},
    "seed": 0,
}

MODEL_CHANGES: dict[str, Any] = {"runtime": "openvino", "device": "auto"}

PRUNE: dict[str, Any] = {
    "kind": "prune",
    "model": "first try",
    "method": "magnitude",
    "sparsity": 0.9,
    "fine_tune": {"epochs": 5},
}

PRUNE_FILTERS: dict[str, Any] = {
    "kind": "prune",
    "model": "first try",
    "method": "l1-filter",
    "speedup": 2.0,
    "fine_tune": {"epochs": 10},
}

DISTILL: dict[str, Any] = {
    "kind": "distill",
    "teacher": "first try",
    "architecture": {"name": "mobilenet_v2", "width": 0.25},
    "epochs": 20,
}

QUANTIZE: dict[str, Any] = {"kind": "quantize", "model": "first try", "max_drop": 0.01}

JOBS: dict[str, Any] = {
    "train": {"summary": "Train a ResNet-18, a quarter as wide, on the built-in digits", "value": TRAIN},
    "shortest": {
        "summary": "The shortest job: names only",
        "value": {"kind": "train", "dataset": "digits", "architecture": "mlp"},
    },
    "fast": {
        "summary": "The recipe that learns fast, for longer than it says itself",
        "value": {"kind": "train", "recipe": "fast", "dataset": "digits", "architecture": "mobilenet_v2", "epochs": 8},
    },
    "momentum": {
        "summary": "A multilayer perceptron with SGD with momentum",
        "value": {
            "kind": "train",
            "dataset": "digits",
            "architecture": {"name": "mlp", "hidden": [128, 64], "dropout": 0.1},
            "optimizer": {"name": "momentum", "lr": 0.05},
            "epochs": 10,
        },
    },
    "prune": {"summary": "Cut 90 % of a model's weights and retrain", "value": PRUNE},
    "distill": {"summary": "Train a light network on a model's images and on what the model thinks", "value": DISTILL},
    "quantize": {"summary": "Compute with 8-bit integers, at most a point less right", "value": QUANTIZE},
    "filters": {"summary": "Cut channels until it is twice as fast, and retrain", "value": PRUNE_FILTERS},
}

CHANGES: dict[str, Any] = {
    "same": {"summary": "The same job once more", "value": {}},
    "seed": {"summary": "The same with another seed and name", "value": {"seed": 1, "name": "another seed"}},
    "lr": {"summary": "Another learning rate for the same optimizer", "value": {"optimizer": {"lr": 0.003}}},
    "optimizer": {"summary": "Another optimizer", "value": {"optimizer": {"name": "sgd", "lr": 0.05}}},
}

DATASETS: dict[str, Any] = {
    "upload": {"summary": "An archive, uploaded afterwards", "value": {"name": "cats and dogs"}},
    "tolerant": {
        "summary": "The same, ready even if a tenth of the files cannot be used",
        "value": {"name": "cats and dogs", "source": {"kind": "upload"}, "max_rejected": 0.1},
    },
    "folder": {
        "summary": "A folder of this machine, below one of PRUNEYARD_DATA_ROOTS",
        "value": {"name": "cats and dogs", "source": {"kind": "folder", "path": "/data/cats-and-dogs"}},
    },
    "torchvision": {
        "summary": "A data set that torchvision knows",
        "value": {"name": "mnist", "source": {"kind": "torchvision", "name": "mnist"}},
    },
}

ALIAS: dict[str, Any] = {"model": "first try"}

# The first of the built-in digits, a nought, as a PNG of 8 x 8 pixels.
PNG_BASE64 = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAARklEQVR4nAXBYRVAMBgAwHt7/vsiaGCaLIJGIqyCBp4EI4E1III7"
    "lLYFaG99i0Gelh55T+LqbpI4GUm+WeQP01PqAdZW8QOg+BHxst8QXwAAAABJRU5ErkJggg=="
)
