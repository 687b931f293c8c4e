"""From image files to predictions: reference -> model -> pixels -> logits -> probabilities.

The hot path touches no database: a reference (id, alias or name) is looked up at most once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from formats.images import BadImage, count_pixels, decode_image, resize_pixels
from inference.answers import Answer, top_answers
from inference.batching import Batcher
from inference.cache import ModelCache
from inference.models import LoadedModel, load_model
from service.problems import ImageProblem, NotReady
from specs.settings import Settings
from store import models, queue
from store.artifacts import Artifacts
from store.database import Database
from store.errors import NotFound

REFERENCE_SECONDS = 1.0
MAX_REFERENCES = 10_000
DECODERS = 2
QUICK_BYTES = 32 * 1024
QUICK_PIXELS = 128 * 128
RUNNERS = 2
LOADERS = 2

R = TypeVar("R")


class Prediction(Answer):
    """The most probable class of one image, and all that were asked for."""

    top: list[Answer]


class Predictor:
    """Serves predictions of all models of one data folder. Its coroutines belong to one event loop."""

    def __init__(self, settings: Settings, database: Database, artifacts: Artifacts) -> None:
        self._settings = settings
        self._database = database
        self._artifacts = artifacts
        self._cache = ModelCache(self._load, capacity_bytes=settings.model_cache_bytes)
        self._batchers: dict[str, Batcher] = {}
        self._references: dict[str, tuple[str, float]] = {}
        self._asking = 0
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self._runners = ThreadPoolExecutor(RUNNERS, "predict")
        self._loaders = ThreadPoolExecutor(LOADERS, "load")

    async def model(self, reference: str) -> LoadedModel:
        """The model behind an id, alias or name, loaded; NotFound, or NotReady while its job runs."""
        known, until = self._references.get(reference, ("", 0.0))
        if time.monotonic() > until:
            known = await self._in(self._loaders, self._look_up, reference)
            if len(self._references) >= MAX_REFERENCES:
                self._references.clear()
            self._references[reference] = (known, time.monotonic() + REFERENCE_SECONDS)
        loaded = self._cache.peek(known)
        return await self._in(self._loaders, self._cache.get, known) if loaded is None else loaded

    async def decode(self, model: LoadedModel, files: Sequence[bytes], *path: str | int) -> list[NDArray[np.uint8]]:
        """The pixels of image files as the model wants them; ImageProblem names the first that is bad."""
        if self._is_quick(files):
            return self._decode(model, files, path)
        return await self._in(self._decoders, self._decode, model, files, path)

    async def fit(self, model: LoadedModel, pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Raw pixels (N, H, W, C) brought to the size and channels that the model wants, by the image rule."""
        return await self._in(self._decoders, self._fit, model, pixels)

    async def predict(self, model: LoadedModel, images: Sequence[NDArray[np.uint8]], *, top_k: int) -> list[Prediction]:
        """The `top_k` most probable classes of each image."""
        self._asking += 1
        try:
            await asyncio.sleep(0)  # whoever came at the same time has been counted when this goes on
            logits = await self._logits(model, images)
        finally:
            self._asking -= 1
        return [_prediction(top_answers(row, model.manifest.classes, top_k=top_k)) for row in logits]

    async def _logits(self, model: LoadedModel, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        model_id = model.manifest.id
        batcher = self._batcher(model_id)
        alone = self._asking == 1 and self._cache.peek(model_id) is model
        now = batcher.predict_now(images) if alone else None
        return await batcher.predict_many(images) if now is None else now

    async def forget(self, model_id: str) -> None:
        """Unloads a model that was deleted, and every reference to it."""
        self._references = {ref: entry for ref, entry in self._references.items() if entry[0] != model_id}
        self._cache.evict(model_id)
        batcher = self._batchers.pop(model_id, None)
        if batcher is not None:
            await batcher.close()

    def forget_references(self) -> None:
        """Looks every reference up again: an alias has moved."""
        self._references.clear()

    async def close(self) -> None:
        """Ends all threads; whoever still waits for an answer is told so."""
        for batcher in self._batchers.values():
            await batcher.close()
        for pool in (self._decoders, self._runners, self._loaders):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    def _look_up(self, reference: str) -> str:
        with self._database.read() as session:
            try:
                return models.find_model(session, reference).id
            except NotFound:
                job = queue.find_job_named(session, reference)
                if job is None or job.status == "succeeded":
                    raise
                raise NotReady(_why_not(job.id, job.status)) from None

    def _load(self, model_id: str) -> LoadedModel:
        with self._database.read() as session:
            latency = models.find_model(session, model_id).latency or {}
        return load_model(
            self._artifacts.model(model_id), runtime=latency.get("runtime"), threads=self._settings.inference_threads
        )

    def _is_quick(self, files: Sequence[bytes]) -> bool:
        """Whether decoding takes less than handing it to a thread would: a single small image."""
        if len(files) != 1 or len(files[0]) > QUICK_BYTES:
            return False
        try:
            return count_pixels(files[0], max_pixels=self._settings.max_pixels) <= QUICK_PIXELS
        except BadImage:
            return True

    def _decode(self, model: LoadedModel, files: Sequence[bytes], path: Sequence[str | int]) -> list[NDArray[np.uint8]]:
        pixels = []
        if len(files) > 1:
            self._check_total(files, path)
        for number, data in enumerate(files):
            try:
                shape = model.manifest.preprocessing.shape
                pixels.append(decode_image(data, shape, max_pixels=self._settings.max_pixels))
            except BadImage as error:
                raise ImageProblem(error, *path, *([number] if path else [])) from error
        return pixels

    def _check_total(self, files: Sequence[bytes], path: Sequence[str | int]) -> None:
        """Refuses a request whose images have more pixels together than one may have, before any is decoded."""
        total = 0
        for number, data in enumerate(files):
            with contextlib.suppress(BadImage):  # told when its turn to be decoded comes
                total += count_pixels(data, max_pixels=self._settings.max_pixels)
            if total > self._settings.max_pixels:
                message = f"The images of a request may have {self._settings.max_pixels:,} pixels in all."
                raise ImageProblem(
                    BadImage("too_large", message, "Send fewer at once, or smaller ones."), *path, number
                )

    def _fit(self, model: LoadedModel, pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        shape = model.manifest.preprocessing.shape
        if pixels.shape[1:] == (shape.size, shape.size, shape.channels):
            return list(pixels)
        return [resize_pixels(image.squeeze(-1) if image.shape[-1] == 1 else image, shape) for image in pixels]

    def _batcher(self, model_id: str) -> Batcher:
        batcher = self._batchers.get(model_id)
        if batcher is None:
            # By id, not by object: a model that the cache drops is not kept alive by its batcher.
            batcher = Batcher(
                lambda pixels: self._cache.get(model_id).predict(pixels),
                max_queued=self._settings.max_queued_images,
                executor=self._runners,
            )
            self._batchers[model_id] = batcher
        return batcher


def _prediction(top: list[Answer]) -> Prediction:
    return Prediction(**top[0], top=top)


def _why_not(job_id: str, status: str) -> str:
    if status in {"failed", "cancelled"}:
        return f"There is no model: its job {job_id} has {status}."
    return f"The model is not ready: its job {job_id} is {status}. Ask again when it has succeeded."
