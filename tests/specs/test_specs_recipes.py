"""Recipes: each is a training that can be asked for, and what a job sets itself wins."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from specs.jobs import JOB_SPEC, TrainSpec, parse_job
from specs.problems import field_problems
from specs.recipes import RECIPES

TRAIN = {"kind": "train", "dataset": "digits", "architecture": "mlp"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_it_says(name: str) -> None:
    spec = JOB_SPEC.validate_python({**TRAIN, "recipe": name})
    said = JOB_SPEC.validate_python({**TRAIN, **RECIPES[name].settings})
    assert spec.model_copy(update={"recipe": "plain"}) == said
    assert parse_job(spec.model_dump_json()) == spec


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_how_to_train_and_nothing_else(name: str) -> None:
    assert RECIPES[name].settings.keys() <= TrainSpec.model_fields.keys() - {
        "kind",
        "dataset",
        "architecture",
        "recipe",
    }


def test_a_training_without_a_recipe_is_plain() -> None:
    assert JOB_SPEC.validate_python(TRAIN) == JOB_SPEC.validate_python({**TRAIN, "recipe": "plain"})


def test_longer_trainings_crop() -> None:
    crops = {}
    for epochs in (None, 7, 8, 20):
        body = {**TRAIN, "recipe": "fast", **({} if epochs is None else {"epochs": epochs})}
        crops[epochs] = JOB_SPEC.validate_python(body).augmentation[0].crop
    assert crops == {None: False, 7: False, 8: True, 20: True}
    with pytest.raises(ValidationError):
        JOB_SPEC.validate_python({**TRAIN, "recipe": "fast", "epochs": "many"})


def test_what_a_job_sets_wins() -> None:
    own = {"epochs": 7, "optimizer": "sgd", "augmentation": "none"}
    spec = JOB_SPEC.validate_python({**TRAIN, "recipe": "fast", **own})
    assert (spec.epochs, spec.optimizer.name, [options.name for options in spec.augmentation]) == (7, "sgd", ["none"])
    assert spec.schedule == JOB_SPEC.validate_python({**TRAIN, "recipe": "fast"}).schedule


@pytest.mark.parametrize(("recipe", "message"), [("fats", "no recipe of this name"), (3, "valid string"), (None, "")])
def test_a_recipe_that_is_none_is_refused(recipe: object, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python({**TRAIN, "recipe": recipe})
    (problem,) = field_problems(caught.value.errors(), {**TRAIN, "recipe": recipe})
    assert problem["pointer"] == "#/recipe"
    assert message in problem["message"]
    assert recipe != "fats" or "'fast'" in problem["hint"]
