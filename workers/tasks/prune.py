"""Cut weights of a published model, retrain what is left, publish the result as its child."""

from __future__ import annotations

from dataclasses import replace

from nets import pruning, training
from nets.publishing import Publication, load_network
from specs.jobs import PruneSpec, TrainSpec
from store import models
from store.ids import new_id
from workers.data import load_data
from workers.plans import plan_fine_tuning
from workers.publishing import publish
from workers.run import Run
from workers.scores import scores


def prune(run: Run, spec: PruneSpec) -> None:
    """The task of a prune job. The parent's own split is used: what validated it does not train its child."""
    run.enter("loading")
    with run.database.read() as session:
        parent = models.find_model(session, spec.model)
    network, manifest = load_network(run.artifacts.model(parent.id))
    origin, look = TrainSpec.model_validate(manifest.training["train"]), manifest.preprocessing
    plan = plan_fine_tuning(spec, spec.fine_tune, origin=origin) if spec.fine_tune is not None else None
    data = load_data(
        run,
        origin.dataset,
        image_size=look.image_size,
        seed=origin.seed,
        validation_fraction=origin.validation_fraction,
    )
    # A pretrained parent has the normalisation of its weights, not that of its training images.
    data = replace(data, mean=look.mean, std=look.std)
    run.enter("pruning")
    masks = pruning.select(network, method=spec.method, options=spec)
    masks.apply(network)
    after_cut = scores(network, data)
    best_epoch = 0
    if plan is not None:
        run.enter("training")
        best_epoch = training.train(network, data, plan, run, masks=masks).best_epoch
    run.enter("evaluating")
    metrics = scores(network, data)
    request = Publication(
        id=new_id("mdl"),
        kind="pruned",
        architecture=manifest.architecture,
        data=data,
        dataset={"id": origin.dataset},
        training={**manifest.training, "prune": spec.model_dump(mode="json")},
        lineage={"job": run.claim.job_id, "parent": parent.id, "best_epoch": best_epoch},
        metrics=metrics,
    )
    report = {
        "accuracy_before": manifest.metrics["test_accuracy"],
        "accuracy_after_cut": after_cut["test_accuracy"],
        "accuracy_after_retraining": metrics["test_accuracy"],
        "sparsity": pruning.sparsity(network).prunable,
    }
    publish(run, network, request, result=report)
