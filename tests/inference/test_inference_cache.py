from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from inference.cache import ModelCache
from inference.models import load_model

SECONDS = 10


class Shelf:
    """Loads copies of one small model, each of the bytes that its id says ("a:10"); can be held or made to fail."""

    def __init__(self, model) -> None:
        self.model = model
        self.loads: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.held: dict[str, threading.Event] = {}
        self.entered = threading.Semaphore(0)

    def load(self, model_id):
        self.loads[model_id] += 1
        self.entered.release()
        if model_id in self.held:
            assert self.held[model_id].wait(SECONDS)
        if model_id in self.failing:
            raise OSError(f"{model_id} is gone")
        return replace(self.model, bytes=int(model_id.split(":")[1]))


@pytest.fixture
def shelf(publish):
    return Shelf(load_model(publish().directory, threads=1))


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as made:
        yield made


def test_the_least_recently_used_goes_first(shelf):
    gone = []
    cache = ModelCache(shelf.load, capacity_bytes=30, on_evict=lambda model_id, _: gone.append(model_id))
    for model_id in ("a:10", "b:10", "c:10"):
        cache.get(model_id)
    assert cache.peek("a:10") is cache.get("a:10")
    cache.get("d:15")
    assert gone == ["b:10", "c:10"]
    assert cache.peek("b:10") is None
    assert cache.peek("a:10") is not None
    stats = cache.stats()
    assert (stats.models, stats.bytes, stats.evictions, stats.misses) == (2, 25, 2, 4)


def test_a_model_over_the_capacity_is_kept_as_the_only_one(shelf):
    cache = ModelCache(shelf.load, capacity_bytes=30)
    cache.get("a:10")
    assert cache.get("big:99").bytes == 99
    assert cache.get("big:99") is cache.peek("big:99")
    assert cache.stats().models == 1
    cache.get("a:10")
    assert (cache.stats().models, cache.stats().bytes) == (1, 10)


def test_a_model_is_loaded_once_however_many_ask(shelf, pool):
    cache = ModelCache(shelf.load, capacity_bytes=30)
    shelf.held["a:10"] = threading.Event()
    asked = [pool.submit(cache.get, "a:10") for _ in range(10)]
    assert shelf.entered.acquire(timeout=SECONDS)
    shelf.held["a:10"].set()
    assert len({id(each.result(SECONDS)) for each in asked}) == 1
    assert shelf.loads == {"a:10": 1}


def test_a_load_holds_up_no_other_model(shelf, pool):
    cache = ModelCache(shelf.load, capacity_bytes=100)
    cache.get("ready:10")
    shelf.held["slow:10"] = threading.Event()
    slow = pool.submit(cache.get, "slow:10")
    assert shelf.entered.acquire(timeout=SECONDS)
    assert pool.submit(cache.get, "ready:10").result(SECONDS) is cache.peek("ready:10")
    assert pool.submit(cache.get, "other:10").result(SECONDS).bytes == 10
    assert cache.peek("slow:10") is None
    assert cache.stats().loading == 1
    shelf.held["slow:10"].set()
    assert slow.result(SECONDS).bytes == 10
    assert cache.stats().loading == 0


def test_a_failure_reaches_all_who_wait_and_is_not_remembered(shelf, pool):
    cache = ModelCache(shelf.load, capacity_bytes=30)
    shelf.failing.add("a:10")
    shelf.held["a:10"] = threading.Event()
    asked = [pool.submit(cache.get, "a:10") for _ in range(5)]
    while cache.stats().misses < 5:
        pass
    shelf.held["a:10"].set()
    assert all("is gone" in str(each.exception(SECONDS)) for each in asked)
    assert (shelf.loads["a:10"], cache.stats().failures) == (1, 1)
    shelf.failing.clear()
    assert cache.get("a:10").bytes == 10


def test_evicting(shelf):
    gone = []
    cache = ModelCache(shelf.load, capacity_bytes=30, on_evict=lambda _, model: gone.append(model))
    model = cache.get("a:10")
    assert cache.evict("a:10")
    assert not cache.evict("a:10")
    assert gone == [model]
    assert cache.stats().bytes == 0
    assert cache.get("a:10") is not model


def test_a_model_evicted_while_it_loads_is_not_kept(shelf, pool):
    cache = ModelCache(shelf.load, capacity_bytes=30)
    hold = shelf.held["a:10"] = threading.Event()
    asked = pool.submit(cache.get, "a:10")
    assert shelf.entered.acquire(timeout=SECONDS)
    assert cache.evict("a:10")
    hold.set()
    assert asked.result(SECONDS).bytes == 10
    assert cache.peek("a:10") is None
    assert cache.get("a:10") is cache.peek("a:10")


def test_counts_hold_under_many_threads(shelf, pool):
    cache = ModelCache(shelf.load, capacity_bytes=35)
    ids = [f"{name}:{size}" for name, size in zip("abcdef", (5, 10, 15, 20, 25, 50), strict=True)]

    def work(number):
        for step in range(200):
            model_id = ids[(number * 7 + step * step) % len(ids)]
            assert cache.get(model_id).bytes == int(model_id.split(":")[1])
            if step % 17 == number:
                cache.evict(model_id)

    for each in [pool.submit(work, number) for number in range(8)]:
        each.result(SECONDS)
    kept = [model for model in map(cache.peek, ids) if model is not None]
    assert cache.stats().bytes == sum(model.bytes for model in kept)
    assert cache.stats().bytes <= 35 or len(kept) == 1
