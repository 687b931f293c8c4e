"""A job's spec with changes, for a job that is like another one but for some fields."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from specs.jobs import JOB_SPEC, REWOUND, PruneSpec
from specs.pruning import PRUNING_METHODS
from specs.recipes import RECIPES


def with_changes(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a job: this spec with these fields instead of its own; it has yet to be validated.

    An object is merged field by field, unless it names something else: another optimizer has other options. Another
    recipe, or other epochs, have whatever the recipe may fill filled anew; another method of pruning brings its own
    options, and without pretrained weights the stem is open again. Null is a value as any other.
    """
    kept = dict(spec)
    if changes.get("recipe", spec.get("recipe")) != spec.get("recipe"):
        filled = {field for recipe in RECIPES.values() for field in (*recipe.settings, *recipe.longer)}
        kept = {field: value for field, value in kept.items() if field not in filled}
    if changes.get("method", spec.get("method")) != spec.get("method"):
        kept = {field: value for field, value in kept.items() if field in {"kind", *PruneSpec.model_fields}}
    kept = _without_what_is_rewound(_without_other_targets(kept, changes), changes)
    if "epochs" in changes:
        kept = _without_what_epochs_filled(kept)
    if spec.get("pretrained") is not None and changes.get("pretrained", "") is None:
        kept = _with_any_stem(kept)
    return kept | {field: _merged(kept.get(field), value) for field, value in changes.items()}


def _without_other_targets(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """How much to cut is said in one way: another one takes the place of that which was."""
    method = PRUNING_METHODS.get(changes.get("method", spec.get("method")))
    targets = set(method.options.targets) if method is not None else set()
    if not any(changes.get(name) is not None for name in targets):
        return dict(spec)
    # Rounds are those of a share.
    others = targets if changes.get("sparsity") is not None else {*targets, "rounds"}
    return {field: value for field, value in spec.items() if field not in others}


def _without_what_is_rewound(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a rewind takes from the parent is not what stood there."""
    asked, fine_tune = changes.get("fine_tune"), spec.get("fine_tune")
    if not isinstance(asked, dict) or asked.get("rewind") is not True or not isinstance(fine_tune, dict):
        return dict(spec)
    return {**spec, "fine_tune": {field: value for field, value in fine_tune.items() if field not in REWOUND}}


def _without_what_epochs_filled(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Other epochs may have the recipe say otherwise; what stands there as it would say it is taken to be its word."""
    recipe, kept = RECIPES.get(str(spec.get("recipe"))), dict(spec)
    for field in recipe.longer if recipe is not None else ():
        bare = {name: value for name, value in kept.items() if name != field}
        with suppress(ValidationError):  # a spec of an earlier version, which will be told when it is validated
            if JOB_SPEC.validate_python(bare).model_dump(mode="json")[field] == kept.get(field):
                kept = bare
    return kept


def _with_any_stem(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The paper's stem goes with the weights that needed it."""
    network = spec.get("architecture")
    if not isinstance(network, dict) or network.get("stem") != "paper":
        return dict(spec)
    return {**spec, "architecture": {**network, "stem": "auto"}}


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    if new.get("name", old.get("name")) != old.get("name"):
        return new
    return old | {field: _merged(old.get(field), value) for field, value in new.items()}
