"""Train a network on the images of a published model and on what that model thinks of them."""

from __future__ import annotations

from nets import architectures, training
from nets.anatomy import layers_since, shapes_of
from nets.architectures import without_auxiliary
from nets.distillation import Teacher
from nets.memory import check_fits
from specs.jobs import DistillSpec
from store.quotes import compared
from workers.memory import free_memory
from workers.parents import Parent, as_of_epoch, child_of, load_parent
from workers.plans import plan_distilling, plan_shrinking, student_origin
from workers.publishing import publish
from workers.quotes import Prepared, foresee
from workers.reports import Stages, report_beside
from workers.run import Run
from workers.scores import judge, judge_and_calibrate


def distill(run: Run, spec: DistillSpec) -> None:
    """The task of a distill job. The teacher's own split is used: what validated it does not train its student."""
    run.enter("loading")
    parent = load_parent(run, spec.teacher)
    prepared = prepare(run, spec, parent)
    data = prepared.data
    foresee(run, prepared)
    run.enter("training")
    result = training.train(
        prepared.network, data, prepared.plan, run, gradually=plan_shrinking(spec), teacher=prepared.teacher
    )
    run.enter("evaluating")
    before = judge(parent.network, data, run.on_work)
    after = judge_and_calibrate(result.network, data, run.on_work)
    origin = student_origin(parent.origin, spec)
    request = child_of(
        parent,
        run,
        "distilled",
        architecture=spec.architecture,
        training={"train": origin.model_dump(mode="json"), "distill": spec.model_dump(mode="json")},
        judged=after,
        best_epoch=result.best_epoch,
    )
    published, _ = without_auxiliary(result.network, spec.architecture, **data.look)
    layers = layers_since(published, shapes_of(published))
    told = report_beside(run, Stages(before, None, after), layers, parent)
    with run.database.read() as session:
        quoted = compared(session, run.claim, spec)
    facts = {"best_epoch": result.best_epoch, "epochs_run": result.epochs_run, **quoted}
    publish(run, result.network, request, test=after.test, result=facts, report=told)


def prepare(run: Run, spec: DistillSpec, parent: Parent) -> Prepared:
    """The student, its data, how it is to be trained and by whom."""
    plan, data = plan_distilling(spec), parent.data
    check_fits(spec.architecture, **data.look, available=free_memory(), averaged=spec.ema is not None)
    student = architectures.build(spec.architecture, **data.look, seed=spec.seed)
    taught_by = parent.network if spec.teacher_epoch is None else as_of_epoch(run, parent, spec.teacher_epoch)
    return Prepared(student, data, plan, Teacher(taught_by, spec.temperature, spec.alpha))
