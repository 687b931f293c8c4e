"""Cut weights or channels of a published model, retrain what is left, publish the result as its child."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

from nets import filters, pruning, training
from nets.anatomy import layers_since, shapes_of
from nets.architectures import Network
from nets.distillation import Teacher
from nets.errors import CannotCut
from nets.narrowing import narrowed
from specs.jobs import ALPHA, TEMPERATURE, PruneSpec
from specs.pruning import PRUNING_METHODS, FilterOptions, MagnitudeOptions
from workers.parents import Parent, child_of, load_parent
from workers.plans import plan_fine_tuning
from workers.publishing import publish
from workers.quotes import Prepared, foresee
from workers.reports import Stages, report_beside
from workers.run import Run
from workers.scores import judge, judge_and_calibrate
from workers.speed import Speeds, share_for_speed

# Of what was asked for: less is told.
NOTICEABLE = 0.8


@dataclass(frozen=True)
class Cut:
    """What a cut left: a network, weights of it that have to stay zero, and figures for the result."""

    network: Network
    masks: pruning.Masks | None
    figures: dict[str, float]


def prune(run: Run, spec: PruneSpec) -> None:
    """The task of a prune job. The parent's own split is used: what validated it does not train its child."""
    run.enter("loading")
    parent = load_parent(run, spec.model)
    plan = plan_fine_tuning(spec, spec.fine_tune, origin=parent.origin) if spec.fine_tune is not None else None
    if plan is not None:
        training.check_batches(parent.network, parent.data, plan)
    gradually = None if plan is None else _rounds(spec, epochs=plan.epochs)
    run.enter("pruning")
    before, shapes = judge(parent.network, parent.data, run.on_work), shapes_of(parent.network)
    cut = CUTS[PRUNING_METHODS[spec.method].cuts](run, spec, parent)
    # In rounds there is no moment at which all is cut and nothing retrained.
    after_cut = judge(cut.network, parent.data, run.on_work) if gradually is None else None
    best_epoch = 0
    if plan is not None:
        foresee(run, Prepared(cut.network, parent.data, plan), field="fine_tune.batch_size")
        run.enter("training")
        trained = cut.network if gradually is None else deepcopy(parent.network)
        masks = cut.masks if gradually is None else None
        retrained = training.train(
            trained, parent.data, plan, run, masks=masks, gradually=gradually, teacher=_teacher(spec, parent)
        )
        cut, best_epoch = replace(cut, network=retrained.network), retrained.best_epoch
    run.enter("evaluating")
    stages = Stages(before, after_cut, judge_and_calibrate(cut.network, parent.data, run.on_work))
    request = child_of(
        parent,
        run,
        "pruned",
        training={**parent.manifest.training, "prune": spec.model_dump(mode="json")},
        judged=stages.after,
        best_epoch=best_epoch,
    )
    result = {
        "accuracy_before": stages.before.test.accuracy,
        "accuracy_after_cut": None if after_cut is None else after_cut.test.accuracy,
        "accuracy_after_retraining": stages.after.test.accuracy,
        **cut.figures,
    }
    layers = layers_since(cut.network, shapes)
    told = report_beside(run, stages, layers, parent)
    publish(run, cut.network, request, test=stages.after.test, result=result, report=told)


def _teacher(spec: PruneSpec, parent: Parent) -> Teacher | None:
    """The parent as it was, if it is to teach its child."""
    if spec.fine_tune is None or not spec.fine_tune.distill:
        return None
    return Teacher(parent.network, TEMPERATURE, ALPHA)


def _rounds(spec: PruneSpec, *, epochs: int) -> pruning.Gradually | None:
    """How the cut is spread over the retraining, if it is; CannotCut if a rewind has fewer epochs than rounds."""
    if not isinstance(spec, MagnitudeOptions) or spec.rounds == 1:
        return None
    if spec.rounds > epochs:
        raise CannotCut(f"each of {spec.rounds} rounds takes an epoch, and the parent was trained for {epochs}")
    return pruning.Gradually(spec.method, spec, epochs)


def _cut_weights(_run: Run, spec: PruneSpec, parent: Parent) -> Cut:
    masks, network = pruning.select(parent.network, method=spec.method, options=spec), deepcopy(parent.network)
    masks.apply(network)
    return Cut(network, masks, {"sparsity": pruning.sparsity(network).prunable})


def _cut_channels(run: Run, spec: PruneSpec, parent: Parent) -> Cut:
    assert isinstance(spec, FilterOptions)
    seed = parent.origin.seed
    cutter = filters.cutter(parent.network, parent.data, method=spec.method, options=spec, seed=seed, told=run.on_work)
    share, found = _share(run, cutter, parent)
    kept = cutter.keep(share)
    if spec.sparsity is not None:
        _hold_against(run, spec, gone=cutter.gone(kept))
    network = narrowed(parent.network, cutter.groups, kept)
    measured = {name: measure(network) for name, measure in filters.measures(cutter, parent.data).items()}
    figures = {f"{name}_left": round(value, 4) for name, value in measured.items()}
    # Weights that were cut of the parent stay cut, as far as their channels are still there.
    masks = pruning.zeros(network) if pruning.sparsity(network).prunable else None
    return Cut(network, masks, {"sparsity": round(cutter.gone(kept), 4), **figures, **found})


def _hold_against(run: Run, spec: FilterOptions, *, gone: float) -> None:
    """CannotCut if not a channel goes; an event if far fewer do than were asked for."""
    stays = f"layers keep channels in multiples of {spec.round_to}, and one at least"
    if gone == 0:
        more = "a larger sparsity" if spec.layers is None else "larger shares"
        raise CannotCut(f"no channel would go, as {stays}. Take a smaller round_to, or {more}")
    if spec.layers is None and spec.sparsity is not None and gone < NOTICEABLE * spec.sparsity:
        run.on_notice(f"Of all channels {gone:.1%} go, not {spec.sparsity:.1%}: {stays}.")


def _share(run: Run, cutter: filters.Cutter, parent: Parent) -> tuple[float, dict[str, float]]:
    """The share of channels to cut, and what was found out on the way."""
    options = cutter.options
    if options.sparsity is not None:
        return options.sparsity, {}
    if options.speedup is not None:
        # By a clock another attempt would come to another share, and its checkpoints would not fit.
        found = run.remember(partial(_timed, run, cutter, parent, options.speedup))
        return float(found["share"]), {name: value for name, value in found.items() if name != "share"}
    name, asked = ("macs", options.macs) if options.macs is not None else ("parameters", options.parameters)
    assert asked is not None
    return filters.share_for(cutter, filters.measures(cutter, parent.data)[name], asked, name=name), {}


def _timed(run: Run, cutter: filters.Cutter, parent: Parent, asked: float) -> dict[str, float]:
    share, found = share_for_speed(Speeds(run, parent), cutter, parent.data, asked=asked)
    return {"share": share, "speedup_found": round(found, 3)}


CUTS = {"weights": _cut_weights, "channels": _cut_channels}
