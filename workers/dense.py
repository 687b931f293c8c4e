"""A network whose weights are cut while it trains, as it was before the first cut: it has no other parent."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from formats.files import DamagedFiles
from formats.manifest import ModelManifest
from inference.comparing import fastest
from inference.models import LoadedModel
from nets.anatomy import layers_since, shapes_of
from nets.architectures import Network
from nets.datasets import Dataset
from nets.pruning import Gradually
from nets.publishing import Publication, publish
from specs.jobs import TrainSpec
from workers.parents import network_after
from workers.publishing import Report
from workers.reports import Stages, report
from workers.run import Run
from workers.scores import Judged, judge, judge_and_calibrate


@dataclass(frozen=True)
class Dense:
    """The network in a directory, as models are, for as long as it is measured."""

    directory: Path
    manifest: ModelManifest

    def served(self, *, threads: int) -> LoadedModel:
        """In its fastest runtime."""
        return fastest(self.directory, threads=threads)


def beside_dense(
    run: Run, spec: TrainSpec, gradually: Gradually, network: Network, request: Publication, judged: Judged
) -> Report | None:
    """The report of a `network` that was cut while it trained.

    None where no epoch came before the first cut, and where the checkpoint of that time is damaged: an event says so.
    """
    if gradually.start == 0:
        return None
    data = request.data
    try:
        dense = network_after(run, run.claim.job_id, gradually.start, architecture=spec.architecture, data=data)
    except DamagedFiles as error:
        run.on_notice(f"There will be no report, with nothing to compare the model with: {error}.")
        return None
    before = judge_and_calibrate(dense, data, run.on_work)
    stages = Stages(before, _after_cut(run, dense, gradually, data), judged)
    layers = layers_since(network, shapes_of(dense))
    described = replace(request, metrics=before.scores(), calibration=before.calibration)

    def tell(child: Path, runtime: str) -> dict[str, Any]:
        folder = run.artifacts.new_scratch()
        try:
            manifest = publish(folder, dense, request=described, graphs=run.artifacts.graphs())
            told = report(
                stages, layers, Dense(folder, manifest), child, runtime, threads=run.settings.inference_threads
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {**told, "dense_epoch": gradually.start}

    return tell


def _after_cut(run: Run, dense: Network, gradually: Gradually, data: Dataset) -> Judged | None:
    """What the cut left if all was cut at once; in rounds there is no moment at which nothing is retrained."""
    masks = gradually.masks(dense, gradually.start) if gradually.options.rounds == 1 else None
    if masks is None:
        return None
    network = deepcopy(dense)
    masks.apply(network)
    return judge(network, data, run.on_work)
