"""From a trained network to a model that can be served: files in place, measured, then one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from formats.manifest import Calibration, ModelManifest, stored_bytes
from inference.gpu import Graphics
from inference.kernel_cache import KernelCache
from inference.measuring import Measurement, measure
from nets import publishing as files
from nets.answers import Answers, confusion
from nets.architectures import Network
from store import models, queue
from store.publishing import publishing
from workers.run import Run

Write = Callable[[Path], ModelManifest]
Report = Callable[[Path, str], dict[str, Any] | None]


def publish(
    run: Run,
    network: Network,
    request: files.Publication,
    *,
    test: Answers,
    result: dict[str, Any],
    report: Report | None = None,
) -> None:
    """Writes the model's files, measures it, then enters it and ends the job in one transaction.

    `test` is what it answers to the test images. `report` is given the directory of the model and its fastest runtime
    on the CPU, and compares it with its parent; None where that cannot be.
    """

    def write(directory: Path) -> ModelManifest:
        return files.publish(directory, network, request=request, graphs=run.artifacts.graphs())

    publish_files(run, write, request, test=test, result=result, report=report)


def publish_files(
    run: Run,
    write: Write,
    request: files.Publication,
    *,
    test: Answers,
    result: dict[str, Any],
    report: Report | None = None,
) -> None:
    """The same, where `write` fills an empty directory with the model's files."""
    run.enter("exporting")
    with run.artifacts.new_directory(run.artifacts.model(request.id)) as directory:
        manifest = write(directory)
        run.enter("measuring")
        measurement = _measure(run, directory)
        reported = None if report is None else report(directory, measurement.on_cpu)
    taken_for = confusion(test)  # it takes its time, for which nobody is to wait
    with publishing(run.database, run.artifacts, run.artifacts.model(request.id), run.claim) as session:
        name = queue.held(session, run.claim).name
        publication = _publication(manifest, request, name=name, latency=measurement.as_dict())
        models.publish(session, run.claim, replace(publication, report=reported, confusion=taken_for))
        removable = run.checkpoints.finish(session)
        told = {key: reported[key] for key in ("verdict", "reason")} if reported else {}
        queue.succeed(session, run.claim, {"model": manifest.id, **result, **told})
    for path in removable:
        run.artifacts.remove(path)


def _measure(run: Run, directory: Path) -> Measurement:
    kernels = KernelCache(run.artifacts.kernels(), capacity_bytes=run.settings.kernel_cache_bytes)
    graphics = Graphics(kernels=kernels) if run.settings.device_probe else None
    return measure(directory, threads=run.settings.inference_threads, kernels=kernels, graphics=graphics)


def _told(calibration: Calibration | None) -> dict[str, Any] | None:
    """What people want to know of a calibration: all but the bounds of label sets."""
    if calibration is None:
        return None
    return calibration.model_dump(mode="json", exclude={"least_probabilities"})


def _publication(
    manifest: ModelManifest, request: files.Publication, *, name: str, latency: dict[str, Any]
) -> models.Publication:
    facts = manifest.model_dump(
        mode="json", include={"architecture", "classes", "parameters", "nonzero_parameters", "macs", "metrics"}
    )
    facts["calibration"] = _told(manifest.calibration)
    facts["image_size"] = manifest.preprocessing.image_size
    facts["channels"] = manifest.preprocessing.channels
    facts["training_images"] = len(request.data.train)
    return models.Publication(
        id=manifest.id,
        name=name,
        kind=manifest.kind,
        dataset=manifest.dataset["id"],
        parent=manifest.lineage.get("parent"),
        weights_sha256=manifest.weights.sha256,
        bytes=stored_bytes(manifest),
        facts=facts,
        latency=latency,
    )
