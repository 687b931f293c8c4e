"""Job specs: the body of POST /v1/jobs, the job's JSON in the database, the argument of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, cast

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    TypeAdapter,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from specs.architectures import Architecture
from specs.augmentations import Augmentations
from specs.networks.base import NetworkOptions
from specs.optimizers import Optimizer
from specs.options import Name, Options, Strict
from specs.pretrained import check_pretrained, with_paper_stem
from specs.pruning import PRUNING_METHODS
from specs.recipes import RECIPES
from specs.registry import UnknownName
from specs.schedules import Schedule
from specs.splits import VALIDATION_FRACTION
from specs.training import (
    Compilation,
    EarlyStopping,
    EmaOptions,
    GradientAccumulation,
    GradientClipping,
    LossOptions,
    Precision,
)

Device = Literal["auto", "cpu", "cuda", "mps", "xpu"]
Seed = Annotated[int, Field(strict=True, ge=0, le=2**32 - 1)]
Epochs = Annotated[int, Field(strict=True, ge=1, le=10_000)]
# Fewer images do not show which values activations take.
LEAST_CALIBRATION = 16
BatchSize = Annotated[int, Field(strict=True, ge=1, le=8192)]


def _with_recipe(value: Any) -> Any:
    """The body of a job with the settings of the recipe it names, where it says nothing itself."""
    if not isinstance(value, dict) or not isinstance(value.get("recipe"), str):
        return value
    try:
        return RECIPES[value["recipe"]].fill(value)
    except UnknownName as error:
        context = {"field": "recipe", "hint": error.hint}
        raise PydanticCustomError("unknown_name", "There is no recipe of this name.", context) from None


class TrainSpec(Strict):
    """Train a network; the epoch of the best validation accuracy becomes the model."""

    kind: Literal["train"] = "train"
    name: Name | None = Field(default=None, description="Of the job and its model; a label, not an id.")
    recipe: str = Field(
        default="plain",
        max_length=100,
        description="Settings that go well together, for the fields that are not set here: GET /v1/recipes lists them.",
    )
    dataset: Name = Field(description="Id or name of a data set.", examples=["digits"])
    pretrained: str | None = Field(
        default=None,
        max_length=100,
        description="Weights to begin with, by torchvision's name, such as `IMAGENET1K_V1`. The head is made anew for "
        "the data set's classes, unless it has as many; for grey images the first convolution takes the sum of its "
        "weights for red, green and blue. Images are normalised as the weights expect. The stem `auto` is the paper's.",
    )
    architecture: Architecture = Field(description="The network: a name, or a name with options.")
    freeze: Literal["backbone"] | None = Field(
        default=None,
        description="`backbone` trains the head only: all other weights and the statistics of batch normalisation "
        "stay as they are. For pretrained weights.",
    )
    optimizer: Optimizer = Field(default="adam", validate_default=True, description="A name, or a name with options.")
    schedule: Schedule = Field(default="constant", validate_default=True, description="Of the learning rate.")
    epochs: Epochs = Field(default=20, description="Passes over the training split.")
    batch_size: BatchSize = Field(default=64, description="Images per batch; at most the training split.")
    loss: LossOptions = Field(default=LossOptions(), description="What is made small.")
    gradient_accumulation: GradientAccumulation = 1
    gradient_clipping: GradientClipping = None
    ema: EmaOptions | None = Field(default=None, description="Averages the weights; off when null.")
    augmentation: Augmentations = Field(
        default="none",
        validate_default=True,
        description="Of training images: a name, a name with options, or a list of up to four, applied in its order.",
    )
    image_size: Annotated[int, Field(strict=True, ge=8, le=512)] | None = Field(
        default=None,
        description="Side in pixels that images are resized to; by default the one that GET /v1/datasets names.",
    )
    validation_fraction: Annotated[float, Field(strict=True, ge=0.01, le=0.9, allow_inf_nan=False)] = Field(
        default=VALIDATION_FRACTION,
        description="Share of the images that are not for testing, kept to choose the best epoch.",
    )
    early_stopping: EarlyStopping | None = Field(default=None, description="Off when null.")
    keep_epochs: tuple[Epochs, ...] = Field(
        default=(),
        max_length=20,
        description="Epochs whose checkpoints stay as long as the model, for `teacher_epoch`: with the optimizer's "
        "state they take two to four times the bytes of the weights each.",
    )
    precision: Precision = "float32"
    compile: Compilation = "auto"
    seed: Seed = Field(default=0, description="Of weights, data order, augmentation and validation split.")
    device: Device = Field(default="auto", description="`auto` takes the fastest that the worker found to work.")

    @model_validator(mode="before")
    @classmethod
    def _with_the_settings_of_its_recipe(cls, value: Any) -> Any:
        return _with_recipe(value)

    @field_validator("architecture")
    @classmethod
    def _with_the_stem_of_its_weights(cls, network: NetworkOptions, info: ValidationInfo) -> Options:
        return with_paper_stem(network) if info.data.get("pretrained") is not None else network

    @model_validator(mode="after")
    def _only_epochs_that_there_are(self) -> Self:
        if any(epoch > self.epochs for epoch in self.keep_epochs):
            context = {"field": "keep_epochs", "hint": f"Name epochs from 1 to {self.epochs}."}
            raise PydanticCustomError("no_such_epoch", "The training ends before one of these epochs.", context)
        return self

    @model_validator(mode="after")
    def _only_weights_that_there_are(self) -> Self:
        if self.pretrained is not None:
            check_pretrained(self.architecture, self.pretrained)
        elif self.freeze is not None:
            context = {"field": "freeze", "hint": "Name pretrained weights, or leave out freeze."}
            raise PydanticCustomError("nothing_to_keep", "Random weights are not worth keeping.", context)
        return self


TEMPERATURE, ALPHA = 4.0, 0.9


class DistillSpec(Strict):
    """Train a network on a model's images, and on what that model, its teacher, thinks of them."""

    kind: Literal["distill"] = "distill"
    name: Name | None = Field(default=None, description="Of the job and its model; a label, not an id.")
    teacher: Name = Field(description="Id, alias or name of the model to learn from; its data set and split are used.")
    teacher_epoch: Epochs | None = Field(
        default=None,
        description="The teacher as it was after this epoch of its training, one of its `keep_epochs`: teachers that "
        "were stopped early teach better (Cho and Hariharan, arXiv 1910.01348).",
    )
    temperature: Annotated[float, Field(strict=True, ge=1, le=100, allow_inf_nan=False)] = Field(
        default=TEMPERATURE, description="Softens what both think: the higher, the more unlikely classes count."
    )
    alpha: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = Field(
        default=ALPHA, description="How much the teacher's word counts; the labels count the rest."
    )
    recipe: str = Field(
        default="plain", max_length=100, description="Settings for fields that are not set here: GET /v1/recipes."
    )
    architecture: Architecture = Field(description="The student: a name, or a name with options.")
    optimizer: Optimizer = Field(default="adam", validate_default=True, description="A name, or a name with options.")
    schedule: Schedule = Field(default="constant", validate_default=True, description="Of the learning rate.")
    epochs: Epochs = Field(default=20, description="Passes over the training split.")
    batch_size: BatchSize = Field(default=64, description="Images per batch; at most the training split.")
    loss: LossOptions = Field(default=LossOptions(), description="Of the labels.")
    gradient_accumulation: GradientAccumulation = 1
    gradient_clipping: GradientClipping = None
    ema: EmaOptions | None = Field(default=None, description="Averages the weights; off when null.")
    augmentation: Augmentations = Field(
        default="none", validate_default=True, description="Of training images, which teacher and student see alike."
    )
    early_stopping: EarlyStopping | None = Field(default=None, description="Off when null.")
    precision: Precision = "float32"
    compile: Compilation = "auto"
    seed: Seed = Field(default=0, description="Of weights, data order and augmentation; the split is the teacher's.")
    device: Device = Field(default="auto", description="`auto` takes the fastest that the worker found to work.")

    @model_validator(mode="before")
    @classmethod
    def _with_the_settings_of_its_recipe(cls, value: Any) -> Any:
        return _with_recipe(value)


