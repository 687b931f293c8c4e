"""What a job would meet: a training its time and memory, a pruning how much each layer bears."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nets import filters, sensitivity
from nets.answers import answers
from nets.pruning import prunable_weights
from specs.jobs import DistillSpec, PruneSpec, QuoteSpec, TrainSpec
from specs.pruning import PRUNING_METHODS, FilterOptions
from store import queue
from workers.memory import memory_available
from workers.parents import Parent, load_parent
from workers.quotes import quote_training
from workers.run import Run
from workers.tasks import distill, train


def quote(run: Run, spec: QuoteSpec) -> None:
    """The task of a quote job. It makes no model; what it found is its result."""
    run.enter("loading")
    asked, available = spec.job, memory_available()
    if isinstance(asked, TrainSpec):
        result = quote_training(run, asked, train.prepare(run, asked), available=available)
    elif isinstance(asked, DistillSpec):
        prepared = distill.prepare(run, asked, load_parent(run, asked.teacher))
        result = quote_training(run, asked, prepared, available=available)
    else:
        assert isinstance(asked, PruneSpec)
        result = _sensitivity(run, asked)
    with run.database.write() as session:
        queue.succeed(session, run.claim, result)


def _sensitivity(run: Run, asked: PruneSpec) -> dict[str, Any]:
    """How much each layer bears, from validation images and without training."""
    parent = load_parent(run, asked.model)
    whole = answers(parent.network, sensitivity.some(parent.data), parent.data).accuracy
    cuts = PRUNING_METHODS[asked.method].cuts
    layers = _of_weights(run, parent) if cuts == "weights" else _of_channels(run, asked, parent)
    return {
        "accuracy": whole,
        "images": min(sensitivity.IMAGES, len(parent.data.validation)),
        "layers": [_row(layer) for layer in layers],
        "suggested": _suggested(asked, parent, sensitivity.bearable_layers(layers, whole)),
    }


def _suggested(asked: PruneSpec, parent: Parent, layers: dict[str, float]) -> dict[str, Any]:
    """The job that was asked about, with these shares instead of what it says of how much."""
    targets = PRUNING_METHODS[asked.method].options.targets
    said = asked.model_dump(mode="json", exclude_defaults=True, exclude={*targets, "rounds"})
    return {**said, "kind": "prune", "model": parent.manifest.id, "method": asked.method, "layers": layers}


def _row(layer: sensitivity.Layer) -> dict[str, Any]:
    return {"name": layer.name, "size": layer.size, "accuracy": {str(k): v for k, v in layer.accuracy.items()}}


def _of_weights(run: Run, parent: Parent) -> list[sensitivity.Layer]:
    found = sensitivity.of_weights(parent.network, parent.data, run.on_work)
    return _told(run, found, total=len(prunable_weights(parent.network)))


def _of_channels(run: Run, spec: PruneSpec, parent: Parent) -> list[sensitivity.Layer]:
    assert isinstance(spec, FilterOptions)
    cutter = filters.cutter(
        parent.network, parent.data, method=spec.method, options=spec, seed=parent.origin.seed, told=run.on_work
    )
    return _told(run, sensitivity.of_channels(cutter, parent.data, run.on_work), total=len(cutter.groups))


def _told(run: Run, layers: Iterable[sensitivity.Layer], *, total: int) -> list[sensitivity.Layer]:
    """All of them, with progress; broken off if the worker is to stop."""
    found = []
    for layer in layers:
        found.append(layer)
        run.on_files("measuring", len(found), total)
    return found
