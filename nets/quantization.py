"""Int8 networks: integer weights with a scale for each channel, activations with scales from calibration images.

NNCF's post-training quantization (Kozlov et al.: Neural Network Compression Framework, arXiv 2002.08679) of a
network's ONNX model. Whoever calls this has to switch off NNCF's telemetry first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import nncf
import numpy as np
import onnx
import torch
from nncf.quantization.advanced_parameters import (
    AdvancedAccuracyRestorerParameters,
    AdvancedQuantizationParameters,
    OverflowFix,
)
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxscript.optimizer import optimize
from torch import Tensor, nn

from nets.answers import DIGITS, Answers, Ask, answers_of
from nets.batches import normalised
from nets.datasets import Dataset, Split
from nets.errors import AccuracyLost
from nets.export import INPUT_NAME, silence
from nets.layers import Layer
from nets.seeds import derived_seed
from specs.jobs import QuantizeSpec

# Weights of integers, by the name that NNCF gives what it made of one.
PREFIX, SUFFIX = "q_output_", "_1"
# Each layer given back to float32 is one more model to time and compare: after so many the rest is not worth it.
MOST_RESTORED = 20
# What an activation's scale has to hold: the mean of the images' largest values, or the largest of all. Which is better
# differs from network to network, so both are tried. Weights take half of their range: without VNNI the products of
# whole ones saturate, and a network of linear layers was found to be off by a fifth of its largest logit.
WAYS = tuple(
    AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE, activations_range_estimator_params=held)
    for held in (RangeEstimatorParametersSet.MEAN_MINMAX, RangeEstimatorParametersSet.MINMAX)
)

Compile = Callable[[bytes], Ask]


@dataclass(frozen=True)
class Quantized:
    """An ONNX model of integers, how its activations got their scales, and what it answers to the validation images.

    `before` is the accuracy of the float32 model on those.
    """

    model: onnx.ModelProto
    how: AdvancedQuantizationParameters
    validation: Answers
    before: float

    @property
    def drop(self) -> float:
        """The validation accuracy that it lost."""
        return round(self.before - self.validation.accuracy, DIGITS)


def quantize(
    graph: bytes, data: Dataset, options: QuantizeSpec, *, compile_graph: Compile, told: Callable[[int], None]
) -> Quantized:
    """A serialized ONNX model of float32 in int8, for images of this data set; layers that cost too much stay.

    `compile_graph` makes a function of images (N, C, H, W) to logits (N, classes) of a serialized ONNX model: accuracy
    is that of the runtime. `told` hears how many images calibration has seen. Raises AccuracyLost if `max_drop` does
    not hold with any layers.
    """
    # Convolutions take in their normalisation first, or it would be quantized by itself.
    plain = optimize(onnx.load_from_string(graph))
    images = _Images(data.train, _calibration(data, options), data, told)
    judge = _Judge(data, compile_graph)
    before = judge.answers(plain).accuracy

    def judged(model: onnx.ModelProto, how: AdvancedQuantizationParameters) -> Quantized:
        return Quantized(model, how, judge.answers(model), before)

    tried = [judged(_with_integers(plain, images, how), how) for how in WAYS]
    best = min(tried, key=lambda each: each.validation.loss)
    if options.max_drop is None or best.drop <= options.max_drop:
        return best
    bound = options.max_drop + 10**-DIGITS  # NNCF does not round
    found = judged(_with_accuracy_control(plain, images, judge, bound, best.how), best.how)
    if not _integers(found.model):  # all layers are back in float32, and nothing is lost or gained
        raise AccuracyLost(options.max_drop, best.drop)
    if found.drop > options.max_drop:
        raise AccuracyLost(options.max_drop, min(found.drop, best.drop))
    return found


def integer_layers(network: nn.Module, model: onnx.ModelProto) -> dict[str, float]:
    """The layers of the network whose weights the model has as integers, and the share of zeros among them."""
    tensors = _integers(model)
    found = {}
    for name, module in network.named_modules():
        tensor = tensors.get(f"{PREFIX}{name}.weight{SUFFIX}") if isinstance(module, Layer) else None
        if tensor is not None:
            array = numpy_helper.to_array(tensor)
            found[name] = 1 - int(np.count_nonzero(array)) / array.size
    return found


def _integers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The weights of a model that are integers, by its names for them."""
    return {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and tensor.name.startswith(PREFIX)
    }


@dataclass(frozen=True)
class _Images:
    """Images of a split by their numbers, made as they are asked for: as float32 all at once may be gigabytes."""

    split: Split
    numbers: Sequence[int]
    data: Dataset
    told: Callable[[int], None] | None = None

    def dataset(self) -> nncf.Dataset:
        """As NNCF wants them: places in `numbers`, and what a network is fed for each."""
        return nncf.Dataset(range(len(self.numbers)), self._feed)

    def _feed(self, place: int) -> dict[str, NDArray[np.float32]]:
        if self.told is not None:
            self.told(place + 1)
        return {INPUT_NAME: self[place].contiguous().numpy()}

    def __getitem__(self, place: int) -> Tensor:
        """One image, normalised, (1, C, H, W)."""
        return normalised(self.split.images(torch.tensor([self.numbers[place]])), self.data, torch.device("cpu"))


def _calibration(data: Dataset, options: QuantizeSpec) -> list[int]:
    """Numbers of training images, drawn by lot without looking at their labels."""
    lot = torch.Generator().manual_seed(derived_seed("calibration", options.seed))
    chosen: list[int] = torch.randperm(len(data.train), generator=lot)[: options.calibration_images].tolist()
    return chosen


def _with_integers(plain: onnx.ModelProto, images: _Images, how: AdvancedQuantizationParameters) -> onnx.ModelProto:
    with silence():
        model: onnx.ModelProto = nncf.quantize(
            plain, images.dataset(), subset_size=len(images.numbers), advanced_parameters=how
        )
    return model


def _with_accuracy_control(
    plain: onnx.ModelProto, images: _Images, judge: _Judge, max_drop: float, how: AdvancedQuantizationParameters
) -> onnx.ModelProto:
    """Layers go back to float32 one by one, those first whose integers change the most answers."""
    with silence():
        controlled: onnx.ModelProto = nncf.quantize_with_accuracy_control(
            plain,
            images.dataset(),
            judge.images.dataset(),
            validation_fn=judge.validate,
            max_drop=max_drop,
            subset_size=len(images.numbers),
            advanced_quantization_parameters=how,
            advanced_accuracy_restorer_parameters=AdvancedAccuracyRestorerParameters(
                max_num_iterations=MOST_RESTORED, num_ranking_workers=1
            ),
        )
    return controlled


@dataclass(frozen=True)
class _Judge:
    """How often a model is right on the validation images, as it is served."""

    data: Dataset
    compile_graph: Compile

    def answers(self, model: onnx.ModelProto) -> Answers:
        return answers_of(self.compile_graph(model.SerializeToString()), self.data.validation, self.data)

    @property
    def images(self) -> _Images:
        """The validation images."""
        split = self.data.validation
        return _Images(split, range(len(split)), self.data)

    def validate(self, model: onnx.ModelProto, places: Iterable[int]) -> tuple[float, list[float]]:
        """The accuracy on the validation images of these numbers, and for each 1 if it is right, else 0."""
        ask, images, labels = self.compile_graph(model.SerializeToString()), self.images, self.data.validation.labels
        right = [float(int(ask(images[place]).argmax()) == int(labels[place])) for place in places]
        return sum(right) / len(right), right
