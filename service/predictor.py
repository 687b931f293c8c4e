"""From image files to predictions: reference -> model -> pixels -> logits -> probabilities.

The hot path touches no database: a reference (id, alias or name) is looked up beside it, at most twice a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from formats.files import DamagedFiles
from formats.images import BadImage, ImageShape, count_pixels, decode_image, decode_small, resize_pixels
from inference.answers import AnswerRule, Prediction, answers
from inference.batching import Batcher
from inference.cache import CacheStats, ModelCache
from inference.models import GoldenMismatch, LoadedModel
from inference.runtimes import CannotRun
from inference.statistics import ModelStatistics
from service.problems import ImageProblem
from service.references import References
from service.turns import Turns
from specs.settings import Settings
from store.database import Database
from store.errors import NotFound

DECODERS = 2
QUICK_BYTES = 32 * 1024
QUICK_PIXELS = 128 * 128
QUICK_VALUES = 64 * 64 * 3
QUICK_ANSWERS = 2000
LOADERS = 2

# Chunks of a PNG that Pillow unpacks as it opens it, to a megabyte each.
PACKED = (b"zTXt", b"iTXt", b"iCCP")

# What a model ends in that is deleted while it is asked, or read.
GONE = (NotFound, DamagedFiles)
# What cannot be served although it is there.
BROKEN = (DamagedFiles, GoldenMismatch, CannotRun)

R = TypeVar("R")


class Predictor:
    """Serves predictions of all models of one data folder. Its coroutines belong to one event loop."""

    def __init__(self, settings: Settings, database: Database, load: Callable[[str], LoadedModel]) -> None:
        self._settings = settings
        self._cache = ModelCache(load, capacity_bytes=settings.model_cache_bytes, on_evict=self._evicted)
        self._batchers: dict[tuple[str, bool], tuple[LoadedModel, Batcher]] = {}
        self._statistics: dict[str, ModelStatistics] = {}
        self._broken: dict[str, str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asking = 0
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self.turns = Turns()
        self._loaders = ThreadPoolExecutor(LOADERS, "load")
        self._loads: dict[str, asyncio.Task[LoadedModel]] = {}
        self._on_load: list[Callable[[str], object]] = []
        # Apart from loads, which take seconds: requests for models that are there wait for what a reference means.
        self._lookups = ThreadPoolExecutor(1, "look up")
        self._references = References(database, self._lookups)

    async def model(self, reference: str) -> LoadedModel:
        """The model behind an id, alias or name, loaded; NotFound, or NotReady while its job runs."""
        return await self.follow(reference, self.loaded)

    async def follow(self, reference: str, ask: Callable[[str], Awaitable[R]]) -> R:
        """What is asked of the model, by its id, that a reference means.

        If it goes meanwhile the reference is looked up once more: it may be deleted, or its alias have moved.
        """
        model_id = await self.resolve(reference)
        try:
            return await ask(model_id)
        except GONE:
            now = await self.resolve(reference, anew=True)
            if now == model_id:
                raise
            return await ask(now)

    async def loaded(self, model_id: str) -> LoadedModel:
        """The model of an id, which was resolved before."""
        model = self._cache.peek(model_id)
        # Not broken off with the request that asked first: others wait for the same.
        return await asyncio.shield(self._loading(model_id)) if model is None else model

    async def resolve(self, reference: str, *, anew: bool = False) -> str:
        """The id behind an id, alias or name; `anew` as the database has it now."""
        return await self._references.find(reference, anew=anew)

    async def decode(self, model: LoadedModel, files: Sequence[bytes], *path: str | int) -> list[NDArray[np.uint8]]:
        """The pixels of image files as the model wants them; ImageProblem names the first that is bad."""
        pixels = self._decode_now(model, files, path)
        return await self._in(self._decoders, self._decode, model, files, path) if pixels is None else pixels

    async def fit(self, model: LoadedModel, pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Raw pixels (N, H, W, C) brought to the size and channels that the model wants, by the image rule."""
        shape = model.manifest.preprocessing.shape
        if pixels.shape[1:] == (shape.size, shape.size, shape.channels):
            return list(pixels)
        return await self._in(self._decoders, _resized, pixels, shape)

    async def predict(
        self, model: LoadedModel, images: Sequence[NDArray[np.uint8]], rule: AnswerRule
    ) -> list[Prediction]:
        """What the rule tells of each image."""
        logits = await self.logits(model, images)
        started = time.perf_counter()
        told = min(rule.top_k, logits.shape[1]) if rule.coverage is None else logits.shape[1]
        if len(logits) * told <= QUICK_ANSWERS:
            found = answers(logits, model.manifest, rule)
        else:
            found = await self._in(self._decoders, answers, logits, model.manifest, rule)
        self.statistics(model.manifest.id).count_output(len(found), time.perf_counter() - started)
        return found

    async def logits(self, model: LoadedModel, images: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        """Logits (N, classes) of images that are all pixels, uint8 (H, W, C), or all what the network itself reads,
        float32 (C, H, W).
        """
        self._asking += 1
        try:
            await asyncio.sleep(0)  # whoever came at the same time has been counted when this goes on
            return await self._rows(model, images)
        finally:
            self._asking -= 1

    async def _rows(self, model: LoadedModel, images: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
        if images[0].dtype == np.uint8 and len(images) * images[0].size <= QUICK_VALUES:
            # Here it takes microseconds; there, between other threads' turns, as long as the network of small images.
            images = list(model.normalise(np.stack(list(images))))
        batcher = self._batcher(model, pixels=images[0].dtype == np.uint8)
        alone = self._asking == 1 and model.prompt
        now = self.turns.at_once(partial(batcher.predict_now, images)) if alone else None
        return await batcher.predict_many(images) if now is None else now

    async def load(self, reference: str, *, pin: bool = False) -> LoadedModel:
        """Has a model in memory, and its network run once; pinned, it stays until it is unloaded."""
        model = await self.model(reference)
        return await self._pinned(model.manifest.id) if pin else model

    async def _pinned(self, model_id: str) -> LoadedModel:
        self._cache.pin(model_id)
        try:
            # What left the memory while it was being loaded is loaded again, and stays.
            return await self.model(model_id)
        except BaseException:
            if not self._cache.holds(model_id):  # it was deleted meanwhile
                self._cache.unpin(model_id)
            raise

    def on_load(self, told: Callable[[str], object]) -> None:
        """`told` hears of each model that comes into memory, on the event loop."""
        self._on_load.append(told)

    def unload(self, model_id: str) -> bool:
        """Drops a model from memory; requests that are under way end on it. Whether it was there."""
        self._loads.pop(model_id, None)  # who comes from now on does not wait for what is not kept
        return self._cache.evict(model_id)

    def is_loaded(self, model_id: str) -> bool:
        """Whether the next request need not load it."""
        return self._cache.holds(model_id)

    def why_broken(self, model_id: str) -> str | None:
        """Why a model cannot be served, as its last load found; None if it can, or was not loaded yet."""
        return self._broken.get(model_id)

    def is_pinned(self, model_id: str) -> bool:
        """Whether it stays in memory whatever else is loaded."""
        return self._cache.is_pinned(model_id)

    def statistics(self, model_id: str) -> ModelStatistics:
        """What happened to the requests of a model since it was first asked for."""
        found = self._statistics.get(model_id)
        if found is None:
            found = ModelStatistics()
            if self._cache.holds(model_id):  # one that was deleted while it answered is not remembered for that
                self._statistics[model_id] = found
        return found

    def statistics_of_all(self) -> dict[str, ModelStatistics]:
        """The same of all models that were asked for and not deleted."""
        return dict(self._statistics)

    def waiting(self) -> dict[str, int]:
        """Images that wait for their batch, by model."""
        found: dict[str, int] = {}
        for (model_id, _), (_, batcher) in self._batchers.items():
            found[model_id] = found.get(model_id, 0) + batcher.waiting
        return found

    def cache_stats(self) -> CacheStats:
        """What the cache of models holds and did."""
        return self._cache.stats()

    def forget(self, model_id: str) -> None:
        """Unloads a model that was deleted, with every reference to it and what was counted of it."""
        self._references.forget(model_id)
        self.unload(model_id)
        self._statistics.pop(model_id, None)
        self._broken.pop(model_id, None)

    async def reload(self, model_id: str) -> None:
        """Loads a model anew if it is loaded: it is served elsewhere now. What is under way ends where it began."""
        pinned = self._cache.is_pinned(model_id)
        if self.unload(model_id):
            await self.load(model_id, pin=pinned)

    def forget_references(self) -> None:
        """Looks every reference up again: an alias has moved."""
        self._references.forget()

    async def close(self) -> None:
        """Ends all threads; whoever still waits for an answer is told so."""
        for _, batcher in list(self._batchers.values()):
            await batcher.close()
        self.turns.close()
        for pool in (self._decoders, self._loaders, self._lookups):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    def _loading(self, model_id: str) -> asyncio.Task[LoadedModel]:
        """One load for all who wait for a model: they hold no thread meanwhile, which others' loads need."""
        known = self._loads.get(model_id)
        if known is not None:
            return known
        task = asyncio.get_running_loop().create_task(self._in(self._loaders, self._cache.get, model_id))
        self._loads[model_id] = task
        task.add_done_callback(lambda done: self._load_ended(model_id, done))
        return task

    def _load_ended(self, model_id: str, task: asyncio.Task[LoadedModel]) -> None:
        error = None if task.cancelled() else task.exception()  # looked at: whoever waited for it may be gone
        if self._loads.get(model_id) is task:
            del self._loads[model_id]
            self._broken.pop(model_id, None)
            if isinstance(error, BROKEN):
                self._broken[model_id] = str(error)
            for told in self._on_load if error is None and not task.cancelled() else ():
                told(model_id)

    def _evicted(self, model_id: str, model: LoadedModel) -> None:
        """From whatever thread dropped the model: its batchers go too, when whoever waits in them has been served."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._drop_batchers, model_id, model)

    def _drop_batchers(self, model_id: str, model: LoadedModel) -> None:
        for pixels in (True, False):
            if self._batchers.get((model_id, pixels), (None,))[0] is model:
                del self._batchers[model_id, pixels]

    def _batcher(self, model: LoadedModel, *, pixels: bool) -> Batcher:
        model_id = model.manifest.id
        known = self._batchers.get((model_id, pixels))
        if known is not None and known[0] is model:
            return known[1]
        self._loop = asyncio.get_running_loop()
        batcher = Batcher(
            self.turns.alone(model.predict if pixels else model.network),
            max_queued=self._settings.max_queued_images,
            executor=self.turns.executor,
            statistics=self.statistics(model_id),
        )
        if self._cache.peek(model_id) is model:  # one that the cache has dropped is used up by this request
            self._batchers[model_id, pixels] = (model, batcher)
        return batcher

    def _decode_now(
        self, model: LoadedModel, files: Sequence[bytes], path: Sequence[str | int]
    ) -> list[NDArray[np.uint8]] | None:
        """A single small image, whose decoding takes less than handing it to a thread would; None of all else."""
        if len(files) != 1 or len(files[0]) > QUICK_BYTES or any(packed in files[0] for packed in PACKED):
            return None
        shape = model.manifest.preprocessing.shape
        try:
            pixels = decode_small(files[0], shape, at_most=QUICK_PIXELS, max_pixels=self._settings.max_pixels)
        except BadImage as error:
            raise ImageProblem(error, *path, *([0] if path else [])) from error
        return None if pixels is None else [pixels]

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


def _resized(pixels: NDArray[np.uint8], shape: ImageShape) -> list[NDArray[np.uint8]]:
    return [resize_pixels(image.squeeze(-1) if image.shape[-1] == 1 else image, shape) for image in pixels]