class FineTune(Strict):
    """Retraining after the cut; weights that were cut stay zero."""

    rewind: bool = Field(
        default=False,
        strict=True,
        description="Retrains as the parent's job trained: by its optimizer, schedule, epochs, batch size, loss, "
        "accumulation and clipping of gradients and average of weights, which are then not set here (Renda et al.: "
        "Comparing Rewinding and Fine-tuning, arXiv 2003.02389). All weights are trained, also where the parent's "
        "backbone was frozen.",
    )
    distill: bool = Field(
        default=False,
        strict=True,
        description=f"Whether the parent teaches too, at a temperature of {TEMPERATURE:g}: what it thinks of an image "
        f"counts {ALPHA:g} and the label the rest (Hinton et al., arXiv 1503.02531).",
    )
    epochs: Epochs = Field(default=5, description="Passes over the training split of the parent's job.")
    augmentation: Augmentations | None = Field(
        default=None,
        description="Of training images; as the parent's training changed them when null, which may be too little "
        "where this training is much longer.",
    )
    batch_size: BatchSize = Field(default=64, description="Images per batch.")
    optimizer: Optimizer = Field(default="adam", validate_default=True, description="A name, or a name with options.")
    schedule: Schedule = Field(default="cosine", validate_default=True, description="Of the learning rate.")
    loss: LossOptions = Field(default=LossOptions(), description="What is made small.")
    gradient_accumulation: GradientAccumulation = 1
    gradient_clipping: GradientClipping = None
    ema: EmaOptions | None = Field(default=None, description="Averages the weights; off when null.")
    early_stopping: EarlyStopping | None = Field(default=None, description="Off when null.")
    precision: Precision = "float32"
    compile: Compilation = "auto"

    @model_validator(mode="after")
    def _nothing_beside_a_rewind(self) -> Self:
        if not self.rewind:
            return self
        plain = FineTune()
        changed = [name for name in REWOUND if getattr(self, name) != getattr(plain, name)]
        if changed:
            context = {"field": changed[0], "hint": f"Leave out {changed[0]}, or rewind."}
            raise PydanticCustomError("rewound", "With rewind this is as it was for the parent.", context)
        return self


