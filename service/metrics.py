"""The figures of this process for Prometheus: requests, models, the cache, jobs.

Figures are counted where things happen, in plain numbers that belong to the thread of the event loop. A scrape copies
them there, which takes little, and another thread turns the copy into text, which takes longer. Nothing is global:
each app has its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog
from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from starlette.concurrency import run_in_threadpool

from inference.cache import CacheStats
from inference.histograms import Histogram
from inference.statistics import ModelStatistics
from service.house import House
from service.observation import Traffic
from store.queue import count_jobs

# Prometheus gives a scrape ten seconds; the other series must not be lost for those of the database.
DATABASE_SECONDS: Final = 3.0
Labelled = Mapping[tuple[str, ...], Histogram]

log = structlog.get_logger()


@dataclass(frozen=True)
class Model:
    """The figures of one model, as they were when they were copied."""

    waiting: int
    outcomes: Mapping[str, int]
    images: int
    executions: int
    batch_sizes: Histogram
    stages: Mapping[str, Histogram]

    @classmethod
    def of(cls, figures: ModelStatistics, *, waiting: int) -> Model:
        """A copy of a model's figures, which does not change any more."""
        return cls(
            waiting,
            {"success": figures.success.count, "failure": figures.fail.count},
            figures.inference_count,
            figures.execution_count,
            figures.batch_sizes.copy(),
            {stage: histogram.copy() for stage, histogram in figures.histograms.items()},
        )


@dataclass(frozen=True)
class Queue:
    """What the database knows: how many jobs there are in each status, and how many workers live."""

    jobs: Mapping[str, int]
    workers: int


@dataclass(frozen=True)
class Snapshot:
    """All figures of one moment, for another thread to read; `queue` is None when the database could not tell."""

    traffic: Traffic
    models: Mapping[str, Model]
    cache: CacheStats
    queue: Queue | None
    scrape_errors: int
    process: ProcessCollector

    def collect(self) -> Iterator[Metric]:
        """The series, as a Prometheus registry gives them."""
        yield from _of_traffic(self.traffic)
        yield from _of_models(self.models)
        yield from _of_stages(self.models)
        yield from _of_cache(self.cache)
        yield from _of_queue(self.queue) if self.queue is not None else ()
        yield _counter("scrape_errors", "Scrapes without the series of the database.", self.scrape_errors)
        yield from self.process.collect()


class Metrics:
    """All figures of one app. Its coroutine belongs to the event loop of the app."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self._scrape_errors = 0
        self._process = ProcessCollector(registry=None)
        self._reading: asyncio.Task[Queue | None] | None = None

    async def scrape(self, house: House) -> bytes:
        """The text of all series."""
        queue = await self._queue(house)
        self._scrape_errors += queue is None
        waiting = house.predictor.waiting()
        figures = house.predictor.statistics_of_all()
        snapshot = Snapshot(
            self.traffic.copy(),
            {name: Model.of(model, waiting=waiting.get(name, 0)) for name, model in figures.items()},
            house.predictor.cache_stats(),
            queue,
            self._scrape_errors,
            self._process,
        )
        return await run_in_threadpool(generate_latest, snapshot)

    async def _queue(self, house: House) -> Queue | None:
        """None if the database cannot tell, or not in time; one that hangs holds one thread, however many ask."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(run_in_threadpool(_read_queue, house))
        await asyncio.wait({self._reading}, timeout=DATABASE_SECONDS)
        return self._reading.result() if self._reading.done() else None


def _read_queue(house: House) -> Queue | None:
    try:
        with house.database.read() as session:
            jobs = count_jobs(session)
        return Queue(jobs, len(house.watch.alive()))
    except Exception as error:  # whatever is wrong with the database, the other series are worth having
        log.warning("a scrape goes without the figures of the database", kind=type(error).__name__)
        return None


def _of_traffic(traffic: Traffic) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "pruneyard_http_requests", "Requests by the status of the answer.", labels=("method", "route", "status")
    )
    for (method, route, status), count in traffic.answers.items():
        answers.add_metric((method, route, str(status)), count)
    yield answers
    yield _histograms("http_request_duration_seconds", "From a request to the end of its answer.", traffic.seconds)
    yield _gauge("http_requests_in_progress", "Requests that are not answered yet.", traffic.in_progress)


def _of_models(models: Mapping[str, Model]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily("pruneyard_model_queue_length", "Images that wait for a batch.", labels=("model",))
    outcomes = CounterMetricFamily(
        "pruneyard_model_requests", "Requests for predictions by how they ended.", labels=("model", "outcome")
    )
    images = CounterMetricFamily("pruneyard_model_images", "Images that were predicted.", labels=("model",))
    runs = CounterMetricFamily("pruneyard_model_executions", "Batches that were run.", labels=("model",))
    for name, model in models.items():
        waiting.add_metric((name,), model.waiting)
        images.add_metric((name,), model.images)
        runs.add_metric((name,), model.executions)
        for outcome, count in model.outcomes.items():
            outcomes.add_metric((name, outcome), count)
    yield from (waiting, outcomes, images, runs)


def _of_stages(models: Mapping[str, Model]) -> Iterator[Metric]:
    sizes: Labelled = {(name,): model.batch_sizes for name, model in models.items()}
    yield _histograms("model_batch_size", "Images in a batch.", sizes, labels=("model",))
    stages: Labelled = {
        (name, stage): seconds for name, model in models.items() for stage, seconds in model.stages.items()
    }
    yield _histograms("model_stage_duration_seconds", "Time in a stage.", stages, labels=("model", "stage"))


def _of_cache(cache: CacheStats) -> Iterator[Metric]:
    yield _gauge("model_cache_models", "Models that are loaded.", cache.models)
    yield _gauge("model_cache_bytes", "Bytes of the models that are loaded.", cache.bytes)
    yield _gauge("model_cache_capacity_bytes", "Bytes of models above which the oldest go.", cache.capacity_bytes)
    yield _gauge("model_cache_pinned", "Models that stay whatever else is loaded.", cache.pinned)
    yield _gauge("model_cache_loading", "Models that are being loaded.", cache.loading)
    yield _counter("model_cache_hits", "Uses of a model that was loaded.", cache.hits)
    yield _counter("model_cache_misses", "Loads of a model that was not there.", cache.misses)
    yield _counter("model_cache_evictions", "Models that were unloaded.", cache.evictions)
    yield _counter("model_cache_failures", "Models that could not be loaded.", cache.failures)


def _of_queue(queue: Queue) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("pruneyard_jobs", "Jobs by status.", labels=("status",))
    for status, count in queue.jobs.items():
        jobs.add_metric((status,), count)
    yield jobs
    yield _gauge("workers_alive", "Workers that are not dead.", queue.workers)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"pruneyard_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"pruneyard_{name}", text, value=value)


def _histograms(
    name: str,
    text: str,
    histograms: Labelled,
    *,
    labels: tuple[str, ...] = ("method", "route"),
) -> Metric:
    family = HistogramMetricFamily(f"pruneyard_{name}", text, labels=labels)
    for values, histogram in histograms.items():
        buckets = [("+Inf" if bound == inf else str(bound), count) for bound, count in histogram.cumulative()]
        family.add_metric(values, buckets, histogram.sum)
    return family
