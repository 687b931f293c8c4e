"""When trainings wait for the sake of whoever uses the machine otherwise: on its battery, and at other hours."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psutil

from specs.settings import Settings

LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Hold:
    """Why no training starts, and a running one steps aside: a word for programs, a sentence without its stop."""

    reason: str
    why: str

    def told(self) -> dict[str, str]:
        """As it stands in the worker's row."""
        return {"reason": self.reason, "message": f"{self.why}."}


class Manners:
    """What the settings ask for in this respect; by default nothing. It belongs to one thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        battery: Callable[[], Any] | None = None,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._settings = settings
        # psutil has it only where the system tells of batteries.
        self._battery: Callable[[], Any] = getattr(psutil, "sensors_battery", _none) if battery is None else battery
        self._clock = clock
        self._looked_at = float("-inf")
        self._found: Hold | None = None

    def hold(self) -> Hold | None:
        """Why trainings wait now, as it was at most some seconds ago; None if they do not."""
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at, self._found = time.monotonic(), self.look()
        return self._found

    def look(self) -> Hold | None:
        """The same of this moment."""
        hours = self._settings.training_hours
        if hours is not None and not hours.holds(self._clock()):
            return Hold("outside_hours", f"Trainings run from {hours} only (PRUNEYARD_TRAINING_HOURS)")
        return self._look_at_battery()

    def _look_at_battery(self) -> Hold | None:
        least = 101 if not self._settings.training_on_battery else self._settings.training_battery_percent
        # Nobody looks where nothing depends on it; where there is no battery, or it is not known, nothing waits.
        battery = self._charge() if least else None
        if battery is None or battery.power_plugged is not False or battery.percent >= least:
            return None
        return Hold("on_battery", f"The machine runs on its battery, at {battery.percent:.0f} percent")

    def _charge(self) -> Any:
        try:
            return self._battery()
        except Exception:  # what drivers tell is of many kinds; nobody's training is to end for it
            return None


def _none() -> None:
    return None
