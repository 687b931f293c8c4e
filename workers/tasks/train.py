"""Train a network from random weights and publish the epoch of the best validation accuracy."""

from __future__ import annotations

import psutil

from nets import architectures, devices, training
from nets.memory import check_fits
from nets.publishing import Publication
from specs.jobs import TrainSpec
from store.ids import new_id
from workers.data import load_data
from workers.publishing import publish
from workers.run import Run
from workers.scores import scores


def train(run: Run, spec: TrainSpec) -> None:
    """The task of a train job."""
    run.enter("loading")
    data = load_data(
        run,
        spec.dataset,
        image_size=spec.image_size,
        seed=spec.seed,
        validation_fraction=spec.validation_fraction,
    )
    look = {"classes": len(data.classes), "channels": data.channels, "image_size": data.image_size}
    check_fits(spec.architecture, **look, available=psutil.virtual_memory().available)
    network = architectures.build(spec.architecture, **look, seed=spec.seed)
    run.enter("training")
    result = training.train(network, data, plan_of(spec), run)
    run.enter("evaluating")
    request = Publication(
        id=new_id("mdl"),
        kind="trained",
        architecture=spec.architecture.model_dump(mode="json"),
        data=data,
        dataset={"id": spec.dataset},
        training={"train": spec.model_dump(mode="json")},
        lineage={"job": run.claim.job_id, "parent": None, "best_epoch": result.best_epoch},
        metrics=scores(result.network, data),
    )
    publish(run, result.network, request, result={"best_epoch": result.best_epoch, "epochs_run": result.epochs_run})


def plan_of(spec: TrainSpec) -> training.TrainingPlan:
    """The training that a spec describes, on the device it comes down to."""
    return training.TrainingPlan(
        optimizer=spec.optimizer,
        schedule=spec.schedule,
        augmentation=spec.augmentation,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        seed=spec.seed,
        patience=spec.early_stopping.patience if spec.early_stopping else None,
        device=devices.resolve(spec.device),
    )
