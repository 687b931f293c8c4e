"""The model that a job makes another out of."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from formats.manifest import ModelManifest
from inference.choices import on_cpu_of
from inference.comparing import fastest
from inference.models import GoldenMismatch, LoadedModel, load_model
from inference.runtimes import CannotRun
from nets.architectures import Network, build, without_auxiliary
from nets.checkpoints import read_network
from nets.datasets import Dataset
from nets.publishing import Publication, load_network
from specs.jobs import TrainSpec
from specs.options import Options
from store import models
from store.checkpoints import kept_checkpoint
from store.ids import new_id
from workers.data import load_data
from workers.run import Run
from workers.scores import Judged


@dataclass(frozen=True)
class Parent:
    """A published model, as it is to be pruned: its network, what it says of itself, and the data it was trained on."""

    directory: Path
    network: Network
    manifest: ModelManifest
    data: Dataset
    origin: TrainSpec
    runtime: str | None

    def served(self, *, threads: int) -> LoadedModel:
        """The model in the runtime that was its fastest when it was published, or is if that runs it no more.

        CannotRun or GoldenMismatch if none does.
        """
        if self.runtime is not None:
            with suppress(CannotRun, GoldenMismatch):
                return load_model(self.directory, runtime=self.runtime, threads=threads)
        return fastest(self.directory, threads=threads)


def child_of(
    parent: Parent,
    run: Run,
    kind: Literal["pruned", "distilled", "quantized"],
    *,
    training: dict[str, Any],
    judged: Judged,
    architecture: Options | None = None,
    **lineage: Any,
) -> Publication:
    """What a model made out of another one says of itself; its architecture is the parent's if none is given."""
    return Publication(
        id=new_id("mdl"),
        kind=kind,
        architecture=parent.manifest.architecture if architecture is None else architecture.model_dump(mode="json"),
        data=parent.data,
        dataset={"id": parent.origin.dataset},
        training=training,
        lineage={"job": run.claim.job_id, "parent": parent.manifest.id, **lineage},
        metrics=judged.scores(),
        calibration=judged.calibration,
    )


def as_of_epoch(run: Run, parent: Parent, epoch: int) -> Network:
    """The parent's network as it was after an epoch of its training, which that kept; DamagedFiles if it is gone."""
    job = parent.manifest.lineage["job"]
    return network_after(run, job, epoch, architecture=parent.origin.architecture, data=parent.data)


def network_after(run: Run, job: str, epoch: int, *, architecture: Options, data: Dataset) -> Network:
    """What a job would have published after an epoch whose checkpoint is kept; DamagedFiles if that is gone."""
    network = checkpointed(run, job, epoch, architecture=architecture, data=data)
    return without_auxiliary(network, architecture, **data.look)[0].eval()


def checkpointed(
    run: Run, job: str, epoch: int, *, architecture: Options, data: Dataset, averaged: bool = True
) -> Network:
    """The network with its auxiliary heads, the average of its weights or those that were trained; DamagedFiles."""
    network = build(architecture, **data.look, seed=0)
    path = kept_checkpoint(run.database, run.artifacts, job, epoch=epoch)
    read_network(path, network, averaged=averaged)
    return network


def load_parent(run: Run, model_id: str) -> Parent:
    """The model of this id with the data it was trained on, split and normalised as they were for it."""
    with run.database.read() as session:
        row = models.find_model(session, model_id)
    directory = run.artifacts.model(row.id)
    network, manifest = load_network(directory)
    origin, look = TrainSpec.model_validate(manifest.training["train"]), manifest.preprocessing
    data = load_data(
        run,
        origin.dataset,
        image_size=look.image_size,
        seed=origin.seed,
        validation_fraction=origin.validation_fraction,
    )
    # A pretrained parent has the normalisation of its weights, not that of its training images.
    data = replace(data, mean=look.mean, std=look.std)
    return Parent(directory, network, manifest, data, origin, on_cpu_of(row.latency))
