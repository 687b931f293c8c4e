"""From an input tensor to images as the predictor takes them.

The network reads float32 (N, C, H, W), normalised. Two other datatypes are taken under the same name: UINT8 for
pixels of any size, and BYTES for image files; they are brought to the model's size by the image rule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from formats.images import MAX_SIDE
from inference.answers import NonFiniteLogits
from inference.models import LoadedModel
from service.house import House
from service.protocol.errors import BadRequest
from service.protocol.requests import Tensor
from service.protocol.tensors import BYTES

Images = Sequence[NDArray[Any]]

NOT_FINITE = "The network's output for these values is not finite. Send values that are normalised as its config says."


async def predict_logits(house: House, model: LoadedModel, tensor: Tensor) -> NDArray[np.float32]:
    """Logits (N, classes) of the images in a tensor."""
    started = time.perf_counter()
    images = await _READERS[tensor.datatype](house, model, tensor)
    house.predictor.statistics(model.manifest.id).count_input(len(images), time.perf_counter() - started)
    try:
        return _finite(await house.predictor.logits(model, images))
    except NonFiniteLogits:
        if tensor.datatype == "FP32":  # finite values may be absurd ones, and what comes of them is the client's doing
            raise BadRequest(NOT_FINITE) from None
        raise


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(logits).all():
        raise NonFiniteLogits("The network's output is not finite.")
    return logits


async def _read_network_input(_house: House, model: LoadedModel, tensor: Tensor) -> Images:
    rule = model.manifest.preprocessing
    wanted = (rule.channels, rule.image_size, rule.image_size)
    values = cast(NDArray[np.float32], tensor.values)
    if tensor.shape[1:] != wanted:
        raise BadRequest(f"The shape of an FP32 input of this model is [N, {', '.join(map(str, wanted))}].")
    if not np.isfinite(values).all():
        raise BadRequest("The input holds NaN or infinity.")
    return list(values)


async def _read_pixels(house: House, model: LoadedModel, tensor: Tensor) -> Images:
    shape = tensor.shape
    if len(shape) != 4 or shape[3] not in {1, 3}:
        raise BadRequest("The shape of a UINT8 input is [N, height, width, channels], with 1 or 3 channels.")
    if math.prod(shape[:3]) > house.settings.max_pixels:
        raise BadRequest(f"The images of a request may have {house.settings.max_pixels:,} pixels in all.")
    if max(shape[1:3]) > MAX_SIDE:
        raise BadRequest(f"An image has at most {MAX_SIDE:,} pixels along a side. Scale it down.")
    return await house.predictor.fit(model, cast(NDArray[np.uint8], tensor.values))


async def _read_files(house: House, model: LoadedModel, tensor: Tensor) -> Images:
    return await house.predictor.decode(model, cast(list[bytes], tensor.values), "inputs", 0, "data")


_READERS: dict[str, Callable[[House, LoadedModel, Tensor], Awaitable[Images]]] = {
    "FP32": _read_network_input,
    "UINT8": _read_pixels,
    BYTES: _read_files,
}
