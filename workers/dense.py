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
from inference.models import GoldenMismatch, LoadedModel
from inference.runtimes import CannotRun
from nets.anatomy import layers_since, shapes_of
from nets.architectures import Network
from nets.datasets import Dataset
from nets.pruning import Gradually, Masks
from nets.publishing import Publication, publish
from specs.jobs import TrainSpec
from store.errors import StorageFull
from store.room import room
from workers.parents import checkpointed, network_after
from workers.publishing import Report
from workers.reports import NO_REPORT, Stages, report
from workers.run import Run
from workers.scores import Judged, judge, judge_and_calibrate


@dataclass(frozen=True)
class Dense:
    """The network in a directory, as models are, for as long as it is measured."""

    directory: Path
    manifest: ModelManifest
    loaded: LoadedModel

    def served(self, *, threads: int) -> LoadedModel:  # noqa: ARG002 - as a parent is asked
        """In its fastest runtime."""
        return self.loaded


def beside_dense(
    run: Run, spec: TrainSpec, gradually: Gradually, network: Network, request: Publication, judged: Judged
) -> Report | None:
    """The report of a `network` that was cut while it trained.

    None where no epoch came before the first cut, and where the checkpoint of that time is damaged: an event says so.
    """
    if gradually.start == 0:
        return None
    data, job = request.data, run.claim.job_id
    try:
        dense = network_after(run, job, gradually.start, architecture=spec.architecture, data=data)
        trained = None
        if gradually.options.rounds == 1:
            trained = checkpointed(run, job, gradually.start, architecture=spec.architecture, data=data, averaged=False)
    except DamagedFiles as error:
        run.on_notice(NO_REPORT.format(error))
        return None
    before = judge_and_calibrate(dense, data, run.on_work)
    stages = Stages(before, _after_cut(run, dense, gradually, trained, data), judged)
    layers = layers_since(network, shapes_of(dense))
    described = replace(request, metrics=before.scores(), calibration=before.calibration)
    threads = run.settings.inference_threads

    def tell(child: Path, runtime: str) -> dict[str, Any] | None:
        folder = run.artifacts.new_scratch()
        try:
            larger = _published(run, folder, dense, described)
            if larger is None:
                return None
            told = report(stages, layers, larger, child, runtime, threads=threads)
            return {**told, "dense_epoch": gradually.start}
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return tell


def _published(run: Run, folder: Path, dense: Network, described: Publication) -> Dense | None:
    """The network in a folder. None, with an event, if it cannot be there or run: what was trained is worth more."""
    try:
        with room():
            manifest = publish(folder, dense, request=described, graphs=run.artifacts.graphs())
        return Dense(folder, manifest, fastest(folder, threads=run.settings.inference_threads))
    except (CannotRun, GoldenMismatch, DamagedFiles, StorageFull) as error:
        run.on_notice(NO_REPORT.format(error))
        return None


def _after_cut(run: Run, dense: Network, gradually: Gradually, trained: Network | None, data: Dataset) -> Judged | None:
    """What the cut left if all was cut at once; in rounds there is no moment at which nothing is retrained.

    What is cut was chosen by the weights that were `trained`, those of auxiliary heads among them.
    """
    masks = None if trained is None else gradually.masks(trained, gradually.start)
    if masks is None:
        return None
    network = deepcopy(dense)
    left = dict(network.named_parameters())
    Masks({name: cut for name, cut in masks.cut.items() if name in left}).apply(network)
    return judge(network, data, run.on_work)
