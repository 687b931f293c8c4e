"""Models kept in memory, the least recently used dropped first, pinned ones never."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from inference.models import LoadedModel


@dataclass(frozen=True)
class CacheStats:
    """What the cache holds now, and what it did since it was made."""

    models: int
    bytes: int
    capacity_bytes: int
    loading: int
    hits: int
    misses: int
    failures: int
    evictions: int
    pinned: int


class ModelCache:
    """Loads models by id and keeps them up to a number of bytes; safe from any thread.

    `on_evict` hears of each model that leaves (dropped, replaced or evicted), on the thread that caused it.
    A model larger than the capacity is kept as the only one. Pinned models stay whatever the capacity.
    """

    def __init__(
        self,
        load: Callable[[str], LoadedModel],
        *,
        capacity_bytes: int,
        on_evict: Callable[[str, LoadedModel], None] | None = None,
    ) -> None:
        self._load = load
        self._capacity = capacity_bytes
        self._on_evict = on_evict
        self._lock = threading.Lock()
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._loads: dict[str, Future[LoadedModel]] = {}
        self._pinned: set[str] = set()
        self._bytes = self._hits = self._misses = self._failures = self._evictions = 0

    def peek(self, model_id: str) -> LoadedModel | None:
        """The model if it is there, at once; counts as a use."""
        with self._lock:
            return self._hit(model_id)

    def get(self, model_id: str) -> LoadedModel:
        """The model, loaded if need be: once, however many ask. An error of the load reaches all who wait for it."""
        with self._lock:
            model = self._hit(model_id)
            if model is not None:
                return model
            self._misses += 1
            pending = self._loads.get(model_id)
            mine: Future[LoadedModel] = Future()
            if pending is None:
                self._loads[model_id] = mine
        return self._load_for_all(model_id, mine) if pending is None else pending.result()

    def holds(self, model_id: str) -> bool:
        """Whether the model is in memory; does not count as a use."""
        with self._lock:
            return model_id in self._models

    def pin(self, model_id: str) -> None:
        """Keeps the model, once it is loaded, until it is evicted by name."""
        with self._lock:
            self._pinned.add(model_id)

    def unpin(self, model_id: str) -> None:
        """Lets the model go again when there is no room for it."""
        with self._lock:
            self._pinned.discard(model_id)

    def is_pinned(self, model_id: str) -> bool:
        """Whether the model stays whatever is loaded."""
        with self._lock:
            return model_id in self._pinned

    def evict(self, model_id: str) -> bool:
        """Forgets a model, pinned or not, and does not keep one that is being loaded; whether there was either."""
        with self._lock:
            self._pinned.discard(model_id)
            model = self._drop(model_id)
            pending = self._loads.pop(model_id, None)
        self._tell({model_id: model} if model else {})
        return model is not None or pending is not None

    def stats(self) -> CacheStats:
        """Counts, all of one moment."""
        with self._lock:
            return CacheStats(
                models=len(self._models),
                bytes=self._bytes,
                capacity_bytes=self._capacity,
                loading=len(self._loads),
                hits=self._hits,
                misses=self._misses,
                failures=self._failures,
                evictions=self._evictions,
                pinned=len(self._pinned),
            )

    def _hit(self, model_id: str) -> LoadedModel | None:
        model = self._models.get(model_id)
        if model is not None:
            self._models.move_to_end(model_id)
            self._hits += 1
        return model

    def _load_for_all(self, model_id: str, mine: Future[LoadedModel]) -> LoadedModel:
        try:
            model = self._load(model_id)
        except BaseException as error:
            with self._lock:
                self._failures += 1
                self._finish(model_id, mine)
            mine.set_exception(error)
            raise
        with self._lock:
            wanted = self._finish(model_id, mine)
            dropped = self._keep(model_id, model) if wanted else {}
        mine.set_result(model)
        self._tell(dropped)
        return model

    def _finish(self, model_id: str, mine: Future[LoadedModel]) -> bool:
        """Ends this load; False if the model was evicted meanwhile (another load of it may be under way)."""
        if self._loads.get(model_id) is not mine:
            return False
        del self._loads[model_id]
        return True

    def _keep(self, model_id: str, model: LoadedModel) -> dict[str, LoadedModel]:
        self._models[model_id] = model
        self._bytes += model.bytes
        dropped: dict[str, LoadedModel] = {}
        for oldest in [name for name in self._models if name not in self._pinned and name != model_id]:
            if self._bytes <= self._capacity:
                break
            dropped[oldest] = self._models[oldest]
            self._drop(oldest)
        return dropped

    def _drop(self, model_id: str) -> LoadedModel | None:
        model = self._models.pop(model_id, None)
        if model is not None:
            self._bytes -= model.bytes
            self._evictions += 1
        return model

    def _tell(self, dropped: dict[str, LoadedModel]) -> None:
        for model_id, model in dropped.items():
            if self._on_evict is not None:
                self._on_evict(model_id, model)
