"""How to train beside network, data, optimizer and schedule: loss, gradients, averages, when to stop, precision."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError, PydanticKnownError

from specs.options import Fraction, NonNegative, Positive, Strict


class EarlyStopping(Strict):
    """Stop when validation loss has not fallen for `patience` epochs."""

    patience: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(
        default=2, description="Epochs to wait for a better one."
    )
    min_delta: NonNegative = Field(
        default=0.0, description="By how much validation loss must fall below its lowest to count as better."
    )


def _form(value: Any) -> str:
    """Whether class weights are given by a word or a list, so that an error speaks of what was meant."""
    return "word" if isinstance(value, str) else "list"


def _only_word(value: Any) -> Any:
    if value != "balanced":
        context = {"hint": "Give 'balanced', or a list of a positive number for each class."}
        raise PydanticCustomError("class_weights", "There are no class weights of this name.", context)
    return value


def _of_two_classes(weights: tuple[float, ...]) -> tuple[float, ...]:
    if len(weights) < 2:
        # Pydantic's own check counts what is left after bad items are gone, and would tell of them twice.
        raise PydanticKnownError("too_short", {"field_type": "List", "min_length": 2, "actual_length": len(weights)})
    return weights


_Word = Annotated[Literal["balanced"], BeforeValidator(_only_word), Tag("word")]
# Below, the weights of a batch may add up to nothing in float32, by which its loss is divided.
_Weight = Annotated[float, Field(strict=True, ge=1e-6, le=1e6, allow_inf_nan=False)]
_List = Annotated[
    tuple[_Weight, ...],
    Field(max_length=100_000, json_schema_extra={"minItems": 2}),
    AfterValidator(_of_two_classes),
    Tag("list"),
]
ClassWeights = Annotated[_Word | _List, Discriminator(_form)]


class LossOptions(Strict):
    """Cross-entropy; an image counts as much as the class of its label, smoothed or not.

    The validation loss stays plain, so that jobs can be compared by it.
    """

    label_smoothing: Fraction = Field(
        default=0.0,
        description="Share of each target that is spread evenly over all classes (Szegedy et al., arXiv 1512.00567, "
        "section 7).",
    )
    class_weights: ClassWeights | None = Field(
        default=None,
        description="How much each class counts: a number for each, in the order of the data set's classes, or "
        "`balanced` for the number of training images over the number of classes times those of the class.",
    )


class EmaOptions(Strict):
    """An exponential moving average of the weights, taken after each step. It is validated and becomes the model."""

    decay: Annotated[float, Field(strict=True, gt=0, lt=1, allow_inf_nan=False)] = Field(
        default=0.999,
        description="Share of the average that a step keeps: 0.99 for short trainings, 0.9999 for long ones. After t "
        "steps it is (1 + t) / (10 + t) at most, so that the first weights are soon forgotten. The running statistics "
        "of batch normalisation are averaged in the same way.",
    )


Compilation = Annotated[
    Literal["auto", "off"],
    Field(
        description="`auto` tries torch.compile on the processor where a training has a quarter of an hour or more to "
        "go after its first steps, keeps it if it is faster, and says so in the job's events. A compiled training ends "
        "with slightly other weights than one that is not; `off` always ends with the same."
    ),
]
GradientClipping = Annotated[
    Positive | None,
    Field(description="Largest norm of all gradients together; larger ones are scaled down to it. Off when null."),
]
GradientAccumulation = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=1024,
        description="Batches whose gradients make one step, as one batch of so many times the size would: only batch "
        "normalisation still sees the batches one by one. Schedules and the average count steps. The last step of an "
        "epoch takes the batches that are left.",
    ),
]
Precision = Annotated[
    Literal["float32", "bfloat16", "auto"],
    Field(
        description="Of the arithmetic of training; weights and evaluation stay float32. `bfloat16` is refused where "
        "the device has no instructions for it (a processor: AVX512-BF16, AMX), being many times slower there; `auto` "
        "takes float32 then. Residual networks gain most, those of depthwise convolutions little or nothing."
    ),
]
