"""Where models are served: as their figures say, or as their user wants it; and what becomes known of faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

import structlog

from inference.choices import asked_of, matching, on_cpu_of, placement_of, runtimes_of
from inference.devices import CPU, DEVICES, Device
from inference.gpu import DeviceFault, Graphics, load_placed
from inference.kernel_cache import KernelCache
from inference.latency import Latency
from inference.measuring import fastest, measure_at
from inference.models import GoldenMismatch, LoadedModel
from inference.placements import Placement
from inference.runtimes import RUNTIMES, CannotRun
from inference.trial import TrialFailed
from service.problems import BadField
from specs.registry import UnknownName
from specs.settings import Settings
from store import models
from store.artifacts import Artifacts
from store.database import Database
from store.errors import StoreError

# How many of the newest models say which runtimes will be wanted.
LOOKED_AT = 200

log = structlog.get_logger()


@dataclass(frozen=True)
class Choice:
    """Where a model is to be served: what was asked for, what fits it best, and what that takes; None: as measured."""

    asked: Mapping[str, str]
    best: tuple[Placement, Latency] | None


class Placing:
    """Loads models where they are to be served, and finds out where they can be."""

    def __init__(self, settings: Settings, database: Database, artifacts: Artifacts, graphics: Device) -> None:
        self._threads = settings.inference_threads
        self._database = database
        self._artifacts = artifacts
        self._kernels = KernelCache(artifacts.kernels(), capacity_bytes=settings.kernel_cache_bytes)
        self._graphics = Graphics(graphics, kernels=self._kernels, told=self._tell) if settings.device_probe else None
        # One model is tried out at a time, however many ask.
        self.turn = asyncio.Lock()

    def load(self, model_id: str) -> LoadedModel:
        """The model, from disk; raises as `inference.models.load_model` does, or NotFound."""
        with self._database.read() as session:
            figures = models.find_model(session, model_id).latency
        return load_placed(
            self._artifacts.model(model_id),
            placement_of(figures),
            threads=self._threads,
            kernels=self._kernels,
            graphics=self._graphics,
            on_cpu=on_cpu_of(figures),
        )

    def choose(self, model_id: str, changes: Mapping[str, str]) -> Choice:
        """Tries a model in each way that a user's wish leaves open; BadField says why there is none."""
        with self._database.read() as session:
            asked = asked_of(models.find_model(session, model_id).latency, changes)
        if not asked:
            return Choice(asked, None)
        found: dict[Placement, Latency] = {}
        reasons: list[str] = []
        for placement in _candidates(asked):
            try:
                found[placement] = measure_at(
                    self._artifacts.model(model_id),
                    placement,
                    threads=self._threads,
                    kernels=self._kernels,
                    graphics=self._graphics,
                )
            except (CannotRun, GoldenMismatch, TrialFailed) as error:
                reasons.append(str(error))
        if not found:
            raise _refused(asked, reasons[0])
        best = fastest(found)
        return Choice(asked, (best, found[best]))

    def preload(self) -> None:
        """Loads, in a thread of its own, the code of the runtimes that the newest models are served in."""
        threading.Thread(target=self._preload, name="preload", daemon=True).start()

    def _preload(self) -> None:
        with suppress(StoreError, CannotRun, UnknownName):
            with self._database.read() as session:
                rows = models.list_models(session, limit=LOOKED_AT)
                wanted = {name for row in rows for name in runtimes_of(row.latency)}
            for name in sorted(wanted):
                RUNTIMES[name].preload()

    def _tell(self, fault: DeviceFault) -> None:
        data = {**asdict(fault.placement), "reason": fault.reason, "until_restart": fault.lasting}
        log.error("device failed; the CPU answers", model=fault.model, **data)
        # Whoever met the fault has an answer to give, and does not wait for the database.
        threading.Thread(target=self._record, args=(fault.model, data), name="fault", daemon=True).start()

    def _record(self, model_id: str, data: dict[str, object]) -> None:
        with suppress(StoreError), self._database.write() as session:
            models.record_fault(session, model_id, data)


def _candidates(asked: Mapping[str, str]) -> list[Placement]:
    """The ways that are as asked for, the safest first."""
    found = matching(asked, [CPU, *(device for device in DEVICES.values() if device is not CPU)])
    if not found:
        title, able = RUNTIMES[asked["runtime"]].title, RUNTIMES[asked["runtime"]].devices
        raise BadField(
            "device", message=f"{title} does not run there.", hint=f"It runs on: {', '.join(able)}. Or name openvino."
        )
    return found


def _refused(asked: Mapping[str, str], reason: str) -> BadField:
    field = "device" if asked.get("device", CPU.name) != CPU.name or "runtime" not in asked else "runtime"
    hint = "Nothing was changed. `auto` serves the model in the way that was measured to be the fastest."
    return BadField(field, message=f"The model cannot be served so: {reason}.", hint=hint)