# What a rewind takes from the parent's training.
REWOUND = (
    "optimizer",
    "schedule",
    "epochs",
    "batch_size",
    "loss",
    "gradient_accumulation",
    "gradient_clipping",
    "ema",
)


class PruneSpec(Strict):
    """Prune a trained model and retrain it; the parent model stays as it is."""

    kind: Literal["prune"] = "prune"
    name: Name | None = Field(default=None, description="Of the job and its model; a label, not an id.")
    model: Name = Field(description="Id, alias or name of the model to prune.")
    method: str = Field(default="magnitude", description="Which pruning method.")
    fine_tune: FineTune | None = Field(default=FineTune(), description="No retraining when null.")
    device: Device = Field(default="auto", description="`auto` takes the fastest that the worker found to work.")

    @model_validator(mode="after")
    def _an_epoch_for_each_round(self) -> Self:
        rounds = getattr(self, "rounds", 1)
        epochs = 0 if self.fine_tune is None else self.fine_tune.epochs
        if rounds > max(1, epochs) and not (self.fine_tune is not None and self.fine_tune.rewind):
            context = {"field": "rounds", "hint": f"Give at most {max(1, epochs)}, or more epochs to fine_tune."}
            raise PydanticCustomError("rounds", "Each round takes an epoch of retraining.", context)
        return self


def _prune_class(name: str, options: type[Strict]) -> type[PruneSpec]:
    method: Any = (Literal[name], Field(default=name))
    bases: Any = (PruneSpec, options)
    title = f"PruneBy{name.title().replace('-', '')}"
    made: Any = create_model(title, __base__=bases, __module__=__name__, method=method)
    return cast(type[PruneSpec], made)


def _known_method(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    chosen = {"method": "magnitude", **value}
    try:
        PRUNING_METHODS[chosen["method"]]
    except UnknownName as error:
        context = {"field": "method", "hint": error.hint}
        raise PydanticCustomError("unknown_name", "There is no pruning method of this name.", context) from None
    return chosen


class QuantizeSpec(Strict):
    """Store a model's weights as 8-bit integers, and compute with them; the parent model stays as it is.

    Scales of weights are a channel's own; those of activations come from training images (NNCF's post-training
    quantization). Float32 in, float32 out: a quantized model is served as any other.
    """

    kind: Literal["quantize"] = "quantize"
    name: Name | None = Field(default=None, description="Of the job and its model; a label, not an id.")
    model: Name = Field(description="Id, alias or name of the model to quantize.")
    calibration_images: Annotated[int, Field(strict=True, ge=LEAST_CALIBRATION, le=10_000)] = Field(
        default=300, description="Training images, drawn by lot, that show which values activations take."
    )
    max_drop: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=0.01,
        description="How much validation accuracy may be lost, as a share: layers that cost most stay in float32 until "
        "no more is. The job fails if that does not help. No bound when null.",
    )
    seed: Seed = Field(default=0, description="Of the choice of images.")


PRUNE_CLASSES = tuple(_prune_class(method.name, method.options) for method in PRUNING_METHODS.values())

if TYPE_CHECKING:
    JobSpec = TrainSpec | DistillSpec | PruneSpec | QuantizeSpec
else:
    _prune = Union[PRUNE_CLASSES]  # noqa: UP007 - the members are known only at run time
    if len(PRUNE_CLASSES) > 1:
        _prune = Annotated[_prune, Discriminator("method")]
    JobSpec = Annotated[
        TrainSpec | DistillSpec | QuantizeSpec | Annotated[_prune, BeforeValidator(_known_method)],
        Discriminator("kind"),
    ]

JOB_SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)


class QuoteSpec(Strict):
    """Say what a job would meet, without running it: `POST /v1/jobs?dry_run=true` asks for it."""

    kind: Literal["quote"] = "quote"
    job: JobSpec = Field(description="The job that is asked about.")


class IngestSpec(Strict):
    """Read a data set whose content has arrived. It is not asked for as a job: the data set asks for it."""

    kind: Literal["ingest"] = "ingest"
    dataset: str = Field(description="Id of the data set, which says where its content is.")


if TYPE_CHECKING:
    StoredSpec = TrainSpec | DistillSpec | PruneSpec | QuantizeSpec | QuoteSpec | IngestSpec
else:
    StoredSpec = Annotated[JobSpec | QuoteSpec | IngestSpec, Discriminator("kind")]

STORED_SPEC: TypeAdapter[StoredSpec] = TypeAdapter(StoredSpec)

# A worker runs one job of each lane at a time: what a job would meet is told, and a data set read, beside a training.
LANES: tuple[tuple[str, ...], ...] = (("train", "prune", "distill", "quantize"), ("quote",), ("ingest",))


def lane_of(kind: str) -> tuple[str, ...]:
    """The kinds of jobs that wait in one queue with this kind."""
    return next(lane for lane in LANES if kind in lane)


def parse_job(text: str) -> StoredSpec:
    """The spec written by `model_dump_json` of a job spec."""
    return STORED_SPEC.validate_json(text)
