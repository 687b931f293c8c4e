"""What a training can be asked for beside network, data, optimizer and schedule, and what is refused of it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from specs.architectures import ARCHITECTURES
from specs.jobs import JOB_SPEC, FineTune, TrainSpec, parse_job
from specs.optimizers import OPTIMIZERS
from specs.pretrained import PRETRAINED
from specs.problems import FieldProblem, field_problems
from specs.schedules import SCHEDULES, SPELLINGS
from specs.training import EarlyStopping, EmaOptions, LossOptions

TRAIN: dict[str, Any] = {"kind": "train", "dataset": "digits", "architecture": "mlp"}
PRUNE: dict[str, Any] = {"kind": "prune", "model": "first", "sparsity": 0.5}
WEIGHTS: dict[str, Any] = {"architecture": "resnet18", "pretrained": "IMAGENET1K_V1"}
CHOSEN: dict[str, Any] = {
    "loss": {"label_smoothing": 0.1, "class_weights": [1, 2.5]},
    "gradient_accumulation": 4,
    "gradient_clipping": 1.0,
    "ema": {"decay": 0.99},
    "early_stopping": {"patience": 3, "min_delta": 0.001},
    "precision": "auto",
}


def train_spec(**changes: Any) -> TrainSpec:
    spec = JOB_SPEC.validate_python({**TRAIN, **changes})
    assert isinstance(spec, TrainSpec)
    return spec


def problems_of(body: dict[str, Any]) -> list[FieldProblem]:
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python(body)
    return field_problems(caught.value.errors(), body)


def test_what_is_not_asked_for_changes_nothing() -> None:
    spec = train_spec()
    assert spec.loss == LossOptions(label_smoothing=0.0, class_weights=None)
    assert (spec.gradient_accumulation, spec.gradient_clipping, spec.ema) == (1, None, None)
    assert (spec.precision, spec.pretrained, spec.freeze, spec.early_stopping) == ("float32", None, None, None)
    assert EarlyStopping().min_delta == 0


def test_a_stored_spec_that_knows_nothing_of_this_is_read() -> None:
    stored = (
        '{"kind":"train","name":null,"dataset":"digits","architecture":{"name":"mlp"},"optimizer":{"name":"momentum",'
        '"lr":0.01,"weight_decay":0.0,"momentum":0.9,"nesterov":true},"schedule":{"name":"cosine","warmup":0.1,'
        '"final":0.0},"early_stopping":{"patience":2}}'
    )
    spec = parse_job(stored)
    assert isinstance(spec, TrainSpec)
    assert spec.optimizer == OPTIMIZERS["momentum"].options(nesterov=True)
    assert spec.schedule == SCHEDULES["cosine"].options(warmup=0.1)
    assert spec.early_stopping == EarlyStopping(patience=2, min_delta=0.0)


def test_what_is_asked_for_is_kept_and_read_back() -> None:
    spec = train_spec(**CHOSEN)
    assert spec.loss.class_weights == (1, 2.5)
    assert spec.ema == EmaOptions(decay=0.99)
    assert parse_job(spec.model_dump_json()) == spec
    assert hash(spec) == hash(train_spec(**CHOSEN))


def test_retraining_after_a_cut_takes_the_same() -> None:
    spec: Any = JOB_SPEC.validate_python({**PRUNE, "fine_tune": {"epochs": 2, **CHOSEN}})
    alone = train_spec(**CHOSEN)
    for field in CHOSEN:
        assert getattr(spec.fine_tune, field) == getattr(alone, field)
    assert {"pretrained", "freeze"}.isdisjoint(FineTune.model_fields)
    assert parse_job(spec.model_dump_json()) == spec


@pytest.mark.parametrize("field", sorted(CHOSEN.keys() | {"pretrained", "freeze"}))
def test_every_field_is_described(field: str) -> None:
    assert JOB_SPEC.json_schema()["$defs"]["TrainSpec"]["properties"][field]["description"]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"loss": {"label_smoothing": 1.0}}, "#/loss/label_smoothing", "below 1"),
    ({"loss": {"label_smoothing": -0.1}}, "#/loss/label_smoothing", "at least 0"),
    ({"loss": {"class_weights": "even"}}, "#/loss/class_weights", "'balanced'"),
    ({"loss": {"class_weights": [1.0]}}, "#/loss/class_weights", "at least 2"),
    ({"loss": {"class_weights": [1.0, 0]}}, "#/loss/class_weights/1", "at least 1e-06"),
    ({"loss": {"class_weights": [1e-60, 1.0]}}, "#/loss/class_weights/0", "at least 1e-06"),
    ({"optimizer": {"name": "adam", "eps": 1e-60}}, "#/optimizer/eps", "at least 1e-30"),
    ({"optimizer": {"name": "muon", "adamw_eps": 1e-60}}, "#/optimizer/adamw_eps", "at least 1e-30"),
    ({"loss": {"class_weights": [1.0, "2"]}}, "#/loss/class_weights/1", "a number"),
    ({"loss": {"class_weights": 3}}, "#/loss/class_weights", "a list"),
    ({"loss": {"smoothing": 0.1}}, "#/loss/smoothing", "label_smoothing"),
    ({"loss": None}, "#/loss", "an object"),
    ({"gradient_accumulation": 0}, "#/gradient_accumulation", "at least 1"),
    ({"gradient_accumulation": 1.5}, "#/gradient_accumulation", "whole number"),
    ({"gradient_clipping": 0}, "#/gradient_clipping", "greater than 0"),
    ({"gradient_clipping": "1"}, "#/gradient_clipping", "a number"),
    ({"ema": {"decay": 1}}, "#/ema/decay", "below 1"),
    ({"ema": {"decay": 0}}, "#/ema/decay", "greater than 0"),
    ({"ema": 0.99}, "#/ema", "an object"),
    ({"early_stopping": {"min_delta": -0.1}}, "#/early_stopping/min_delta", "at least 0"),
    ({"precision": "float16"}, "#/precision", "'bfloat16'"),
    ({"freeze": "all", **WEIGHTS}, "#/freeze", "'backbone'"),
    ({"freeze": "backbone"}, "#/freeze", "pretrained"),
    ({"pretrained": "IMAGENET1K_V1"}, "#/pretrained", "resnet18"),
    ({**WEIGHTS, "pretrained": "IMAGENET1K_V9"}, "#/pretrained", "Known: IMAGENET1K_V1"),
    ({**WEIGHTS, "pretrained": True}, "#/pretrained", "a string"),
    ({**WEIGHTS, "architecture": {"name": "resnet18", "width": 0.5}}, "#/pretrained", "architecture.width to: 1.0"),
    ({**WEIGHTS, "architecture": {"name": "resnet18", "stem": "small"}}, "#/pretrained", "architecture.stem to paper"),
    (
        {**WEIGHTS, "architecture": {"name": "resnet18", "activation": "tanh"}},
        "#/pretrained",
        "architecture.activation to",
    ),
    (
        {**WEIGHTS, "architecture": {"name": "mobilenet_v2", "activation": "relu"}},
        "#/pretrained",
        "activation to relu6",
    ),
    ({"optimizer": {"name": "momentum", "nesterov": True, "dampening": 0.1}}, "#/optimizer/dampening", "dampening"),
    ({"optimizer": {"name": "muon", "adjust_lr_fn": "none"}}, "#/optimizer/adjust_lr_fn", "'original'"),
    ({"optimizer": {"name": "adam", "maximize": True}}, "#/optimizer/maximize", "Known"),
    ({"schedule": {"name": "multistep", "milestones": [2, 2]}}, "#/schedule/milestones", "in order"),
    ({"schedule": {"name": "multistep", "milestones": [0]}}, "#/schedule/milestones/0", "at least 1"),
    ({"schedule": {"name": "plateau", "factor": 1}}, "#/schedule/factor", "below 1"),
    ({"schedule": "one_cycles"}, "#/schedule", "'one-cycle'"),
]


@pytest.mark.parametrize(("changes", "pointer", "hint"), BAD)
def test_bad_values_name_the_field_and_the_fix(changes: dict[str, Any], pointer: str, hint: str) -> None:
    (problem,) = problems_of({**TRAIN, **changes})
    assert problem["pointer"] == pointer
    assert hint in problem["hint"]
    assert problem["message"]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("form", ["name", "object"])
def test_other_spellings_of_a_schedule_are_taken_for_it(spelling: str, form: str) -> None:
    given = spelling if form == "name" else {"name": spelling, "warmup": 0.5}
    spec = train_spec(schedule=given)
    assert spec.schedule.name == SPELLINGS[spelling]
    assert parse_job(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "one-cycle"])
def test_every_schedule_has_a_warmup(name: str) -> None:
    assert SCHEDULES[name].options(warmup=0.1).model_dump()["warmup"] == 0.1
    assert SCHEDULES[name].options().model_dump()["warmup"] == 0


@pytest.mark.parametrize("entry", [entry for entry in PRETRAINED if entry.name in ARCHITECTURES], ids=lambda e: e.peer)
def test_pretrained_networks_take_the_stem_of_the_paper(entry: Any) -> None:
    network = {"name": entry.name, "width": entry.width}
    for weights in entry.weights:
        spec = train_spec(architecture=network, pretrained=weights, freeze="backbone")
        assert getattr(spec.architecture, "stem", None) == "paper"
        assert parse_job(spec.model_dump_json()) == spec
    assert getattr(train_spec(architecture=network).architecture, "stem", None) == "auto"


@pytest.mark.parametrize("name", sorted(ARCHITECTURES.keys() - {entry.name for entry in PRETRAINED}))
def test_networks_without_weights_say_so(name: str) -> None:
    (problem,) = problems_of({**TRAIN, "architecture": name, "pretrained": "IMAGENET1K_V1"})
    assert problem["pointer"] == "#/pretrained"
    assert "no pretrained weights of this network" in problem["message"]
