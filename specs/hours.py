"""Hours of the day, such as `22-7`: from ten in the evening to seven in the morning."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time
from typing import Annotated, Any

from pydantic import BeforeValidator

PATTERN = re.compile(r"(\d{1,2})(?::(\d{2}))?")


@dataclass(frozen=True)
class Span:
    """From one time of the day until another, over midnight if that is the earlier one."""

    begin: time
    end: time

    def holds(self, moment: datetime) -> bool:
        """Whether this moment is in it, by its own clock."""
        clock = moment.time()
        if self.begin < self.end:
            return self.begin <= clock < self.end
        return clock >= self.begin or clock < self.end

    def __str__(self) -> str:
        return f"{self.begin:%H:%M} to {self.end:%H:%M}"


def _parse(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    times = [_time(part.strip()) for part in value.split("-")]
    if len(times) != 2 or times[0] is None or times[1] is None or times[0] == times[1]:
        raise ValueError("These are no hours of the day. Give a beginning and an end, such as 22-7 or 22:30-6:45.")
    return Span(times[0], times[1])


def _time(text: str) -> time | None:
    found = PATTERN.fullmatch(text)
    hour, minute = (int(part or 0) for part in found.groups()) if found else (99, 0)
    # An end at 24 is the midnight that the next day begins with.
    return time(hour % 24, minute) if hour <= 24 and minute < 60 and (hour, minute) <= (24, 0) else None


Hours = Annotated[Span, BeforeValidator(_parse)]
