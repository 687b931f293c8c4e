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
from specs.problems import field_problems
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
    assert getattr(short, field).name == name
    assert parse_job(short.model_dump_json()) == short


@pytest.mark.parametrize(("field", "name"), NAMES)
def test_every_option_has_a_default_and_numbers_have_bounds(field: str, name: str) -> None:
    schema = CHOICES[field][name].options.model_json_schema()
    for option, rule in schema["properties"].items():
        assert "default" in rule, option
        if rule.get("type") in {"number", "integer"}:
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
    with pytest.raises(UnknownName, match="Known: mlp"):
        ARCHITECTURES["../../etc"]
    assert "resnet81" not in ARCHITECTURES


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "localhost.example.org", "", "127.1"])
def test_hosts_that_others_may_reach(host: str) -> None:
    assert not is_loopback(host)


def test_bad_settings_are_told_without_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEYARD_API_KEY", "  ")
    with pytest.raises(BadSettings, match="blank"):
        load_settings()
    monkeypatch.setenv("PRUNEYARD_API_KEY", "s3cr3t")
    monkeypatch.setenv("PRUNEYARD_PORT", "s3cr3t-port")
    with pytest.raises(BadSettings, match="PRUNEYARD_PORT") as caught:
        load_settings()
    assert "s3cr3t" not in str(caught.value)
