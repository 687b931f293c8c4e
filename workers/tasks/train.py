"""Train a network from random or pretrained weights and publish the epoch of the best validation accuracy."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from nets import architectures, training
from nets.datasets import Dataset
from nets.memory import check_fits
from nets.publishing import Publication
from specs.jobs import TrainSpec
from store.ids import new_id
from store.quotes import compared
from workers.data import load_data, look_of
from workers.dense import beside_dense
from workers.growth import growth_told
from workers.memory import free_memory
from workers.plans import dense_epochs, plan_shrinking, plan_training
from workers.publishing import publish
from workers.quotes import Prepared, foresee
from workers.run import Run
from workers.scores import judge_and_calibrate

if TYPE_CHECKING:
    from nets.pretrained import Weights

TOLD = 5


def train(run: Run, spec: TrainSpec) -> None:
    """The task of a train job. What this machine may lack is asked for first, before any data are read."""
    prepared = prepare(run, spec)
    data = prepared.data
    foresee(run, prepared)
    _tell_of_untrained(run, data)
    run.enter("training")
    gradually = plan_shrinking(spec)
    run.checkpoints.kept = frozenset(spec.keep_epochs)
    run.checkpoints.needed = dense_epochs(spec)
    result = training.train(prepared.network, data, prepared.plan, run, gradually=gradually)
    run.enter("evaluating")
    judged = judge_and_calibrate(result.network, data, run.on_work)
    request = Publication(
        id=new_id("mdl"),
        kind="trained",
        architecture=spec.architecture.model_dump(mode="json"),
        data=data,
        dataset={"id": spec.dataset},
        training={"train": spec.model_dump(mode="json")},
        lineage={"job": run.claim.job_id, "parent": None, "best_epoch": result.best_epoch},
        metrics=judged.scores(),
        calibration=judged.calibration,
    )
    with run.database.read() as session:
        quoted = compared(session, run.claim, spec)
    facts = {"best_epoch": result.best_epoch, "epochs_run": result.epochs_run, **quoted}
    told = None if gradually is None else beside_dense(run, spec, gradually, result.network, request, judged)
    publish(run, result.network, request, test=judged.test, result=facts, report=told)


def _tell_of_untrained(run: Run, data: Dataset) -> None:
    """An event for classes of which no image trains: all others show what images of other splits do."""
    missing = data.untrained
    if missing:
        names = ", ".join(missing[:TOLD]) + (f" and {len(missing) - TOLD} more" if len(missing) > TOLD else "")
        run.on_notice(
            f"No image of these classes is left to train on: {names}. What they show stands in the other splits too, "
            "under these classes or others; a smaller validation_fraction leaves more."
        )


def prepare(run: Run, spec: TrainSpec) -> Prepared:
    """The network, its data and how it is to be trained."""
    run.enter("loading")
    plan = plan_training(spec)
    look = look_of(run, spec.dataset, image_size=spec.image_size)
    check_fits(spec.architecture, **look, available=free_memory(), averaged=spec.ema is not None)
    weights = _find_weights(run, spec)
    data = load_data(
        run,
        spec.dataset,
        image_size=spec.image_size,
        seed=spec.seed,
        validation_fraction=spec.validation_fraction,
    )
    network = architectures.build(spec.architecture, **data.look, seed=spec.seed)
    if weights is not None:
        weights.load_into(network)
        data = weights.normalise(data)
    return Prepared(network, data, plan)


def _find_weights(run: Run, spec: TrainSpec) -> Weights | None:
    if spec.pretrained is None:
        return None
    # Only now: torchvision takes as long to load as torch itself.
    pretrained = import_module("nets.pretrained")
    places = pretrained.Places(placed=run.settings.pretrained_dir, kept=run.artifacts.downloads() / "pretrained")
    with growth_told(places.kept, run.on_work):
        found: Weights = pretrained.find(pretrained.published(spec.architecture, spec.pretrained), places)
    return found
