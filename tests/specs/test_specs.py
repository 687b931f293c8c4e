"""Job specs: short forms, bounds, defaults, and errors that name the field and the fix."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from specs.architectures import ARCHITECTURES
from specs.augmentations import AUGMENTATIONS
from specs.jobs import JOB_SPEC, parse_job
from specs.optimizers import OPTIMIZERS
from specs.options import Entry, Options
from specs.problems import FieldProblem, field_problems
from specs.registry import Registry, UnknownName
from specs.schedules import SCHEDULES
from specs.settings import BadSettings, is_loopback, load_settings

TRAIN: dict[str, Any] = {"kind": "train", "dataset": "digits", "architecture": "mlp"}
CHOICES: dict[str, Registry[Entry]] = {
    "architecture": ARCHITECTURES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
}
NAMES = [(field, name) for field, registry in CHOICES.items() for name in registry]


@pytest.mark.parametrize(("field", "name"), NAMES)
def test_a_bare_name_stands_for_its_defaults(field: str, name: str) -> None:
    short = JOB_SPEC.validate_python({**TRAIN, field: name})
    full = JOB_SPEC.validate_python({**TRAIN, field: {"name": name}})
    assert short == full
    chosen = getattr(short, field)
    (one,) = chosen if isinstance(chosen, tuple) else (chosen,)
    assert one.name == name
    assert parse_job(short.model_dump_json()) == short


@pytest.mark.parametrize(("field", "name"), NAMES)
def test_every_option_has_a_default_and_numbers_have_bounds(field: str, name: str) -> None:
    schema = CHOICES[field][name].options.model_json_schema()
    for option, rule in schema["properties"].items():
        assert "default" in rule, option
        if rule.get("type") in {"number", "integer"} and "enum" not in rule:
            assert rule.keys() & {"minimum", "exclusiveMinimum"}, option
            assert rule.keys() & {"maximum", "exclusiveMaximum"}, option


@pytest.mark.parametrize(("field", "name"), NAMES)
def test_a_misspelt_name_is_answered_with_the_right_one(field: str, name: str) -> None:
    wrong = name[:-1] + "_" if len(name) > 3 else name + "q"
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python({**TRAIN, field: wrong})
    (problem,) = field_problems(caught.value.errors(), {**TRAIN, field: wrong})
    assert problem["pointer"] == f"#/{field}"
    assert "Known:" in problem["hint"]


def problem_of(augmentation: Any) -> FieldProblem:
    with pytest.raises(ValidationError) as caught:
        JOB_SPEC.validate_python({**TRAIN, "augmentation": augmentation})
    (problem,) = field_problems(caught.value.errors(), {**TRAIN, "augmentation": augmentation})
    return problem


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_list_of_one_augmentation_is_that_augmentation(name: str) -> None:
    one = JOB_SPEC.validate_python({**TRAIN, "augmentation": name})
    assert JOB_SPEC.validate_python({**TRAIN, "augmentation": [name]}) == one
    assert JOB_SPEC.validate_python({**TRAIN, "augmentation": [{"name": name}]}) == one


def test_augmentations_keep_the_order_they_are_named_in() -> None:
    named = ["crop-flip", {"name": "randaugment", "magnitude": 5}, "erase", "mixup"]
    spec = JOB_SPEC.validate_python({**TRAIN, "augmentation": named})
    assert [options.name for options in spec.augmentation] == ["crop-flip", "randaugment", "erase", "mixup"]
    assert spec.augmentation[1].magnitude == 5
    assert parse_job(spec.model_dump_json()) == spec


@pytest.mark.parametrize("text", ['"none"', '{"name": "none"}', '{"name": "shift", "pixels": 1}'])
def test_specs_stored_before_there_were_lists_are_read(text: str) -> None:
    stored = f'{{"kind": "train", "dataset": "digits", "architecture": "mlp", "augmentation": {text}}}'
    (options,) = parse_job(stored).augmentation
    assert options.name in text


@pytest.mark.parametrize(
    ("augmentation", "pointer", "message"),
    [
        (["mixup", "flip"], "#/augmentation", "cutmix and mixup"),
        (["mixup", "cutmix"], "#/augmentation", "cutmix and mixup"),
        (["flip", "erase", "flip"], "#/augmentation", "named twice"),
        ([], "#/augmentation", "at least 1"),
        (["none", "flip", "shift", "erase", "crop-flip"], "#/augmentation", "at most 4"),
        (["flip", "flop"], "#/augmentation/1", "no augmentation of this name"),
        (["flip", {"name": "flop"}], "#/augmentation/1/name", "no augmentation of this name"),
        (["flip", {"name": "shift", "pixels": 0}], "#/augmentation/1/pixels", "greater than or equal to 1"),
        ({"name": "shift", "pixels": 0}, "#/augmentation/pixels", "greater than or equal to 1"),
        (["flip", {"p": 1.0}], "#/augmentation/1/name", "missing"),
        (["flip", 7], "#/augmentation/1", "object"),
        (7, "#/augmentation", "object"),
        (None, "#/augmentation", "object"),
    ],
)
def test_lists_of_augmentations_that_make_no_sense_are_refused(augmentation: Any, pointer: str, message: str) -> None:
    problem = problem_of(augmentation)
    assert problem["pointer"] == pointer
    assert message in problem["message"]
    assert problem["hint"]


def test_the_schema_has_the_short_forms_and_the_list() -> None:
    schema = JOB_SPEC.json_schema()
    field = schema["$defs"]["TrainSpec"]["properties"]["augmentation"]
    kinds = [form.get("type", "one") for form in field["anyOf"]]
    (many,) = (form for form in field["anyOf"] if form.get("type") == "array")
    assert sorted(kinds) == ["array", "one", "string"]
    assert (many["minItems"], many["maxItems"]) == (1, 4)
    assert field["default"] == "none"


def test_a_spec_is_a_value() -> None:
    spec = JOB_SPEC.validate_python(TRAIN)
    with pytest.raises(ValidationError):
        spec.epochs = 3  # type: ignore[misc]
    assert hash(spec.optimizer) == hash(JOB_SPEC.validate_python(TRAIN).optimizer)


def test_two_entries_of_one_name_are_an_error() -> None:
    entry = Entry("a", "A", Options, "x:y")
    with pytest.raises(ValueError, match="'a'"):
        Registry("thing", [entry, entry])


def test_a_registry_offers_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="'mobilenet_v2'"):
        ARCHITECTURES["mobilenet_v3"]
    with pytest.raises(UnknownName, match=r"Known: .*mlp"):
        ARCHITECTURES["../../etc"]
    assert "resnet81" not in ARCHITECTURES


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "localhost.example.org", "", "127.1"])
def test_hosts_that_others_may_reach(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("name", ["PRUNEYARD_INGEST_SECONDS", "PRUNEYARD_SHUTDOWN_GRACE_SECONDS"])
def test_seconds_that_no_clock_counts_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("inf", "1e300", "nan", "0"):
        monkeypatch.setenv(name, value)
        with pytest.raises(BadSettings, match=name):
            load_settings()


def test_an_address_may_have_the_brackets_of_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_HOST", "[::1]")
    assert load_settings().host == "::1"


def test_bad_settings_are_told_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_API_KEY", "  ")
    with pytest.raises(BadSettings, match="blank"):
        load_settings()
    monkeypatch.setenv("PRUNEYARD_API_KEY", "s3cr3t")
    monkeypatch.setenv("PRUNEYARD_PORT", "s3cr3t-port")
    with pytest.raises(BadSettings, match="PRUNEYARD_PORT") as caught:
        load_settings()
    assert "s3cr3t" not in str(caught.value)
