"""Explanations of predictions, in threads of their own, and the networks that give them."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from formats.images import BadImage, decode_original
from inference.batching import QueueFull
from inference.explaining import ActivationMaps, CannotExplain, Explanation, explain_by_occlusion, load_activation_maps
from inference.models import LoadedModel
from inference.runtimes import Network
from service.heatmap import USUAL_SIDE, heat_picture
from service.problems import SOME_FIELDS, BadFields, ImageProblem
from service.uploads import Upload
from specs.settings import Settings
from store import models
from store.artifacts import Artifacts
from store.database import Database

Method = Literal["auto", "cam", "occlusion"]

# One at a time, so that predictions wait for one at most.
RUNNERS = 1
# An explanation takes up to some seconds: whoever comes after so many is asked to come again.
MOST_WAITING = 32
RETRY_SECONDS = 5.0
# Maps of fewer places along a side tell little: where nothing else is asked for, the image is covered instead.
LEAST_PLACES = 3
# The room for networks that are kept, as a share of that for the predictor's, which is apart; and their number.
CAPACITY_SHARE = 0.25
MOST_KEPT = 256


@dataclass(frozen=True)
class Question:
    """What is asked of one image: the number of a class (None is the most probable), how, and what is to be drawn."""

    index: int | None
    method: Method
    size: int | None
    overlay: bool


class Explainer:
    """Explains predictions of all models of one data folder. Its coroutines belong to one event loop.

    `in_turn` makes of a network one that runs while no other does: all take the same cores.
    """

    def __init__(
        self, settings: Settings, database: Database, artifacts: Artifacts, in_turn: Callable[[Network], Network]
    ) -> None:
        self._settings = settings
        self._database = database
        self._artifacts = artifacts
        self._in_turn = in_turn
        self._capacity = CAPACITY_SHARE * settings.model_cache_bytes
        self._kept: OrderedDict[str, ActivationMaps | CannotExplain] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._waiting = 0
        self._runners = ThreadPoolExecutor(RUNNERS, "explain")

    async def draw(
        self, model: LoadedModel, pixels: NDArray[np.uint8], upload: Upload, question: Question
    ) -> tuple[Explanation, bytes]:
        """The explanation of one image, and a PNG of it; QueueFull if too many wait.

        `pixels` is the image as the model wants it, `upload` as it came.
        """
        if self._waiting >= MOST_WAITING:
            raise QueueFull(self._waiting, RETRY_SECONDS)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._runners, self._draw, model, pixels, upload, question)
        finally:
            self._waiting -= 1

    def forget(self, model_id: str) -> None:
        """Drops the network of a model that was deleted."""
        with self._lock:
            self._kept.pop(model_id, None)

    def close(self) -> None:
        """Takes no more work."""
        self._runners.shutdown(wait=False, cancel_futures=True)

    def _draw(
        self, model: LoadedModel, pixels: NDArray[np.uint8], upload: Upload, question: Question
    ) -> tuple[Explanation, bytes]:
        image = self._original(upload, question.size or USUAL_SIDE)
        explanation = self._explain(model, pixels, question)
        return explanation, heat_picture(explanation.heat, image, size=question.size, overlay=question.overlay)

    def _explain(self, model: LoadedModel, pixels: NDArray[np.uint8], question: Question) -> Explanation:
        maps = None if question.method == "occlusion" else self._maps(model)
        if isinstance(maps, ActivationMaps) and (question.method == "cam" or maps.side >= LEAST_PLACES):
            return replace(maps, network=self._in_turn(maps.network)).explain(pixels, question.index)
        if question.method == "cam":
            hint = "Take the method occlusion, or auto, which takes cam where there is one."
            raise BadFields(SOME_FIELDS, [{"pointer": "query:method", "message": str(maps), "hint": hint}])
        return explain_by_occlusion(replace(model, network=self._in_turn(model.network)), pixels, question.index)

    def _original(self, upload: Upload, side: int) -> NDArray[np.uint8]:
        if upload.pixels is not None:
            pixels: NDArray[np.uint8] = upload.pixels[0]
            return pixels
        try:
            return decode_original(upload.files[0], max_pixels=self._settings.max_pixels, least_side=side)
        except BadImage as error:
            raise ImageProblem(error, *upload.path, *([0] if upload.path else [])) from error

    def _maps(self, model: LoadedModel) -> ActivationMaps | CannotExplain:
        """The model's network with maps, or why there is none; loaded by one thread at a time."""
        model_id = model.manifest.id
        known = self._known(model_id)
        if known is not None:
            return known
        with self._loading:
            return self._known(model_id) or self._load(model)

    def _known(self, model_id: str) -> ActivationMaps | CannotExplain | None:
        with self._lock:
            if model_id in self._kept:
                self._kept.move_to_end(model_id)
            return self._kept.get(model_id)

    def _load(self, model: LoadedModel) -> ActivationMaps | CannotExplain:
        model_id = model.manifest.id
        found: ActivationMaps | CannotExplain
        try:
            found = load_activation_maps(
                self._artifacts.model(model_id), runtime=model.runtime, threads=self._settings.inference_threads
            )
        except CannotExplain as why:
            found = CannotExplain(str(why))  # its own would keep what it was raised from
        finally:
            self._check_it_is_there(model_id)
        self._keep(model_id, found)
        return found

    def _check_it_is_there(self, model_id: str) -> None:
        """Raises NotFound for a model that has been deleted, whose files may have gone while they were read."""
        with self._database.read() as session:
            models.find_model(session, model_id)

    def _keep(self, model_id: str, found: ActivationMaps | CannotExplain) -> None:
        with self._lock:
            self._kept[model_id] = found
            while len(self._kept) > 1 and (len(self._kept) > MOST_KEPT or self._bytes() > self._capacity):
                self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(each.bytes for each in self._kept.values() if isinstance(each, ActivationMaps))
